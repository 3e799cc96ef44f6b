#!/usr/bin/env bash
# The Free Spoken Digit Dataset: 6 speakers, 3,000 digits, 8 kHz (https://github.com/Jakobovski/free-spoken-digit-dataset).
#
#     bash egs/fsdd/run.sh --corpus fsdd.zip             # or the unpacked folder
#     bash egs/fsdd/run.sh --download                    # fetches 16 MB first, once
#     bash egs/fsdd/run.sh --help
#
# The features are those of the paper at 16 kHz, so that the scores compare with the other corpora's; the recordings are
# resampled, and the band above 4 kHz is empty.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SQVAE_RECIPE="bash egs/fsdd/run.sh"
exec bash "$here/../../recipes/speech.sh" \
    --recipe-dir "$here" \
    --corpus-name fsdd \
    --config "$here/conf/train.yaml" \
    --mel-spec sqvae16k \
    "$@"
