#!/usr/bin/env bash
# The text-to-units model that comes with the project, from stage 9 of this recipe: what `sqvae-speech speak` takes. Its
# units are those of the tokenizer that comes along (bundle.sh), so both have to be of one experiment.
#
#     bash egs/mini/local/bundle_text_to_units.sh              # of egs/mini/exp/train_sqvae16k/text_to_units
#     bash egs/mini/local/bundle_text_to_units.sh MODEL_DIR [OUTPUT_DIR]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
model_dir=${1:-$root/egs/mini/exp/train_sqvae16k/text_to_units}
output=${2:-$root/sqvae_speech/pretrained/text_to_units_mini}

cd "$root"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" python -m sqvae_speech.bin.export \
    --model "$model_dir" \
    --output "$output" \
    --format bundle \
    --weights float16 \
    --name sqvae_speech/pretrained/text_to_units_mini \
    --licence apache-2.0 \
    --data "the mini corpus: sentences by the project, spoken by ten synthetic voices of espeak-ng (egs/mini)"
