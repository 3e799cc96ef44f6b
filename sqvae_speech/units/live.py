"""Raw samples from a pipe, as recorders and converters write them."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.errors import UserError


class PcmForm(NamedTuple):
    """How a sample is written: a NumPy type, and what full scale is."""

    dtype: str
    full_scale: float


PCM_FORMS = {"s16le": PcmForm("<i2", 32768.0), "s32le": PcmForm("<i4", 2147483648.0), "f32le": PcmForm("<f4", 1.0)}


def read_pcm(stream: BinaryIO, form: str, block_bytes: int = 1 << 16) -> Iterator[NDArray[np.float32]]:
    """Yield (n,) float32 samples of one channel as soon as any have come.

    Args:
        stream: buffered, as ``sys.stdin.buffer`` is.
        form: one of :data:`PCM_FORMS`.
        block_bytes: at most so many at once.

    Raises:
        UserError: the stream ends within a sample.
    """
    dtype, full_scale = PCM_FORMS[form]
    size = np.dtype(dtype).itemsize
    rest = b""
    while block := stream.read1(block_bytes):  # type: ignore[attr-defined]
        data = rest + block
        whole = len(data) - len(data) % size
        rest = data[whole:]
        if whole:
            yield (np.frombuffer(data[:whole], dtype) / full_scale).astype(np.float32)
    if rest:
        raise UserError(
            f"the stream ended within a sample: {len(rest)} of the {size} bytes of {form}; is --pcm right? "
            f"(legal: {', '.join(PCM_FORMS)})"
        )
