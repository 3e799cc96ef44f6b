"""Batches of images: endless ones for training, from an exact position on, and all in order for scores and codes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.data.endless import ExampleLoader
from sqvae_speech.data.image_index import ImageEntry, ImageIndex
from sqvae_speech.data.packed import PackedFile
from sqvae_speech.data.remote import open_index
from sqvae_speech.data.shard_maps import ShardMaps
from sqvae_speech.errors import UserError
from sqvae_speech.images.spec import ImageSpec

_TASK_IMAGES = 256  # of batches that a thread prepares in one go


class ImageTable(NamedTuple):
    """What the loader knows of the N images of an index, in the order of the manifest: columns, not rows.

    Attributes:
        ids: image ids.
        shards: (N,) int64.
        offsets, sizes: (N,) int64, place and bytes of each ``.image.npy`` in its shard.
    """

    ids: list[str]
    shards: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, index: ImageIndex) -> "ImageTable":
        """List the images of an index."""
        ids = []
        columns = np.empty((3, index.num_images), dtype=np.int64)
        for row, entry in enumerate(index.entries()):
            ids.append(entry.image_id)
            columns[:, row] = (entry.shard, *entry.image)
        return cls(ids, *columns)


class PixelSource(Protocol):
    """What the pixels of a batch are cut from."""

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        """Return the images ``numbers`` (B,), (B, *shape) uint8."""
        ...


class PackedPixels(NamedTuple):
    """All images of an index as one array, (N, *shape) uint8."""

    pixels: np.ndarray

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        return self.pixels[numbers]


class ShardPixels(NamedTuple):
    """Images read from their shards, one after the other."""

    maps: ShardMaps
    table: ImageTable
    spec: ImageSpec

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        return np.stack([self.image(number) for number in numbers.tolist()])

    def image(self, number: int) -> np.ndarray:
        """Return one image, a read-only view of its shard."""
        table = self.table
        place = int(table.offsets[number]), int(table.sizes[number])
        return self.maps.array(int(table.shards[number]), place, self.spec.shape, "uint8", table.ids[number])


def open_pixels(index: ImageIndex, table: ImageTable, limit: int) -> PackedPixels | None:
    """Map the packed pixels of an index, making the file first when there is none.

    Args:
        index: of local shards, all there.
        table: of the index.
        limit: bytes of the file at most.

    Returns:
        None where :meth:`sqvae_speech.data.packed.PackedFile.open` gives none.

    Raises:
        UserError: a shard is damaged.
    """
    shape = (index.num_images, *index.image_spec.shape)

    def pieces() -> Iterator[np.ndarray]:
        maps = ShardMaps(index)
        source = ShardPixels(maps, table, index.image_spec)
        mapped = -1
        for number, shard in enumerate(table.shards.tolist()):
            if shard != mapped:
                maps.keep(())  # one shard in memory at a time
                mapped = shard
            yield source.image(number)

    content = PackedFile(index, "pixels", int(np.prod(shape)), {"shape": list(shape)}, pieces).open(limit)
    return None if content is None else PackedPixels(content.reshape(shape))


def as_batch(pixels: np.ndarray, spec: ImageSpec) -> dict[str, Any]:
    """Return stored pixels, (B, *shape) uint8, as what models take.

    Returns:
        dict with ``image``: (B, C, H, W) float32 in [0, 1], or (B, H, W) int64 of label maps.
    """
    if spec.is_labels:
        return {"image": torch.from_numpy(pixels.astype(np.int64))}
    return {"image": torch.from_numpy(np.divide(pixels, np.float32(255), dtype=np.float32))}


class ImageLoader(ExampleLoader):
    """An endless iterable of batches of images, each of which comes once an epoch.

    Images are given as they are stored: the published recipes augment nothing. For the sequence of batches, several
    processes and positions see :class:`sqvae_speech.data.endless.ExampleLoader`.

    Args:
        shards: folder of shards, an address (see :mod:`sqvae_speech.data.remote`), or an index.
        batch_size: images of the global batch, over all processes.
        options: see :class:`sqvae_speech.data.endless.Loader`: seed, num_workers, shuffle, shuffle_shards, rank,
            world_size, cache_bytes.

    Yields:
        dict with ``image``: (b, C, H, W) float32 in [0, 1], or (b, H, W) int64 of label maps; ``image_id``, a list of
        b; b = batch_size / world_size.

    Raises:
        UserError: the index or a shard is missing or damaged, or see
            :class:`sqvae_speech.data.endless.ExampleLoader`.
    """

    batching = "images"

    def __init__(self, shards: str | Path | ImageIndex, *, batch_size: int, **options: Any):
        self.index = open_index(shards, ImageIndex)
        self._table = ImageTable.of(self.index)
        super().__init__(ShardMaps(self.index), self._table.shards, batch_size=batch_size, **options)

    @property
    def num_images(self) -> int:
        """Images of an epoch."""
        return self.num_examples

    def _open_source(self, cache_bytes: int) -> None:
        packed = open_pixels(self.index, self._table, cache_bytes) if cache_bytes > 0 else None
        self._source: PixelSource = packed or ShardPixels(self._reader, self._table, self.index.image_spec)

    @property
    def _batches_per_task(self) -> int:
        return max(1, _TASK_IMAGES // self.share)

    def _make(self, numbers: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
        return {
            **as_batch(self._source.gather(numbers), self.index.image_spec),
            "image_id": [self._table.ids[number] for number in numbers.tolist()],
        }


def image_batches(
    shards: str | Path | ImageIndex, batch_size: int, entries: list[ImageEntry] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield images once, in the order of the manifest, in batches.

    Args:
        shards: folder of shards, an address, or an index.
        batch_size: images of a batch; the last one may have fewer.
        entries: some of the index' images; by default all.

    Yields:
        what :class:`ImageLoader` yields, and ``label``, a list of class names or None.

    Raises:
        UserError: the index or a shard is missing or damaged; ``batch_size`` below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}; at least 1 is needed")
    index = open_index(shards, ImageIndex)
    chosen = index.entries() if entries is None else entries
    maps = ShardMaps(index)
    for start in range(0, len(chosen), batch_size):
        batch = chosen[start : start + batch_size]
        maps.keep({entry.shard for entry in batch})
        arrays = [maps.array(e.shard, e.image, index.image_spec.shape, "uint8", e.image_id) for e in batch]
        yield {
            **as_batch(np.stack(arrays), index.image_spec),
            "image_id": [entry.image_id for entry in batch],
            "label": [entry.label for entry in batch],
        }


def to_pixels(image: Tensor) -> np.ndarray:
    """Return images in [0, 1], of any shape, as uint8: the inverse of what loaders do, values beyond are cut."""
    return image.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()
