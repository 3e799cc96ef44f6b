#!/usr/bin/env bash
# Make the project's Python environment, once. Every recipe and tools/test.sh call this, so nobody has to.
#
# An active environment (virtualenv, conda, a container's Python) that has all that setup.cfg asks for is used as it is. Otherwise
# <repository>/.venv is made with the newest Python that works, with the tested versions of tools/constraints.txt.
# The stamp .venv/.sqvae_stamp is written last and holds a hash of what the environment was made from: an
# interrupted or failed run has no stamp and the next one goes on, and a second run does nothing.
#
# Prints the folder with the environment's programs on standard output (one line); messages go to standard error.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"
stamp="$venv/.sqvae_stamp"
extras="dev,kaldi,mini"
versions="3.13 3.12 3.11"  # newest first; what setup.cfg's python_requires allows and the constraints were tested with

usage() {
    cat <<END
usage: bash tools/setup.sh [--which-python] [--force] [--help]

Makes .venv, the Python environment of the project, unless it is there or a complete one is active.

  --which-python  print the Python that .venv would be made with, and do nothing else
  --force         make .venv anew, and use it even when a complete environment is active
  --help          print this

environment variables:
  PYTHON          the Python to use, instead of the newest of: $versions
  PYENV_ROOT      where pyenv keeps its Pythons (default: ~/.pyenv)
END
}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

which_python=false
force=false
while [ $# -gt 0 ]; do
    case $1 in
        --which-python) which_python=true ;;
        --force) force=true ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; printf '\nsetup.sh: error: unknown option %s\n' "$1" >&2; exit 2 ;;
    esac
    shift
done

# What a person's shell sets for other projects must not reach this environment.
unset PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

# The real path of interpreter $1 if it runs, is CPython $2 and can make environments; else nothing, status 1.
# A name on PATH proves nothing: pyenv leaves shims of versions that are not selected, Debian leaves out ensurepip.
working_python() {
    "$1" -I -c '
import bz2, ctypes, ensurepip, lzma, ssl, sys, sysconfig, venv, zlib
wanted = sys.argv[1]
found = "%d.%d" % sys.version_info[:2]
if found not in wanted.split() or sys.maxsize < 2**32 or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit(1)
print(getattr(sys, "_base_executable", None) or sys.executable)
' "$2" 2>/dev/null
}

find_python() {
    local version name candidate python
    if [ -n "${PYTHON:-}" ]; then
        working_python "$PYTHON" "$versions" ||
            die "PYTHON=$PYTHON does not run, is none of $versions, or lacks a module that environments need" \
                "(ensurepip, ssl, ctypes, bz2, lzma). Unset PYTHON to let one be found."
        return
    fi
    local pyenv_root="${PYENV_ROOT:-${HOME:-}/.pyenv}"
    for version in $versions; do
        while IFS= read -r candidate; do
            if python=$(working_python "$candidate" "$version"); then
                printf '%s\n' "$python"
                return
            fi
        done <<END
$(for name in "python$version" python3 python; do type -ap "$name" || true; done)
$(ls -d "$pyenv_root/versions/$version".*/bin/python 2>/dev/null | sort -rV)
END
    done
    die "no working Python found (looked for $versions on PATH and in $pyenv_root/versions; it needs the modules" \
        "venv, ensurepip, ssl, ctypes, bz2 and lzma). Install one ('pyenv install 3.13', or your system's python3" \
        "and python3-venv packages), or name one: PYTHON=/path/to/python bash tools/setup.sh"
}

if $which_python; then
    find_python
    exit
fi

# An environment that the user has chosen and that is complete stays as it is: an active virtualenv or conda
# environment, or the Python of a container that has everything.
complete() { "$1/python" -I "$root/tools/check_environment.py" "$root/setup.cfg" "$extras" 2>&1; }
if ! $force; then
    active="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
    if [ -n "$active" ]; then
        active="$active/bin"
    elif type -P python > /dev/null; then
        active=$(python -I -c 'import os, sys; print(os.path.dirname(sys.executable))' 2>/dev/null || true)
    fi
    if [ -n "$active" ] && [ "$active" != "$venv/bin" ] && [ -x "$active/python" ]; then
        if missing=$(complete "$active"); then
            printf '%s\n' "$active"
            exit
        elif [ -n "${VIRTUAL_ENV:-}" ]; then
            say "the active environment $VIRTUAL_ENV is not complete, so $venv is used instead. It lacks:"
            printf '%s\n' "$missing" | sed 's/^/    /' >&2
        fi
    fi
fi

# Everything that decides what the environment holds; its own path too, since an environment cannot be moved.
fingerprint() {
    local file
    printf '%s\n%s\n' "$venv" "$extras"
    for file in setup.cfg pyproject.toml tools/constraints.txt tools/setup.sh; do
        cksum < "$root/$file"
    done
}
wanted=$(fingerprint)

is_done() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; }

if ! $force && is_done; then
    printf '%s\n' "$venv/bin"
    exit
fi

[ -w "$root" ] || die "$root cannot be written by $(id -un), so .venv cannot be made there. Activate an environment that" \
    "has the packages of setup.cfg, or work in a copy of the repository that you own."

# One at a time: the second of two concurrent runs waits, then finds the first one's work.
if command -v flock > /dev/null; then
    exec 9> "$root/.venv.lock"
    flock -n 9 || { say "another set-up of $venv is running; waiting for it"; flock 9; }
    if ! $force && is_done; then
        printf '%s\n' "$venv/bin"
        exit
    fi
fi

mark="$venv/.made_by_sqvae_setup"
if [ -e "$venv" ] || [ -L "$venv" ]; then
    if $force || ! working_python "$venv/bin/python" "$versions" > /dev/null ||
        { [ -f "$mark" ] && [ "$(cat "$mark")" != "$venv" ]; }; then
        # moved, or its Python is gone: only a new one helps, but what somebody else made is not ours to delete
        [ -f "$mark" ] || die "$venv is not a working environment of Python $versions and was not made by this script." \
            "Move it away and run this again."
        say "making $venv anew"
        rm -rf "$venv"
    fi
fi
rm -f "$stamp"

finish() {
    local status=$?
    [ $status = 0 ] ||
        say "error: setting up $venv failed (the messages above say why). It is not marked as complete: run" \
            "'bash tools/setup.sh' again to go on, or with --force to begin anew."
}
trap finish EXIT

if [ ! -e "$venv" ]; then
    python=$(find_python)
    say "making $venv with $("$python" -V) ($python)"
    "$python" -m venv "$venv" >&2
    printf '%s\n' "$venv" > "$mark"
fi
say "installing the packages of setup.cfg [$extras] (some gigabytes the first time; a few minutes)"
started=$SECONDS
quiet=--quiet
[ ! -t 2 ] || quiet=--progress-bar=on  # a person who watches sees what goes on
install() { "$venv/bin/python" -m pip install $quiet --constraint tools/constraints.txt "$@" 9>&- >&2; }
cd "$root"
install setuptools wheel
install --no-build-isolation --editable ".[$extras]"
complete "$venv/bin" >&2

printf '%s\n' "$wanted" > "$stamp.new"
mv "$stamp.new" "$stamp"
say "$venv is ready ($((SECONDS - started)) s). 'source tools/activate.sh' puts it on PATH."
printf '%s\n' "$venv/bin"
