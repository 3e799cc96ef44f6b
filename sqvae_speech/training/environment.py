"""What a run ran in: versions, machine, variables, state of the source, command line. Nothing here raises.

Imports torch only when asked to describe it.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqvae_speech.version import __version__

# Variables that change what is computed, or where. Only these are written down: anything else may hold a secret.
VARIABLES = re.compile(
    r"(ACCELERATE|CUBLAS|CUDA|CUDNN|GLOO|GOMP|HIP|KMP|MALLOC|MKL|NCCL|NUMEXPR|NVIDIA|OMP|OPENBLAS|PYTORCH|ROCR|TORCH|TORCHINDUCTOR"
    r"|TRITON)_\w+|SLURM_(JOB_ID|JOB_NAME|ARRAY_\w+|NNODES|NTASKS|PROCID|NODELIST|CPUS_PER_TASK|GPUS\w*)"
    r"|PYTHONHASHSEED|PYTHONPATH|LD_PRELOAD|CONDA_DEFAULT_ENV|VIRTUAL_ENV|RANK|LOCAL_RANK|WORLD_SIZE|MASTER_(ADDR|PORT)"
)
_SECRET = r"[\w-]*(?:token(?!iz)|secret|passw(?:or)?d|credential|api[_-]?key|access[_-]?key|signature)[\w-]*"
# (what, by what): user and password of an address, `token=...` in an option or a query, headers of HTTP
_REDACTIONS = (
    (re.compile(r"(\w+://)[^/\s@]+@"), r"\1***@"),
    (re.compile(rf"({_SECRET}=)[^&\s'\"]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"(authorization\s*:\s*)(?:(?:bearer|basic|token)\s+)?[^\s'\"]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"((?:\w+-)+(?:token|key|secret)\s*:\s*)[^\s'\"]+", re.IGNORECASE), r"\1***"),
)
_SECRET_OPTION = re.compile(rf"--{_SECRET}", re.IGNORECASE)
_LARGEST_DIFF = 20_000_000  # bytes; more than that is data, not a change of the source


def redact(text: str) -> str:
    """``text`` with passwords in addresses, tokens in queries and authorisation headers replaced by ``***``."""
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text


def command_line(words: Sequence[str] | None = None) -> list[str]:
    """The words that this process was started with, secrets replaced."""
    redacted: list[str] = []
    for word in sys.orig_argv if words is None else words:
        secret = bool(redacted) and _SECRET_OPTION.fullmatch(redacted[-1]) is not None
        redacted.append("***" if secret else redact(word))
    return redacted


def variables(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables that matter to a run (:data:`VARIABLES`), sorted."""
    found = os.environ if environment is None else environment
    return {
        name: redact(value)
        for name, value in sorted(found.items())
        if VARIABLES.fullmatch(name) and not re.fullmatch(_SECRET, name, re.IGNORECASE)
    }


class GitState(NamedTuple):
    """Of the checkout that the package lies in.

    Attributes:
        facts: for JSON: ``commit``, ``branch``, ``dirty``, ``untracked`` (names); only ``none``, with the reason,
            when there is no checkout or no git.
        diff: of tracked files against the commit; empty when there is none, or it is too large to be of source.
    """

    facts: dict[str, Any]
    diff: str


def git_state(folder: Path | None = None) -> GitState:
    """The state of the checkout around ``folder``; None: around this package."""
    folder = Path(__file__).resolve().parent if folder is None else folder
    try:
        # a package installed into an environment inside some other checkout is not a part of that
        if _git(folder, "ls-files", "--", ".").strip() == "":
            return GitState({"none": f"{folder} is not under version control"}, "")
        root = Path(_git(folder, "rev-parse", "--show-toplevel").rstrip("\n"))
        commit = _git(root, "rev-parse", "HEAD").strip()
        diff = _git(root, "diff", "--no-ext-diff", "--no-color", "HEAD")
        untracked = _git(root, "ls-files", "--others", "--exclude-standard").splitlines()
        facts = {
            "commit": commit,
            "branch": _git(root, "rev-parse", "--abbrev-ref", "HEAD").strip(),
            "dirty": bool(diff),
            "untracked": untracked[:100],
        }
    except FileNotFoundError:
        return GitState({"none": "git is not installed"}, "")
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return GitState({"none": f"git: {said.strip() or type(error).__name__}"}, "")
    return GitState(facts, diff if len(diff) <= _LARGEST_DIFF else "")


def _git(folder: Path, *words: str) -> str:
    # no optional lock: another git may be at work in the same checkout
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=20, check=True, stdin=subprocess.DEVNULL
    )
    return done.stdout


def digest(text: str) -> str:
    """Eight hexadecimal digits that tell a text from others."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def describe(device: Any) -> dict[str, Any]:
    """The environment, ready for JSON.

    Args:
        device: the ``torch.device`` that is trained on.
    """
    return {
        "sqvae_speech": __version__,
        "python": sys.version,
        "executable": sys.executable,
        "os": platform.platform(),
        "host": socket.gethostname(),
        "cpu": {"model": _cpu_model(), "count": os.cpu_count(), "usable": _usable_cpus()},
        "torch": _torch(),
        "device": device_name(device),
        "variables": variables(),
        "packages": _packages(),
    }


def device_name(device: Any) -> str:
    """``cpu``, or an accelerator with its name: ``cuda:0 (NVIDIA H100 80GB HBM3)``."""
    import torch

    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def _torch() -> dict[str, Any]:
    import torch

    return {
        "version": str(torch.__version__),
        "git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "build": torch.__config__.show().splitlines(),
    }


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a package half removed has none
            found.setdefault(name, distribution.version)  # the first on the path is the one imported
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _usable_cpus() -> int | None:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else None
