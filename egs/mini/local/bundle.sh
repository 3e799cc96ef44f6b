#!/usr/bin/env bash
# The models that come with the project, from a run of this recipe: what torch.hub loads with pretrained=True, what
# --vocoder istft and `sqvae-speech speak` take. The text-to-units model speaks the tokenizer's units: both have to be of
# one experiment.
#
#     bash egs/mini/local/bundle.sh tokenizer            # of egs/mini/exp/train_sqvae16k, stage 2
#     bash egs/mini/local/bundle.sh vocoder              # of egs/mini/exp/vocoder_sqvae16k, stage 8
#     bash egs/mini/local/bundle.sh text_to_units        # of egs/mini/exp/train_sqvae16k/text_to_units, stage 9
#     bash egs/mini/local/bundle.sh WHICH MODEL_DIR [OUTPUT_DIR]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
exp=$root/egs/mini/exp
weights=(--weights float16)
case ${1:-} in
    tokenizer) name=mini model_dir=$exp/train_sqvae16k weights=() ;; # whose units must not depend on rounding
    vocoder) name=vocoder_mini model_dir=$exp/vocoder_sqvae16k ;;
    text_to_units) name=text_to_units_mini model_dir=$exp/train_sqvae16k/text_to_units ;;
    *)
        echo "error: which model? tokenizer, vocoder or text_to_units, not '${1:-}'" >&2
        exit 2
        ;;
esac
model_dir=${2:-$model_dir}
output=${3:-$root/sqvae_speech/pretrained/$name}

cd "$root"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" python -m sqvae_speech.bin.export \
    --model "$model_dir" \
    --output "$output" \
    --format bundle \
    "${weights[@]+"${weights[@]}"}" \
    --name "sqvae_speech/pretrained/$name" \
    --licence apache-2.0 \
    --data "the mini corpus: sentences by the project, spoken by ten synthetic voices of espeak-ng (egs/mini)"
