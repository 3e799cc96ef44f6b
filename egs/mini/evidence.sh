#!/usr/bin/env bash
# What the units are worth, on voices that were not trained on: log-mels, k-means, VQ-VAE and every SQ-VAE by the same
# yardsticks (conf/evidence.yaml), and RESULTS.md from what they gave. Two CPU cores take 11 minutes.
#
#     bash egs/mini/evidence.sh
#     bash egs/mini/evidence.sh --help
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/mini/evidence.sh"
exec bash "$here/../../recipes/evidence.sh" \
    --recipe-dir "$here" \
    --work-dir "$here/exp/voices" \
    --voices "p307 p308 p309 p310" \
    --sweep "$here/conf/evidence.yaml" \
    --template "$here/local/RESULTS.template.md" \
    --output "$here/RESULTS.md" \
    "$@"
