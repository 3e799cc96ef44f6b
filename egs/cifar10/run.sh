#!/usr/bin/env bash
# CIFAR-10: 60,000 coloured images of 32 x 32 pixels in ten classes (https://www.cs.toronto.edu/~kriz/cifar.html).
#
#     bash egs/cifar10/run.sh --download                 # fetches the binary version first, 170 MB, once
#     bash egs/cifar10/run.sh --corpus cifar-10-batches-py --ngpu 1
#     bash egs/cifar10/run.sh --corpus cifar10_jpeg.zip    # files {train,test}/<class>/<name>.jpg
#     bash egs/cifar10/run.sh --corpus cifar-10-batches-py --config conf/type4.yaml --perceptual "lpips fid"
#     bash egs/cifar10/run.sh --help
#
# 10,000 images of the training set validate: as in the published code the last ones, or of files the last of each class.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/cifar10/run.sh"
exec bash "$here/../../recipes/image.sh" \
    --recipe-dir "$here" \
    --corpus-name cifar10 \
    --config "$here/conf/train.yaml" \
    --lm-config "$here/conf/prior.yaml" \
    "$@"
