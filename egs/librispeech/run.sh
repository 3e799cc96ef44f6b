#!/usr/bin/env bash
# LibriSpeech: English audio books, up to 1,000 h and 2,484 speakers (https://www.openslr.org/12).
#
#     bash egs/librispeech/run.sh --corpus LibriSpeech                      # the training subsets that are there
#     bash egs/librispeech/run.sh --corpus LibriSpeech --prepare-args "--subsets train-clean-100" --ngpu 4
#     bash egs/librispeech/run.sh --download                                # fetches train-clean-100 first, 6.4 GB, once
#     bash egs/librispeech/run.sh --download --prepare-args "--subsets train-clean-100 train-clean-360"
#     bash egs/librispeech/run.sh --corpus LibriSpeech --mel-spec sqvae16k  # the features of the paper
#     bash egs/librispeech/run.sh --help
#
# dev and test are of the training speakers, whose voices the decoder has. To score on others:
#     --prepare-args "--test subsets --subsets train-clean-100 test-clean" --target-speaker 198
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/librispeech/run.sh"
exec bash "$here/../../recipes/speech.sh" \
    --recipe-dir "$here" \
    --corpus-name librispeech \
    --config "$here/conf/train.yaml" \
    --mel-spec melgan22k \
    "$@"
