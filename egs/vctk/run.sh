#!/usr/bin/env bash
# VCTK: 109 English speakers, 44 h (https://datashare.ed.ac.uk/handle/10283/3443; 0.92, or the older wav48 layout).
#
#     bash egs/vctk/run.sh --corpus VCTK-Corpus-0.92
#     bash egs/vctk/run.sh --download                 # fetches 11.7 GB first, once
#     bash egs/vctk/run.sh --corpus VCTK-Corpus-0.92 --ngpu 4
#     bash egs/vctk/run.sh --corpus VCTK-Corpus-0.92 --prepare-args "--mic mic2"
#     bash egs/vctk/run.sh --corpus VCTK-Corpus-0.92 --mel-spec sqvae16k    # the features of the paper
#     bash egs/vctk/run.sh --help
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/vctk/run.sh"
exec bash "$here/../../recipes/speech.sh" \
    --recipe-dir "$here" \
    --corpus-name vctk \
    --config "$here/conf/train.yaml" \
    --mel-spec melgan22k \
    "$@"
