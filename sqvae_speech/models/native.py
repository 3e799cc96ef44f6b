"""Whether layers run in ``network.cpp``: in training, on a CPU, where it can be compiled.

There, networks of the published width train twice as fast as with PyTorch's own layers. Inference keeps these, so
that its numbers do not depend on what a machine can compile.
"""

import ctypes
import os
from pathlib import Path

import torch
from torch import Tensor

from sqvae_speech.quantization.compiler import library

SOURCE = Path(__file__).with_name("network.cpp")
ENVIRONMENT_VARIABLE = "SQVAE_SPEECH_NETWORK_BACKEND"
BACKENDS = ("auto", "native", "torch")


def usable(x: Tensor) -> bool:
    """Whether gradients of a layer's output are to be taken by ``network.cpp``, ``x`` being its input.

    Raises:
        ValueError: the environment variable asks for a backend that there is not, or that cannot run here.
    """
    return x.device.type == "cpu" and torch.is_grad_enabled() and _wanted()


@torch.compiler.assume_constant_result
def _wanted() -> bool:
    backend = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if backend not in BACKENDS:
        raise ValueError(f"{ENVIRONMENT_VARIABLE} must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "torch":
        return False
    reason = unavailable()
    if reason is not None and backend == "native":
        raise ValueError(f"network backend 'native' cannot run: {reason}; use {ENVIRONMENT_VARIABLE}=auto")
    return reason is None


def unavailable() -> str | None:
    """Why ``network.cpp`` cannot be used here, or None. Compiles at the first call."""
    found = library(SOURCE)
    return found if isinstance(found, str) else None


def call(function: str, arguments: ctypes.Structure) -> None:
    """Run a function of ``network.cpp``, which must be available."""
    found = library(SOURCE)
    assert not isinstance(found, str), found
    getattr(found, function)(ctypes.byref(arguments))
