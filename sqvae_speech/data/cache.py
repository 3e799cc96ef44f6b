"""The packed cache: all frames of a folder of shards in one file, which every process maps into memory.

In a shard an utterance is (n_mels, T), so that a crop is n_mels short pieces, and a batch as many files and headers
as it has utterances. The cache is (frames, n_mels): a crop is one piece, and a batch one gather over one array.
``<shards>/.cache/<fingerprint>.frames`` holds the numbers as they are stored, ``<fingerprint>.json`` what they are;
both can be deleted at any time and are made again by the first process that wants them.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.data.files import whole_file, write_text
from sqvae_speech.data.index import ShardIndex, read_json
from sqvae_speech.data.reader import ShardReader, Utterances, map_file
from sqvae_speech.errors import UserError

logger = logging.getLogger(__name__)

FOLDER = ".cache"
VERSION = 1
BLOCK_FRAMES = 1024  # copied twice, so that they are still in the processor's cache the second time
SPARE_BYTES = 1 << 28  # of the disk, that a cache leaves free
# What a file system answers that cannot lock files: then every process may make the cache, and the last one's stays.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


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


def default_limit() -> int:
    """Bytes of a cache at most unless told otherwise: half of this machine's memory, so that it stays in it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def open_packed(index: ShardIndex, utterances: Utterances, limit: int) -> PackedSource | None:
    """Map the packed frames of an index, making the file first when there is none.

    One process makes it while the others wait, on any number of nodes; it appears whole or not at all. Files of
    other fingerprints, of what the shards were before, are removed.

    Args:
        index: of local shards, all there.
        utterances: of the index.
        limit: bytes of the file at most.

    Returns:
        None when it does not fit into ``limit`` or on the disk, or the folder cannot be written to; said once, as
        information: the shards will do.

    Raises:
        UserError: a shard is damaged.
    """
    n_mels, itemsize = index.mel_spec.n_mels, np.dtype(index.dtype).itemsize
    size = index.num_frames * n_mels * itemsize
    if size > limit:
        _without(index, f"the frames take {size / 1e9:.2f} GB, the limit is {limit / 1e9:.2f} GB")
        return None
    path = index.folder / FOLDER / f"{index.fingerprint[:32]}.frames"
    try:
        if not _is_whole(path, index, size) and not _make(path, index, utterances, size):
            return None
        content = map_file(path)
    except OSError as error:
        _without(index, f"{path.parent}: {error.strerror or error}")
        return None
    return PackedSource(content.numpy().view(index.dtype).reshape(-1, n_mels), utterances.num_frames)


def _without(index: ShardIndex, reason: str) -> None:
    logger.info("%s: no packed cache (%s); reading the shards", index.folder, reason)


def _description(index: ShardIndex, size: int) -> dict[str, object]:
    return {
        "version": VERSION,
        "fingerprint": index.fingerprint,
        "dtype": index.dtype,
        "n_mels": index.mel_spec.n_mels,
        "num_frames": index.num_frames,
        "bytes": size,
    }


def _is_whole(path: Path, index: ShardIndex, size: int) -> bool:
    try:
        if path.stat().st_size != size:
            return False
        return read_json(path.with_suffix(".json")) == _description(index, size)
    except (OSError, UserError):
        return False


def _make(path: Path, index: ShardIndex, utterances: Utterances, size: int) -> bool:
    """Make the file, or wait until another process has; False when the disk has no room."""
    path.parent.mkdir(exist_ok=True)
    with _locked(path.parent / "lock"):
        if not _is_whole(path, index, size):
            free = shutil.disk_usage(path.parent).free
            if free < size + SPARE_BYTES:
                _without(index, f"they take {size / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB left")
                return False
            _write(path, index, utterances, size)
    return True


def _write(path: Path, index: ShardIndex, utterances: Utterances, size: int) -> None:
    for old in path.parent.iterdir():  # also what a killed process left half-written
        if old.suffix in (".frames", ".json", ".part"):
            old.unlink(missing_ok=True)
    logger.info("packing the frames of %s (%.2f GB), once", index.folder, size / 1e9)
    reader = ShardReader(index)
    columns = (utterances.shards, utterances.offsets, utterances.sizes, utterances.num_frames)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        mapped = -1
        for name, *place in zip(utterances.ids, *(column.tolist() for column in columns), strict=True):
            shard, offset, bytes_, num_frames = place
            if shard != mapped:
                reader.keep(())  # one shard in memory at a time
                mapped = shard
            file.write(np.ascontiguousarray(reader.mel_at(shard, offset, bytes_, num_frames, name).T).data)
        file.flush()
        os.fsync(file.fileno())
    write_text(path.with_suffix(".json"), json.dumps(_description(index, size), indent=1) + "\n")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that one process has at a time, on any node that shares the file system."""
    with path.open("ab") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("%s: waiting for the process that is at it", path.parent)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
