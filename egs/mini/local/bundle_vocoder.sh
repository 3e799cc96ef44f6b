#!/usr/bin/env bash
# The vocoder that comes with the project, from stage 8 of this recipe: what --vocoder istft and torch.hub load.
#
#     bash egs/mini/local/bundle_vocoder.sh              # of egs/mini/exp/vocoder_sqvae16k
#     bash egs/mini/local/bundle_vocoder.sh VOCODER_DIR [OUTPUT_DIR]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
vocoder_dir=${1:-$root/egs/mini/exp/vocoder_sqvae16k}
output=${2:-$root/sqvae_speech/pretrained/vocoder_mini}

cd "$root"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" python -m sqvae_speech.bin.export \
    --model "$vocoder_dir" \
    --output "$output" \
    --format bundle \
    --weights float16 \
    --name sqvae_speech/pretrained/vocoder_mini \
    --licence apache-2.0 \
    --data "the mini corpus: sentences by the project, spoken by ten synthetic voices of espeak-ng (egs/mini)"
