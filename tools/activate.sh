# Source this: sets the environment up if need be (tools/setup.sh) and puts its programs and this checkout first.
#
#     source tools/activate.sh

if [ -z "${BASH_VERSION:-}" ]; then
    echo "activate.sh: source this from bash (elsewhere: 'bash tools/setup.sh', then 'source .venv/bin/activate')" >&2
    return 1
fi
_sqvae_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
_sqvae_bin=$(bash "$_sqvae_root/tools/setup.sh") || { unset _sqvae_root _sqvae_bin; return 1; }
export PATH="$_sqvae_bin:$PATH"
# The checkout at hand, whichever one an active environment may have installed.
export PYTHONPATH="$_sqvae_root${PYTHONPATH:+:$PYTHONPATH}"
unset _sqvae_root _sqvae_bin
hash -r
