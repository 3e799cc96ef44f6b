#!/usr/bin/env bash
# Kaldi data directories that are there: train/, dev/ and test/ in one folder, or a single one, which is divided.
#
#     bash egs/kaldi/run.sh --corpus data
#     bash egs/kaldi/run.sh --help
#
# The results lie here; for more than one corpus, give each its own with --work-dir.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/kaldi/run.sh"
exec bash "$here/../../recipes/speech.sh" \
    --recipe-dir "$here" \
    --corpus-name kaldi \
    --config "$here/conf/train.yaml" \
    --mel-spec melgan22k \
    "$@"
