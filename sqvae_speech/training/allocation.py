"""Memory that a step frees is kept for the next one."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGE = 1 << 30


def keep_freed_memory() -> bool:
    """Have glibc keep large blocks that are freed, rather than give them back and ask for zeroed pages every time.

    With its defaults a training step on a CPU takes up to twice as long. What environment variables or tunables set
    is left as it is. Returns whether something was changed; with another C library nothing is.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGE))
