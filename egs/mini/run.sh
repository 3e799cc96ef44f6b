#!/usr/bin/env bash
# The embedded corpus: ten synthetic voices with phone alignment, spoken by espeak-ng. Nothing to get but packages.
#
#     bash egs/mini/run.sh                               # everything, on a CPU in some minutes
#     bash egs/mini/run.sh --stage 2 --training.num_steps 200
#     bash egs/mini/run.sh --help
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/mini/run.sh"
exec bash "$here/../../recipes/speech.sh" \
    --recipe-dir "$here" \
    --corpus-name mini \
    --make-corpus "$here/local/make_corpus.py" \
    --config "$here/conf/train.yaml" \
    --mel-spec sqvae16k \
    --lm-config conf/unit_lm.yaml \
    --tts-config conf/text_to_units.yaml \
    --vocoder-config conf/vocoder.yaml \
    "$@"
