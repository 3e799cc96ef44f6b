"""MNIST and Fashion-MNIST: 70,000 grey images of 28 x 28 pixels each, in IDX files.

http://yann.lecun.com/exdb/mnist (LeCun, Cortes, Burges), https://github.com/zalandoresearch/fashion-mnist (Xiao,
Rasul, Vollgraf, arXiv 1708.07747); the IDX format is described on the first page.
"""

import functools
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sqvae_speech.data.image_corpora.common import ImagePreparation, Labelled, write_standard
from sqvae_speech.data.preparation import entries_of, existing_corpus
from sqvae_speech.errors import UserError

WHAT = "the folder with the four IDX files (train-images-idx3-ubyte, ...), packed as .gz or not, at any depth"
DIGITS = tuple("0123456789")
FASHION = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle-boot"),
)
_UBYTE = 8  # the type of IDX that is a byte a number


def prepare_mnist(
    corpus: str | Path, output: str | Path, *, dev: int = 10_000, labels: Sequence[str] = DIGITS
) -> ImagePreparation:
    """Write ``output/{train,dev,test}`` from the IDX files of MNIST, or of a set in its form.

    dev is the last ``dev`` images of the training set, as in the published SQ-VAE code; test is the test set. The
    images are written to ``output/arrays/<split>.npy``; ids count them as the corpus does (``train-00000``).

    Args:
        corpus: the folder.
        output: folder for the data directories.
        dev: images of the training set that are kept for validation.
        labels: names of the classes, in the order of their numbers.

    Raises:
        UserError: a file that is missing or is no IDX file of images or labels, a ``dev`` that leaves nothing.
    """
    root = existing_corpus(corpus, WHAT)
    train, test = (_read(root, prefix, len(labels)) for prefix in ("train", "t10k"))
    return write_standard(output, train, test, dev, labels)


def prepare_fashion_mnist(corpus: str | Path, output: str | Path, *, dev: int = 10_000) -> ImagePreparation:
    """Write ``output/{train,dev,test}`` from the IDX files of Fashion-MNIST; see :func:`prepare_mnist`."""
    return prepare_mnist(corpus, output, dev=dev, labels=FASHION)


def _read(root: Path, prefix: str, num_classes: int) -> Labelled:
    images, numbers = (read_idx(_find(root, f"{prefix}-{kind}")) for kind in ("images-idx3", "labels-idx1"))
    if images.ndim != 3 or numbers.shape != images.shape[:1] or (numbers.size and numbers.max() >= num_classes):
        raise UserError(
            f"{root}: images {images.shape} and labels {numbers.shape} of {prefix} do not belong together, or there "
            f"are more than {num_classes} classes; get the files again"
        )
    return Labelled(images, numbers)


def _find(root: Path, name: str) -> Path:
    """Return the file of that name, with or without .gz, also as older archives write it (``.idx3``)."""
    names = [name, name.replace("-idx", ".idx")]
    for pattern in (f"{one}-ubyte{suffix}" for suffix in ("", ".gz") for one in names):
        found = sorted(root.rglob(pattern))
        if found:
            return found[0]
    raise UserError(
        f"{root} has no {name}-ubyte.gz, it has {entries_of(root)}; --corpus takes {WHAT} (or pass --download)"
    )


def read_idx(path: Path) -> np.ndarray:
    """Return the array of bytes in an IDX file, packed by gzip or not.

    Raises:
        UserError: another format, another type than bytes, a file that is damaged.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged ({error}); get it again") from None
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:3] != bytes([0, 0, _UBYTE]) or not dimensions or len(content) < start:
        raise UserError(f"{path} is no IDX file of bytes (it begins with {content[:4].hex()}); get it again")
    shape = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    size = functools.reduce(lambda product, number: product * number, shape, 1)
    if len(content) != start + size:
        raise UserError(f"{path} is damaged: {shape} numbers take {size} bytes, it has {len(content) - start}")
    return np.frombuffer(content, np.uint8, size, start).reshape(shape)
