#!/usr/bin/env bash
# What the units are worth for digits of speakers that were not trained on: log-mels, k-means, VQ-VAE, SQ-VAE and its
# phonetic configuration (conf/evidence.yaml), and EVIDENCE.md from what they gave.
#
#     bash egs/fsdd/evidence.sh --corpus fsdd.zip
#     bash egs/fsdd/evidence.sh --help
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/fsdd/evidence.sh"
exec bash "$here/../../recipes/evidence.sh" \
    --recipe-dir "$here" \
    --work-dir "$here/exp/voices" \
    --voices "theo yweweler" \
    --sweep "$here/conf/evidence.yaml" \
    --template "$here/local/EVIDENCE.template.md" \
    --output "$here/EVIDENCE.md" \
    "$@"
