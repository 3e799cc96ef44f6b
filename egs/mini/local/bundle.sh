#!/usr/bin/env bash
# The tokenizer that comes with the project, from a run of this recipe: what torch.hub loads with pretrained=True.
#
#     bash egs/mini/local/bundle.sh                      # of egs/mini/exp/train_sqvae16k
#     bash egs/mini/local/bundle.sh EXP_DIR [OUTPUT_DIR]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
exp_dir=${1:-$root/egs/mini/exp/train_sqvae16k}
output=${2:-$root/sqvae_speech/pretrained/mini}

cd "$root"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" python -m sqvae_speech.bin.export \
    --model "$exp_dir" \
    --output "$output" \
    --format bundle \
    --name sqvae_speech/pretrained/mini \
    --licence apache-2.0 \
    --data "the mini corpus: sentences by the project, spoken by ten synthetic voices of espeak-ng (egs/mini)"
