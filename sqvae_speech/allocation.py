"""Memory that is freed is kept for the next step, shard or batch."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGE = 1 << 30
_LARGEST_OF_OLD_GLIBC = 1 << 25  # which refuses more than half an arena


def keep_freed_memory(*, whatever_is_set: bool = False) -> bool:
    """Have glibc keep large blocks that are freed, rather than give them back and ask for zeroed pages every time.

    With its defaults a training step on a CPU takes up to twice as long, and units in bfloat16 a sixth longer.

    Args:
        whatever_is_set: also where the environment says something of the allocator. Dask starts its workers with
            ``MALLOC_TRIM_THRESHOLD_=65536``, which makes log-mels take 2.5 times as long.

    Returns:
        Whether something was changed; with another C library nothing is.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    if chosen and not whatever_is_set:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mapped = mallopt(_M_MMAP_THRESHOLD, _LARGE) or mallopt(_M_MMAP_THRESHOLD, _LARGEST_OF_OLD_GLIBC)
    return bool(mapped) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGE))
