#!/usr/bin/env bash
# Install Chromium for the tests of reports, where it is missing and can be had: as root on Debian or Ubuntu. tools/test.sh
# calls this where CI is set; elsewhere the tests that need a browser are skipped without one. Never fails.
set -euo pipefail

for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" > /dev/null; then exit 0; fi
done
skip() { printf 'install_browser: %s; the tests that need a browser are skipped\n' "$*" >&2; exit 0; }
command -v apt-get > /dev/null || skip "no apt-get here"
[ "$(id -u)" = 0 ] || skip "not root"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { DEBIAN_FRONTEND=noninteractive timeout "$1" apt-get "${@:2}" > "$log" 2>&1 < /dev/null; }
packages=(chromium fonts-dejavu-core)
# the lists of packages of an image are often old, or not there at all
install 300 install -y --no-install-recommends "${packages[@]}" ||
    { install 120 update && install 300 install -y --no-install-recommends "${packages[@]}"; } ||
    skip "Chromium cannot be installed ($(tail -n 1 "$log"))"
