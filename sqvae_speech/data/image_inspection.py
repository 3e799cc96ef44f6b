"""What a data directory or a folder of shards of images holds, whether it is whole, and single images of it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sqvae_speech.data.ids import known_id
from sqvae_speech.data.image_dir import ImageDir, is_image_dir
from sqvae_speech.data.image_front_end import ImageFrontEnd
from sqvae_speech.data.image_index import ImageIndex
from sqvae_speech.data.image_sources import read_image
from sqvae_speech.data.shard_folder import INDEX_NAME, is_shards, kind_of
from sqvae_speech.data.shard_integrity import array_fault, check_folder
from sqvae_speech.data.shard_maps import ShardMaps
from sqvae_speech.data.tables import format_facts, format_table
from sqvae_speech.errors import UserError
from sqvae_speech.images.spec import ImageSpec


def is_images(folder: str | Path) -> bool:
    """Whether a folder is a data directory or a folder of shards of images."""
    return is_image_dir(folder) or (is_shards(folder) and kind_of(folder) == ImageIndex.kind)


# ---- summaries


def summarize_images(folder: str | Path) -> dict[str, Any]:
    """Return what a folder holds, as plain values for JSON.

    Common to both kinds: ``kind``, ``images``, ``labels`` (class -> images), ``classes`` (of label maps). Of shards
    also ``split``, ``image_spec``, ``front_end``, ``shards``, ``bytes``, ``bad``, and either ``levels`` (mean and
    standard deviation of the pixels, each channel in [0, 1]) or ``pixels`` (class -> share of all pixels).

    Raises:
        UserError: neither of the two, or one that is not whole.
    """
    return _of_shards(Path(folder)) if is_shards(folder) else _of_data_dir(Path(folder))


def _of_data_dir(folder: Path) -> dict[str, Any]:
    data = ImageDir.read(folder)
    return {
        "kind": "image data directory",
        "images": len(data),
        "labels": _counts(item.label for item in data),
        "classes": list(data.classes),
    }


def _of_shards(folder: Path) -> dict[str, Any]:
    index = ImageIndex.load(folder)
    entries = index.entries()
    spec = index.image_spec
    maps = ShardMaps(index)
    histogram = np.zeros((spec.channels, 256), dtype=np.int64)
    for entry in tqdm(entries, desc=f"reading {folder}", disable=None, leave=False):
        maps.keep({entry.shard})
        pixels = maps.array(entry.shard, entry.image, spec.shape, "uint8", entry.image_id)
        for row, channel in zip(histogram, pixels.reshape(spec.channels, -1), strict=True):
            row += np.bincount(channel, minlength=256)
    summary: dict[str, Any] = {
        "kind": "image shards",
        "split": index.split,
        "images": index.num_images,
        "labels": _counts(entry.label for entry in entries),
        "classes": list(index.classes),
        "image_spec": spec.to_dict(),
        "front_end": index.front_end.to_dict(),
        "shards": len(index.shards),
        "bytes": sum(shard.bytes for shard in index.shards),
        "bad": index.bad_values(),
    }
    if spec.is_labels:
        share = histogram[0] / histogram[0].sum()
        summary["pixels"] = dict(zip(index.classes, share.tolist(), strict=False))
    else:
        levels = np.arange(256) / 255
        weights = histogram / histogram.sum(axis=1, keepdims=True)
        mean = weights @ levels
        summary["levels"] = {"mean": mean.tolist(), "std": np.sqrt(weights @ levels**2 - mean**2).tolist()}
    return summary


def _counts(labels: Iterable[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(label for label in labels if label is not None).items()))


def format_images(summary: Mapping[str, Any], num_labels: int = 20) -> str:
    """Return a summary as lines for people.

    Args:
        summary: of :func:`summarize_images`.
        num_labels: rows of the table of classes at most; 0 for all.
    """
    rows = [("images", f"{summary['images']:,}")]
    if summary["kind"] == "image shards":
        rows += _shard_rows(summary)
    if summary["classes"]:
        rows.append(("label maps of", f"{len(summary['classes'])} classes: {', '.join(summary['classes'])}"))
    lines = [format_facts(rows)]
    lines += [f"  {bad['image_id']}: {bad['reason']}" for bad in summary.get("bad", ())]
    if "pixels" in summary:
        shares = ([name, f"{share:.2%}"] for name, share in summary["pixels"].items())
        lines += ["", format_table(("class", "of all pixels"), shares)]
    if summary["labels"]:
        labels = [[label, f"{count:,}"] for label, count in summary["labels"].items()]
        lines += ["", format_table(("label", "images"), labels[: num_labels or None])]
        if 0 < num_labels < len(labels):
            lines.append(f"{len(labels) - num_labels} more; --speakers 0 shows all")
    return "\n".join(lines)


def _shard_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    front_end = ImageFrontEnd.from_dict(summary["front_end"])
    made = [f"cut to {front_end.crop} x {front_end.crop} from the middle"] if front_end.crop else []
    made += ["scaled"] if front_end.scale else []
    rows = [
        ("of", ", ".join([ImageSpec.from_dict(summary["image_spec"]).describe(), *made])),
        ("shards", f"{summary['shards']:,} of split {summary['split']}, {summary['bytes'] / 1e6:.1f} MB"),
    ]
    if "levels" in summary:
        levels = summary["levels"]
        both = (" ".join(f"{value:.4f}" for value in levels[name]) for name in ("mean", "std"))
        rows.append(("levels", "mean {}, standard deviation {}".format(*both)))
    rows.append(("left out", f"{len(summary['bad']):,} as unusable" if summary["bad"] else "none"))
    return rows


# ---- integrity


def check_image_dir(folder: str | Path, pixels: bool = False) -> tuple[str, list[str]]:
    """Return what a data directory holds, in words, and its faults.

    Args:
        folder: the directory.
        pixels: also read every image.

    Raises:
        UserError: a fault of the directory's files, the first one.
    """
    data = ImageDir.read(folder)
    faults = []
    if pixels:
        for item in data:
            try:
                read_image(item.source, data.classes)
            except UserError as error:
                faults.append(str(error))
    what = f"label maps of {len(data.classes)} classes" if data.classes else f"{len(data.labels)} labels"
    return f"data directory of images; {len(data)} images, {what}", faults


def check_image_shards(folder: str | Path) -> tuple[str, list[str]]:
    """Return what a folder of shards holds, in words, and all faults that its shards have.

    Looked at is all that :func:`sqvae_speech.data.shard_integrity.check_folder` says; of samples, every image's
    header, shape, type and, of label maps, classes, and the JSON.

    Raises:
        UserError: there is no index, or it cannot be read.
    """
    index = ImageIndex.read(Path(folder) / INDEX_NAME)  # not load: faults are listed here, not raised

    def check_sample(row: Sequence[Any], image: bytes, meta: Any) -> Iterator[str]:
        return _of_sample(index, row, image, meta)

    what = f"{len(index.shards)} shards, {index.image_spec.describe()}; {index.num_images} images"
    return what, list(check_folder(index, check_sample))


def _of_sample(index: ImageIndex, row: Sequence[Any], data: bytes, meta: Any) -> Iterator[str]:
    name, label = row[:2]
    spec = index.image_spec
    image, fault = array_fault(data, spec.shape, "uint8")
    if image is not None and spec.is_labels and image.max() >= spec.num_classes:
        fault = f"has class {image.max()}, there are {spec.num_classes}"
    if fault:
        yield f"{name}.{index.member} {fault}"
    if label is not None and label not in index.labels:
        yield f"{name} is of class {label!r}, which index.json does not have"
    if not isinstance(meta, dict) or "image_id" not in meta:
        yield f"{name}.json cannot be read, or lacks what it should say"
    elif (said := (meta["image_id"], meta.get("label"))) != (name, label):
        yield f"{name}.json is of {said}, the shard's list says {(name, label)} (id, label)"


# ---- single images


@dataclass(frozen=True)
class ShownImage:
    """An image to look at.

    Attributes:
        image_id: its id.
        facts: what is known, as (name, value) lines.
        pixels: (C, H, W) uint8, or (H, W) of a label map.
        classes: of label maps; empty for images.
    """

    image_id: str
    facts: tuple[tuple[str, str], ...]
    pixels: np.ndarray
    classes: tuple[str, ...]

    def __str__(self) -> str:
        return format_facts(self.facts)


def show_image(folder: str | Path, image_id: str) -> ShownImage:
    """Look at an image of a data directory, as the corpus has it, or of shards.

    Raises:
        UserError: no such image, with the nearest ids; a folder that is neither; an image that cannot be read.
    """
    return _from_shards(Path(folder), image_id) if is_shards(folder) else _from_data_dir(Path(folder), image_id)


def _from_shards(folder: Path, image_id: str) -> ShownImage:
    index = ImageIndex.load(folder)
    bad = {item.name: item.reason for item in index.bad}
    if image_id in bad:
        raise UserError(f"{image_id!r} was left out of {folder}: {bad[image_id]}")
    entries = {entry.image_id: entry for entry in index.entries()}
    entry = entries[known_id(image_id, entries, folder, "image")]
    maps = ShardMaps(index)
    pixels = maps.array(entry.shard, entry.image, index.image_spec.shape, "uint8", image_id)
    height, width = maps.meta(entry.shard, entry.json)["source_size"]
    facts = [("shard", index.shards[entry.shard].name), ("made from", f"{height} x {width} pixels")]
    return _shown(image_id, facts, entry.label, pixels, index.classes)


def _from_data_dir(folder: Path, image_id: str) -> ShownImage:
    data = ImageDir.read(folder)
    items = {item.image_id: item for item in data}
    item = items[known_id(image_id, items, folder, "image")]
    pixels = read_image(item.source, data.classes)
    if not data.classes:
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return _shown(image_id, [("source", item.source)], item.label, pixels, data.classes)


def _shown(
    image_id: str, facts: list[tuple[str, str]], label: str | None, pixels: np.ndarray, classes: tuple[str, ...]
) -> ShownImage:
    size = " x ".join(map(str, pixels.shape[-2:]))
    if classes:
        numbers, counts = np.unique(pixels, return_counts=True)
        shares = zip(numbers.tolist(), (counts / pixels.size).tolist(), strict=True)
        what = f"{size} label map: " + ", ".join(f"{classes[number]} {share:.1%}" for number, share in shares)
    else:
        kind = {1: "grey", 3: "RGB"}[pixels.shape[0]]
        what = f"{size} {kind}, {pixels.min()} to {pixels.max()}, mean {pixels.mean():.1f}"
    labelled = [("label", label)] if label else []
    return ShownImage(image_id, (("image", image_id), *facts, *labelled, ("pixels", what)), pixels, classes)
