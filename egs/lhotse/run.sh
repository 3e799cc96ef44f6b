#!/usr/bin/env bash
# A Lhotse manifest: cuts, or a folder with recordings and supervisions.
#
#     bash egs/lhotse/run.sh --corpus cuts.jsonl.gz
#     bash egs/lhotse/run.sh --help
#
# The results lie here; for more than one corpus, give each its own with --work-dir.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/lhotse/run.sh"
exec bash "$here/../../recipes/speech.sh" \
    --recipe-dir "$here" \
    --corpus-name lhotse \
    --config "$here/conf/train.yaml" \
    --mel-spec melgan22k \
    "$@"
