#!/usr/bin/env bash
# Fashion-MNIST: articles of clothing in the form of MNIST (https://github.com/zalandoresearch/fashion-mnist).
#
#     bash egs/fashion_mnist/run.sh --download           # fetches the four files first, 31 MB, once
#     bash egs/fashion_mnist/run.sh --corpus FashionMNIST --ngpu 1
#     bash egs/fashion_mnist/run.sh --corpus FashionMNIST --config conf/vq_ema.yaml
#     bash egs/fashion_mnist/run.sh --help
#
# As in the published code, the last 10,000 images of the training set validate.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/fashion_mnist/run.sh"
exec bash "$here/../../recipes/image.sh" \
    --recipe-dir "$here" \
    --corpus-name fashion_mnist \
    --config "$here/conf/train.yaml" \
    --lm-config "$here/conf/prior.yaml" \
    "$@"
