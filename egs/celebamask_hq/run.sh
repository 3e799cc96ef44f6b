#!/usr/bin/env bash
# CelebAMask-HQ: label maps of 30,000 faces in 19 classes (https://github.com/switchablenorms/CelebAMask-HQ), at 64 x 64.
#
#     bash egs/celebamask_hq/run.sh --corpus CelebAMask-HQ --ngpu 1
#     bash egs/celebamask_hq/run.sh --corpus CelebAMask-HQ --config conf/categorical.yaml
#     bash egs/celebamask_hq/run.sh --make-corpus egs/celebamask_hq/local/make_faces.py --config conf/short/vmf.yaml
#     bash egs/celebamask_hq/run.sh --help
#
# The corpus cannot be fetched by a program; the third line draws face-like label maps in its layout instead.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/celebamask_hq/run.sh"
exec bash "$here/../../recipes/image.sh" \
    --recipe-dir "$here" \
    --corpus-name celebamask_hq \
    --config "$here/conf/train.yaml" \
    --lm-config "$here/conf/prior.yaml" \
    --size 64 \
    "$@"
