"""CIFAR-10: 60,000 coloured images of 32 x 32 pixels in ten classes (A. Krizhevsky, 2009).

https://www.cs.toronto.edu/~kriz/cifar.html describes the two published forms, binary and pickled. Some pack the
images as JPEGs or PNGs in a folder a class; these are not quite the original pixels where they are JPEGs.
"""

import pickle
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sqvae_speech.data.ids import escape_id
from sqvae_speech.data.image_corpora.common import (
    SUFFIXES,
    ImagePreparation,
    Labelled,
    check_dev,
    write_splits,
    write_standard,
    zip_members,
)
from sqvae_speech.data.image_dir import ImageItem
from sqvae_speech.data.preparation import entries_of, existing_corpus
from sqvae_speech.errors import UserError

WHAT = (
    "CIFAR-10: the folder with data_batch_1.bin (or data_batch_1) to 5 and test_batch, at any depth; or a zip or "
    "folder of files {train,test}/<class>/<name>.{jpg,png}"
)
LABELS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SHAPE = (3, 32, 32)
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


def prepare_cifar10(corpus: str | Path, output: str | Path, *, dev: int = 10_000) -> ImagePreparation:
    """Write ``output/{train,dev,test}`` from CIFAR-10 in any of its forms.

    dev is taken from the training set, test is the test set. From the published files, dev is the last ``dev`` images
    in their order, as in the published SQ-VAE code; they are written to ``output/arrays/<split>.npy``. From files by
    class, whose order is lost, it is the last ones of every class, ``dev`` in all; they stay where they are.

    Args:
        corpus: see :data:`WHAT`.
        output: folder for the data directories.
        dev: images of the training set that are kept for validation.

    Raises:
        UserError: none of the forms, a damaged file, a ``dev`` that leaves nothing.
    """
    root = existing_corpus(corpus, WHAT, folder_only=False)
    if root.is_dir():
        for suffix, read in _READERS.items():
            found = sorted(root.rglob(f"test_batch{suffix}"))
            if found:
                return _from_batches(found[0].parent, suffix, read, output, dev)
    splits = _from_files(root, dev)
    if not splits:
        there = entries_of(root) if root.is_dir() else "other files"
        raise UserError(f"{root} is not CIFAR-10: it has {there}; --corpus takes {WHAT}")
    return write_splits(splits, [], output)


def _from_batches(
    folder: Path, suffix: str, read: Callable[[Path], Labelled], output: str | Path, dev: int
) -> ImagePreparation:
    batches = []
    for name in _BATCHES:
        if not (folder / f"{name}{suffix}").is_file():
            raise UserError(f"{folder} has no {name}{suffix}; get CIFAR-10 again (--download)")
        batches.append(read(folder / f"{name}{suffix}"))
    train = Labelled(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
    return write_standard(output, train, read(folder / f"test_batch{suffix}"), dev, LABELS)


def read_binary(path: Path) -> Labelled:
    """Return images and classes of a file of the binary version: records of a class and 3,072 bytes.

    Raises:
        UserError: a file that is not of whole records, or has another class.
    """
    record = 1 + int(np.prod(SHAPE))
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if not content.size or content.size % record:
        raise UserError(f"{path} has {content.size} bytes, which are not records of {record}; get CIFAR-10 again")
    records = content.reshape(-1, record)
    return _batch(path, records[:, 1:], records[:, 0])


def read_pickled(path: Path) -> Labelled:
    """Return images and classes of a file of the Python version, which is pickled, without running what it says.

    Raises:
        UserError: a pickle that asks for anything but arrays, or holds something else.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
        return _batch(path, content[b"data"], np.asarray(content[b"labels"]))
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} is not a batch of CIFAR-10 ({error}); get it again") from None


def _batch(path: Path, data: Any, classes: np.ndarray) -> Labelled:
    if getattr(data, "dtype", None) != np.uint8 or data.shape != (len(classes), int(np.prod(SHAPE))):
        raise UserError(f"{path} does not hold images of 32 x 32 pixels with a class each; get CIFAR-10 again")
    if classes.size and not 0 <= classes.min() <= classes.max() < len(LABELS):
        raise UserError(f"{path} has classes from {classes.min()} to {classes.max()}; CIFAR-10 has 0 to 9")
    return Labelled(data.reshape(-1, *SHAPE).transpose(0, 2, 3, 1), classes)


class _Unpickler(pickle.Unpickler):
    """Builds arrays and plain values and nothing else: a pickle may otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image needs; do not trust it")
        return known[module, name]


def _reconstruct(subtype: type[np.ndarray], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array to be filled, what NumPy's function of that name makes."""
    return np.ndarray.__new__(subtype, shape, dtype)


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as pickles of protocol 2 write them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
    return text.encode("latin1")


_READERS: Mapping[str, Callable[[Path], Labelled]] = {".bin": read_binary, "": read_pickled}


def _from_files(root: Path, dev: int) -> dict[str, list[ImageItem]]:
    """Return the splits of files {train,test}/<class>/<name>, of a folder or a zip; none when there are none."""
    if root.is_dir():
        files = {path.relative_to(root).as_posix(): str(path.resolve()) for path in root.rglob("*")}
    else:
        files = zip_members(root, WHAT)
    classes: dict[tuple[str, str], list[ImageItem]] = defaultdict(list)
    for name, source in sorted(files.items()):
        parts = Path(name).parts[-3:]
        if len(parts) == 3 and parts[0] in ("train", "test") and Path(name).suffix.lower() in SUFFIXES:
            split, label = parts[0], escape_id(parts[1])
            classes[split, label].append(ImageItem(f"{split}-{label}-{escape_id(Path(name).stem)}", source, label))
    total = sum(len(items) for (split, _), items in classes.items() if split == "train")
    if not total:
        return {}
    check_dev(dev, total)
    splits: dict[str, list[ImageItem]] = {"train": [], "dev": [], "test": []}
    taken = seen = 0
    for (split, _), items in sorted(classes.items()):
        if split == "test":
            splits["test"] += items
            continue
        seen += len(items)  # shares that are no whole numbers add up to dev all the same
        share = round(dev * seen / total) - taken
        taken += share
        splits["train"] += items[: len(items) - share]
        splits["dev"] += items[len(items) - share :]
    return splits
