"""NumPy's ``.npy`` format (version 1.0), as the shards hold it."""

import functools
import io

import numpy as np


def npy_bytes(array: np.ndarray) -> bytes:
    """Return an array as the contents of an ``.npy`` file, in C order."""
    return npy_header(array.shape, array.dtype.name) + np.ascontiguousarray(array).tobytes()


@functools.lru_cache(maxsize=4096)
def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return what precedes the numbers in an ``.npy`` file: magic, version, type, shape, padded to 64 bytes."""
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()
