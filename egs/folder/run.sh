#!/usr/bin/env bash
# Any folder of recordings; by default a recording's folder is its speaker.
#
#     bash egs/folder/run.sh --corpus recordings
#     bash egs/folder/run.sh --corpus recordings --prepare-args "--speaker ^([^_]+)_ --text-suffix .txt"
#     bash egs/folder/run.sh --help
#
# The results lie here; for more than one folder of recordings, give each its own with --work-dir.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/folder/run.sh"
exec bash "$here/../../recipes/speech.sh" \
    --recipe-dir "$here" \
    --corpus-name folder \
    --config "$here/conf/train.yaml" \
    --mel-spec melgan22k \
    "$@"
