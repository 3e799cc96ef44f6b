"""The packed cache of log-mels: (frames, n_mels), so that a crop is one piece of memory.

In a shard an utterance is (n_mels, T), so that a crop is n_mels short pieces, and a batch as many files and headers
as it has utterances; from the packed frames a batch is one gather over one array. See
:mod:`sqvae_speech.data.packed` for the file.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.packed import PackedFile
from sqvae_speech.data.reader import ShardReader, Utterances

BLOCK_FRAMES = 1024  # copied twice, so that they are still in the processor's cache the second time


class PackedSource:
    """Cuts batches from the packed frames: a gather, in blocks, of one piece of memory a crop.

    With NumPy, which leaves other threads alone: torch would start as many threads as there are cores for each of the
    loader's own.

    Args:
        frames: (total, n_mels) float32 or float16.
        num_frames: (N,) int64, frames of each utterance; they follow each other.
    """

    def __init__(self, frames: np.ndarray, num_frames: np.ndarray):
        self._frames = frames
        self._starts = np.cumsum(num_frames) - num_frames

    def gather(self, numbers: np.ndarray, first: np.ndarray, lengths: np.ndarray, width: int) -> Tensor:
        """Cut a batch, as :meth:`sqvae_speech.data.reader.ShardSource.gather` does."""
        frames, starts = self._frames, self._starts[numbers] + first
        total, n_mels = frames.shape
        out = np.empty((len(numbers), n_mels, width), dtype=np.float32)
        if starts.max() + width <= total:
            # a view of every crop there could be, of which a batch takes some
            step, item = frames.strides
            shape, strides = (total - width + 1, width, n_mels), (step, step, item)
            source: np.ndarray = np.ndarray(shape, frames.dtype, frames, 0, strides)
            places = starts
        else:  # one would reach beyond the last frame
            source, places = frames, np.minimum(starts[:, None] + np.arange(width), total - 1)
        size = max(1, BLOCK_FRAMES // width)
        for block in range(0, len(places), size):
            out[block : block + size] = source[places[block : block + size]].transpose(0, 2, 1)
        if lengths.min() < width:  # behind an utterance is the next one
            np.copyto(out, 0.0, where=(np.arange(width) >= lengths[:, None])[:, None])
        return torch.from_numpy(out)


def open_packed(index: ShardIndex, utterances: Utterances, limit: int) -> PackedSource | None:
    """Map the packed frames of an index, making the file first when there is none.

    Args:
        index: of local shards, all there.
        utterances: of the index.
        limit: bytes of the file at most.

    Returns:
        None where :meth:`sqvae_speech.data.packed.PackedFile.open` gives none.

    Raises:
        UserError: a shard is damaged.
    """
    n_mels = index.mel_spec.n_mels
    packed = PackedFile(
        index,
        "frames",
        index.num_frames * n_mels * np.dtype(index.dtype).itemsize,
        {"dtype": index.dtype, "n_mels": n_mels, "num_frames": index.num_frames},
        lambda: _frames(index, utterances),
    )
    content = packed.open(limit)
    if content is None:
        return None
    return PackedSource(content.view(index.dtype).reshape(-1, n_mels), utterances.num_frames)


def _frames(index: ShardIndex, utterances: Utterances) -> Iterator[np.ndarray]:
    """Yield the mels, (T, n_mels), with one shard in memory at a time."""
    reader = ShardReader(index)
    columns = (utterances.shards, utterances.offsets, utterances.sizes, utterances.num_frames)
    mapped = -1
    for name, *place in zip(utterances.ids, *(column.tolist() for column in columns), strict=True):
        shard, offset, bytes_, num_frames = place
        if shard != mapped:
            reader.keep(())
            mapped = shard
        yield np.ascontiguousarray(reader.mel_at(shard, offset, bytes_, num_frames, name).T)
