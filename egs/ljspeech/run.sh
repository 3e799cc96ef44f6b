#!/usr/bin/env bash
# LJ Speech: one English speaker, 24 h (https://keithito.com/LJ-Speech-Dataset/).
#
#     bash egs/ljspeech/run.sh --corpus LJSpeech-1.1
#     bash egs/ljspeech/run.sh --download             # fetches 2.7 GB first, once
#     bash egs/ljspeech/run.sh --help
#
# With one speaker there is nobody to convert to: stage 5 resynthesizes recordings from their units.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/ljspeech/run.sh"
exec bash "$here/../../recipes/speech.sh" \
    --recipe-dir "$here" \
    --corpus-name ljspeech \
    --config "$here/conf/train.yaml" \
    --mel-spec melgan22k \
    --target-speaker LJ \
    "$@"
