#!/usr/bin/env bash
# CelebA: 202,599 photos of faces, aligned (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html), cut to their middle 140 x 140
# pixels and scaled to 64 x 64, as in the published code. Its agreement is to be accepted first, on that page; then
#
#     bash egs/celeba/run.sh --corpus celeba --ngpu 1    # with img_align_celeba(.zip) and list_eval_partition.txt in it
#     bash egs/celeba/run.sh --corpus celeba --config conf/type3.yaml
#     bash egs/celeba/run.sh --help
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/celeba/run.sh"
exec bash "$here/../../recipes/image.sh" \
    --recipe-dir "$here" \
    --corpus-name celeba \
    --config "$here/conf/train.yaml" \
    --lm-config "$here/conf/prior.yaml" \
    --crop 140 \
    --size 64 \
    "$@"
