#!/usr/bin/env bash
# ZeroSpeech 2019, English: 100 speakers and two voices, without transcripts (https://zerospeech.com; arXiv 1904.11469).
#
#     bash egs/zerospeech2019/run.sh --corpus 2019
#     bash egs/zerospeech2019/run.sh --download     # fetches 2.5 GB first, once
#     bash egs/zerospeech2019/run.sh --corpus 2019 --prepare-args "--test challenge" --target-speaker V002
#     bash egs/zerospeech2019/run.sh --help
#
# The features are those of the paper, and so is the test set: the voices' parallel recordings.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/zerospeech2019/run.sh"
exec bash "$here/../../recipes/speech.sh" \
    --recipe-dir "$here" \
    --corpus-name zerospeech2019 \
    --config "$here/conf/train.yaml" \
    --mel-spec sqvae16k \
    "$@"
