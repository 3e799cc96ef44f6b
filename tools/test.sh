#!/usr/bin/env bash
# Set up, check style and types, then run the tests: all of them, or those that the arguments (for pytest) choose.
#
#     bash tools/test.sh                       # everything, as in CI
#     bash tools/test.sh -m "not slow"         # the fast ones
#     bash tools/test.sh tests/unit/test_x.py  # one file
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/activate.sh
if [ -n "${CI:-}" ]; then bash tools/install_browser.sh; fi # not on somebody's own machine
ruff check .
ruff format --check .
mypy
exec python -m pytest "$@"
