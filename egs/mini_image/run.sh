#!/usr/bin/env bash
# The embedded corpus of images: scikit-learn's digits, 1,797 real ones that come with the package, at 28 x 28 pixels.
#
#     bash egs/mini_image/run.sh                         # everything, on a CPU in two minutes
#     bash egs/mini_image/run.sh --stage 2 --training.num_steps 200
#     bash egs/mini_image/run.sh --help
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/mini_image/run.sh"
exec bash "$here/../../recipes/image.sh" \
    --recipe-dir "$here" \
    --corpus-name digits \
    --embedded \
    --config "$here/conf/train.yaml" \
    --lm-config "$here/conf/prior.yaml" \
    --size 28 \
    "$@"
