"""What the corpora of images share: the report, dividing, arrays, and writing the splits."""

import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sqvae_speech.data.files import whole_file
from sqvae_speech.data.image_dir import ImageDir, ImageItem
from sqvae_speech.data.npy import npy_bytes
from sqvae_speech.data.preparation import BasePreparation, LeftOut, examples, write_left_out
from sqvae_speech.data.splits import SPLITS, check_fraction, in_hash_order
from sqvae_speech.errors import UserError

ARRAYS = "arrays"  # folder of what is not in a file of its own, beside the splits
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class Labelled(NamedTuple):
    """Images with their classes.

    Attributes:
        images: (N, H, W) or (N, H, W, 3) uint8.
        numbers: (N,) integers, the classes.
    """

    images: np.ndarray
    numbers: np.ndarray


class ImagePreparation(BasePreparation[ImageDir]):
    """What a corpus gave: its splits, and everything it left out with the reason."""

    noun = "image"
    headings = ("split", "images", "labels", "classes")

    def rows(self) -> list[list[str]]:
        rows = [_row(split, len(data), data.labels, data.classes) for split, data in self.splits.items()]
        if len(rows) > 1:
            every = list(self.splits.values())
            labels = {label for data in every for label in data.labels}
            rows.append(_row("all", sum(map(len, every)), labels, every[0].classes))
        return rows


def _row(split: str, images: int, labels: Iterable[str], classes: Sequence[str]) -> list[str]:
    def count(names: Iterable[str]) -> str:
        return str(len(list(names)) or "-")

    return [split, str(images), count(labels), count(classes)]


def zip_members(path: Path, what: str) -> dict[str, str]:
    """Return ``{name: where it is}`` of the files in a zip.

    Args:
        path: of the zip.
        what: what should be there, for the message.

    Raises:
        UserError: no zip, or one that is not called so: ``images.scp`` knows zips by their names.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is no zip that can be read ({error}); --corpus takes {what}") from None
    if path.suffix != ".zip":
        raise UserError(f"{path} is a zip, but its name does not end in .zip; rename it")
    return {name: f"{path.resolve()}:{name}" for name in names}


def write_array(output: str | Path, split: str, images: np.ndarray) -> Path:
    """Write ``output/arrays/<split>.npy``, and return its absolute path.

    Args:
        output: folder of the data directories.
        split: name of the split.
        images: (N, H, W) or (N, H, W, 3) uint8.
    """
    path = Path(output).resolve() / ARRAYS / f"{split}.npy"
    with whole_file(path) as temporary:
        temporary.write_bytes(npy_bytes(images))
    return path


def array_items(path: Path, prefix: str, labels: Sequence[str], start: int = 0) -> list[ImageItem]:
    """Return the rows of an array as items, ``<prefix>-00000`` and so on.

    Args:
        path: of the array.
        prefix: of the ids.
        labels: class of each row.
        start: number of the first id: its number in the corpus' own files.
    """
    width = max(5, len(str(start + len(labels) - 1)))
    return [
        ImageItem(f"{prefix}-{start + row:0{width}d}", f"{path}:{row}", label) for row, label in enumerate(labels)
    ]


def write_standard(
    output: str | Path, train: Labelled, test: Labelled, dev: int, labels: Sequence[str]
) -> ImagePreparation:
    """Write the splits of a corpus that has a training and a test set in arrays; dev is the end of the former.

    Args:
        output: folder of the data directories.
        train: images and numbers of their classes, in the corpus' order.
        test: the same.
        dev: images of the training set that are kept for validation.
        labels: names of the classes, in the order of their numbers.

    Raises:
        UserError: a ``dev`` that leaves nothing.
    """
    check_dev(dev, len(train.images))
    cut = len(train.images) - dev
    parts = {
        "train": (Labelled(train.images[:cut], train.numbers[:cut]), "train", 0),
        "dev": (Labelled(train.images[cut:], train.numbers[cut:]), "train", cut),
        "test": (test, "test", 0),
    }
    splits = {}
    for split, (part, prefix, start) in parts.items():
        if len(part.images):
            path = write_array(output, split, part.images)
            splits[split] = array_items(path, prefix, [labels[n] for n in part.numbers.tolist()], start)
    return write_splits(splits, [], output)


def check_dev(dev: int, images: int) -> None:
    """Raise :class:`UserError` unless ``dev`` images can be taken from a training set."""
    if not 0 <= dev < images:
        raise UserError(f"dev {dev}; the training set has {images} images, at least one must be left (--dev)")


def divide(
    items: Iterable[ImageItem], fraction: float, seed: int, splits: Sequence[str]
) -> dict[str, list[ImageItem]]:
    """Take about ``fraction`` of every class for each of ``splits``, at least one where it has three or more.

    Images are taken in the order of a hash of their id and ``seed``: the same on any machine.

    Returns:
        ``{"train": the rest, **splits}``.

    Raises:
        UserError: ``fraction`` outside 0 to 0.4.
    """
    check_fraction(fraction)
    classes: dict[str | None, list[ImageItem]] = defaultdict(list)
    for item in items:
        classes[item.label].append(item)
    divided: dict[str, list[ImageItem]] = {split: [] for split in ("train", *splits)}
    for members in classes.values():
        by_id = {item.image_id: item for item in members}
        order = [by_id[name] for name in in_hash_order(by_id, seed)]
        take = 0 if len(order) < 3 or fraction == 0 else max(1, round(fraction * len(order)))
        for number, split in enumerate(splits):
            divided[split] += order[number * take : (number + 1) * take]
        divided["train"] += order[len(splits) * take :]
    return divided


def write_splits(
    items: Mapping[str, Iterable[ImageItem]],
    left_out: list[LeftOut],
    output: str | Path,
    classes: Sequence[str] = (),
) -> ImagePreparation:
    """Write ``output/<split>`` for every split that has images, and ``left_out.txt``.

    A data directory of a split that has none now, from an earlier division, is cleared.

    Args:
        items: the splits.
        left_out: what is in none.
        output: folder for all that.
        classes: of label maps.

    Raises:
        UserError: there is nothing to train on.
    """
    output = Path(output)
    found: dict[str, Any] = {split: list(items.get(split, ())) for split in SPLITS}
    splits = {split: ImageDir(members, classes) for split, members in found.items() if members}
    if "train" not in splits:
        raise UserError("the corpus has no image that can be trained on" + examples(left_out))
    for split in SPLITS:
        if split in splits:
            splits[split].write(output / split)
        else:
            ImageDir.clear(output / split)
    write_left_out(output, left_out)
    return ImagePreparation(splits, left_out)
