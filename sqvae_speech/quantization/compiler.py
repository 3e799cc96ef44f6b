"""C++ that is compiled when it is first used: plain functions on arrays, called through ctypes.

It needs a C++ compiler (``CXX``, c++, g++ or clang++) and a PyTorch that carries a Fortran BLAS, as the Linux wheels
do. A library is kept in ``$XDG_CACHE_HOME/sqvae_speech`` under a name that stands for its source, compiler and
processor.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

# included by the sources
HEADER = Path(__file__).with_name("native_math.h")
FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-ffast-math",
    "-fopenmp",
    "-fPIC",
    "-std=c++17",
    "-fno-exceptions",
    "-fno-rtti",
)


@functools.cache
def library(source: Path) -> ctypes.CDLL | str:
    """The compiled library, or why there is none. Compiles at the first call on a machine."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "c++", "g++", "clang++"))), None)
    if compiler is None:
        return "it needs a C++ compiler (CXX, c++, g++ or clang++)"
    try:
        _ = blas("sgemm"), blas("dgemm")
    except (OSError, AttributeError) as error:
        return f"this PyTorch has no Fortran BLAS: {error}"
    try:
        return ctypes.CDLL(str(_compiled(source, compiler)))
    except subprocess.CalledProcessError as error:
        return f"{compiler} failed: {error.stderr.strip()[-400:]}"
    except OSError as error:
        return f"the library cannot be built or loaded: {error}"


@functools.cache
def blas(function: str) -> int:
    """Address of a function of the BLAS that torch carries.

    Raises:
        OSError, AttributeError: there is none.
    """
    carrier = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    address = ctypes.cast(getattr(carrier, f"{function}_"), ctypes.c_void_p).value
    assert address is not None
    return address


def _compiled(source: Path, compiler: str) -> Path:
    """Path of the library, compiled if it is not in the cache."""
    version = _run(compiler, "--version")
    cpuinfo = Path("/proc/cpuinfo")
    features = [
        line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features", "model name"))
    ]
    identity = (source.read_text(), HEADER.read_text(), FLAGS, version, platform.machine(), features[:2])
    name = f"{source.stem}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sqvae_speech"
    if (cache / name).exists():
        return cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        object_file, shared = f"{folder}/native.o", f"{folder}/{name}"
        _run(compiler, *FLAGS, f"-I{HEADER.parent}", "-c", str(source), "-o", object_file)
        # linked without -fopenmp and -ffast-math: the OpenMP runtime is then the one that torch has loaded, so there
        # is one pool of threads, and the process's rounding of tiny numbers stays as it is
        _run(compiler, "-shared", "-nostdlib", object_file, "-o", shared)
        os.replace(shared, cache / name)
    return cache / name


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
