"""Shards of images: a data directory's images in tar files that webdataset reads, a Dask task a shard."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sqvae_speech.data.cluster import ClusterConfig
from sqvae_speech.data.image_dir import ImageDir, ImageItem
from sqvae_speech.data.image_front_end import ImageFrontEnd
from sqvae_speech.data.image_index import IMAGES_PER_SHARD, ImageIndex, ImageShard
from sqvae_speech.data.image_sources import MODES, read_image, sources_digest
from sqvae_speech.data.npy import npy_bytes
from sqvae_speech.data.shard_folder import Bad, ShardFolder
from sqvae_speech.data.shard_writing import Sample, ShardTask, shard_paths, write_folder
from sqvae_speech.errors import UserError
from sqvae_speech.images.spec import ImageSpec


def write_image_shards(
    data_dir: str | Path,
    output_dir: str | Path,
    *,
    size: tuple[int, int] | None = None,
    crop: int | None = None,
    channels: int | None = None,
    split: str | None = None,
    cluster: ClusterConfig | None = None,
    images_per_shard: int = IMAGES_PER_SHARD,
    max_bad: int = 0,
    progress: bool = True,
) -> ImageIndex:
    """Write ``output_dir/<split>-000000.tar`` ... and ``index.json`` from a data directory of images.

    A sample is ``<id>.image.npy``, (C, H, W) uint8 or, of a label map, (H, W) uint8; and ``<id>.json``: image_id,
    source_size (height and width before cropping and scaling) and, where known, label.

    Shards that are whole and whose inputs and settings are unchanged are kept, see
    :func:`sqvae_speech.data.shard_writing.write_folder`.

    Args:
        data_dir: see :mod:`sqvae_speech.data.image_dir`.
        output_dir: folder for the shards of this split. With workers on other machines, one that all of them share.
        size: height and width to scale to; by default those of the first image, which all must then have.
        crop: side of the square to cut from the middle of each image first.
        channels: 1 (grey) or 3; by default the first image's. Others are converted.
        split: beginning of the shards' names; by default the name of ``data_dir``.
        cluster: where the shards are made; by default in this process.
        images_per_shard: at most; they are divided evenly.
        max_bad: images that may be unusable before the whole is refused.
        progress: show a progress bar.

    Returns:
        The index, also written.

    Raises:
        UserError: a setting or the data directory is wrong; what
            :func:`sqvae_speech.data.shard_writing.write_folder` raises.
    """
    if images_per_shard < 1:
        raise UserError(f"images_per_shard {images_per_shard}; at least 1 is needed (--images-per-shard)")
    data = ImageDir.read(data_dir)
    output = Path(output_dir)
    split = split or Path(data_dir).resolve().name
    front_end = ImageFrontEnd(crop=crop, scale=size is not None)
    spec = _spec(data, size, crop, channels)
    tasks = [
        ImageTask(path=path, items=tuple(items), image_spec=spec, front_end=front_end, classes=data.classes)
        for path, items in shard_paths(output, split, data.items, images_per_shard)
    ]

    def index_of(shards: tuple[ImageShard, ...], bad: tuple[Bad, ...]) -> ImageIndex:
        lost = {item.name for item in bad}
        labels = {item.label for item in data if item.label is not None and item.image_id not in lost}
        return ImageIndex(
            folder=output,
            split=split,
            shards=shards,
            bad=bad,
            image_spec=spec,
            front_end=front_end,
            classes=data.classes,
            labels=tuple(sorted(labels)),
        )

    return write_folder(output, split, tasks, index_of, cluster=cluster, max_bad=max_bad, progress=progress)


def _spec(data: ImageDir, size: tuple[int, int] | None, crop: int | None, channels: int | None) -> ImageSpec:
    """Complete what is said about the images from the first that can be read."""
    if data.classes and channels is None:
        channels = 1
    if size is None or channels is None:
        first = _first(data)
        if size is None:
            size = (crop, crop) if crop is not None else (first.shape[0], first.shape[1])
        if channels is None:
            channels = 1 if first.ndim == 2 else 3
    try:
        return ImageSpec(size[0], size[1], channels, len(data.classes))
    except ValueError as error:
        raise UserError(f"{error} (--size, --channels)") from None


def _first(data: ImageDir) -> Any:
    failure: UserError | None = None
    for item in data:
        try:
            return read_image(item.source, data.classes)
        except UserError as error:
            failure = failure or error
    assert failure is not None
    raise failure


@dataclass(frozen=True, kw_only=True)
class ImageTask(ShardTask):
    """One shard of images to write.

    Attributes:
        items: its images.
        image_spec: what they are to be.
        front_end: what is done to them.
        classes: of label maps.
    """

    index_class: ClassVar[type[ShardFolder]] = ImageIndex

    items: tuple[ImageItem, ...]
    image_spec: ImageSpec
    front_end: ImageFrontEnd
    classes: tuple[str, ...]

    @property
    def names(self) -> Sequence[str]:
        return [item.image_id for item in self.items]

    def inputs(self) -> str:
        settings = [ImageIndex.version, self.image_spec.to_dict(), self.front_end.to_dict(), self.classes]
        return sources_digest(self.items, json.dumps(settings, sort_keys=True), self.classes)

    def samples(self) -> Iterator[Sample | Bad]:
        for item in self.items:
            try:
                yield self._sample(item)
            except UserError as error:
                yield Bad(item.image_id, str(error))

    def _sample(self, item: ImageItem) -> Sample:
        spec = self.image_spec
        pixels = read_image(item.source, self.classes, MODES[spec.channels])
        meta: dict[str, Any] = {"image_id": item.image_id, "source_size": list(pixels.shape[:2])}
        if item.label is not None:
            meta["label"] = item.label
        members = {
            ImageIndex.member: npy_bytes(self.front_end.prepare(pixels, spec, item.source)),
            "json": json.dumps(meta, ensure_ascii=False).encode(),
        }
        return Sample(item.image_id, (item.label,), members)

    def shard_file(self, samples: Sequence[Sample], **common: Any) -> ImageShard:
        return ImageShard(**common, images=len(samples))
