#!/usr/bin/env bash
# MNIST: handwritten digits, 60,000 and 10,000 grey images of 28 x 28 pixels (LeCun, Cortes, Burges).
#
#     bash egs/mnist/run.sh --download                   # fetches the four files first, 12 MB, once
#     bash egs/mnist/run.sh --corpus MNIST --ngpu 1      # torchvision's folder, or any with the four IDX files
#     bash egs/mnist/run.sh --corpus MNIST --config conf/vq_ema.yaml
#     bash egs/mnist/run.sh --help
#
# As in the published code, the last 10,000 images of the training set validate.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/mnist/run.sh"
exec bash "$here/../../recipes/image.sh" \
    --recipe-dir "$here" \
    --corpus-name mnist \
    --config "$here/conf/train.yaml" \
    --lm-config "$here/conf/prior.yaml" \
    "$@"
