"""Data directories of images: ``images.scp``, ``labels`` and ``classes``, what Kaldi's are for recordings.

One line an entry; the first two are sorted by the bytes of the first column (``LC_ALL=C sort``):

==========  =====================================================  ==================
images.scp  image, where it is (see below)                         required
labels      image, its class                                       optional
classes     a class name a line, in the order of their numbers     for label maps
==========  =====================================================  ==================

An image is in a file (``/data/a.png``), in a zip (``/data/a.zip:folder/a.png``), or a row of an array of uint8,
(N, H, W) or (N, H, W, 3) (``/data/train.npy:17``). Relative paths are relative to the working directory, as in Kaldi.

With ``classes`` the images are label maps: every pixel is the number of a class. Such an image may also be a set of
binary masks, a file a class: ``/data/0/00000_*.png``, where ``*`` stands for the class' name. Pixels without a mask
are of the first class; of masks that overlap, the one of the later class counts.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqvae_speech.data.files import read_text, write_text
from sqvae_speech.data.ids import check_id
from sqvae_speech.data.listings import read_lines, require_same_ids
from sqvae_speech.errors import UserError

LIST_NAME = "images.scp"
FILES = (LIST_NAME, "labels", "classes")
MAX_CLASSES = 256  # a pixel is a byte


@dataclass(frozen=True, slots=True)
class ImageItem:
    """An image of a data directory.

    Attributes:
        image_id: its id, legal by :func:`sqvae_speech.data.ids.check_id`.
        source: where it is, see the module's description.
        label: its class, or None where the directory has no ``labels``.
    """

    image_id: str
    source: str
    label: str | None = None


class ImageDir:
    """The images of one split, in the order of their ids.

    Args:
        items: in any order; ids must be legal and unique, labels there for all images or for none.
        classes: names of the classes of label maps, in the order of their numbers; none for images.

    Raises:
        UserError: an illegal or duplicate id, or a rule of the format that the images break.
    """

    def __init__(self, items: Iterable[ImageItem], classes: Sequence[str] = ()):
        self.items = tuple(sorted(items, key=lambda item: item.image_id))
        self.classes = tuple(classes)
        previous = ""
        for item in self.items:
            check_id(item.image_id, kind="image id")
            if item.image_id == previous:
                raise UserError(f"duplicate image id {previous!r}; ids must be unique")
            if not item.source or "\n" in item.source:
                raise UserError(f"image {item.image_id!r} has the path {item.source!r}; it takes one line")
            if item.label is not None:
                check_id(item.label, kind="label")
            previous = item.image_id
        without = [item.image_id for item in self.items if item.label is None]
        if without and len(without) < len(self.items):
            raise UserError(f"{without[0]!r} has no label, others have; give one to all images or to none")
        check_classes(self.classes)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[ImageItem]:
        return iter(self.items)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that there are, sorted."""
        return tuple(sorted({item.label for item in self.items if item.label is not None}))

    def write(self, folder: str | Path) -> None:
        """Write the directory's files, each whole or not at all; optional files of an earlier content are removed."""
        folder = Path(folder)
        if not self.items:
            raise UserError(f"no images to write to {folder}")
        tables = {
            LIST_NAME: [f"{item.image_id} {item.source}" for item in self],
            "labels": [f"{item.image_id} {item.label}" for item in self] if self.labels else [],
            "classes": list(self.classes),
        }
        for name, lines in tables.items():
            if lines:
                write_text(folder / name, "".join(f"{line}\n" for line in lines))
            else:
                (folder / name).unlink(missing_ok=True)

    @staticmethod
    def clear(folder: str | Path) -> None:
        """Remove a directory's files, and the folder if nothing else is in it."""
        folder = Path(folder)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not there, or not empty
            folder.rmdir()

    @classmethod
    def read(cls, folder: str | Path) -> "ImageDir":
        """Read and validate a data directory.

        Raises:
            UserError: a file that is missing, or a line that is wrong, with the file, the line and the remedy.
        """
        folder = Path(folder)
        if not is_image_dir(folder):
            what = f"has no {LIST_NAME}" if folder.is_dir() else "does not exist"
            raise UserError(f"data directory {folder} {what}; `sqvae-speech prepare` makes data directories")
        sources: dict[str, str] = {}
        for line in read_lines(folder / LIST_NAME, "image id"):
            if not line.rest:
                raise UserError(f"{line.where}: image {line.key!r} has no path")
            sources[line.key] = line.rest
        labels: dict[str, str] = {}
        if (folder / "labels").exists():
            for line in read_lines(folder / "labels", "image id"):
                (label,) = line.columns("<label>")
                labels[line.key] = check_id(label, line.where, "label")
            require_same_ids(folder / "labels", labels, sources, LIST_NAME)
        classes: list[str] = []
        if (folder / "classes").exists():
            classes = read_text(folder / "classes").splitlines()
            check_classes(classes, f"{folder / 'classes'}: ")
        return cls((ImageItem(name, source, labels.get(name)) for name, source in sources.items()), classes)


def is_image_dir(folder: str | Path) -> bool:
    """Whether a folder is a data directory of images."""
    return (Path(folder) / LIST_NAME).is_file()


def check_classes(classes: Sequence[str], where: str = "") -> None:
    """Raise :class:`UserError` unless these are names of classes of label maps, or none."""
    for name in classes:
        check_id(name, where.removesuffix(": "), "class")
    repeated = [name for number, name in enumerate(classes) if name in classes[:number]]
    if repeated:
        raise UserError(f"{where}class {repeated[0]!r} is listed twice; names must be unique")
    if len(classes) == 1 or len(classes) > MAX_CLASSES:
        raise UserError(f"{where}{len(classes)} classes; label maps have 2 to {MAX_CLASSES}, images none")
