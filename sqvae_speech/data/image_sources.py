"""Reading single images from where a data directory says they are: files, zips, arrays, sets of masks."""

import functools
import hashlib
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sqvae_speech.data.image_dir import ImageItem
from sqvae_speech.errors import UserError

_CONTAINER = re.compile(r"(?P<path>.*?\.(?P<kind>zip|npy)):(?P<member>.+)", re.DOTALL)
MODES = {1: "L", 3: "RGB"}  # channels -> what Pillow calls them
BACKGROUND = 0  # class of the pixels that no mask covers
# What damaged files make Pillow and zipfile raise; a file that is not there is an OSError with an errno.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
)
_OPEN_FILES = 8


class Place(NamedTuple):
    """Where an image is.

    Attributes:
        kind: ``file``, ``zip``, ``npy`` or ``masks``.
        path: of the file, the zip, the array; the pattern of the masks.
        member: of the zip, or the row of the array.
    """

    kind: str
    path: str
    member: str = ""


def parse_source(source: str) -> Place:
    """Return what the second column of ``images.scp`` means."""
    match = _CONTAINER.fullmatch(source)
    if match:
        return Place(match["kind"], match["path"], match["member"])
    return Place("masks" if "*" in os.path.basename(source) else "file", source)


def read_image(source: str, classes: Sequence[str] = (), mode: str | None = None) -> np.ndarray:
    """Read an image, or a label map where ``classes`` are given.

    Args:
        source: second column of ``images.scp``.
        classes: names of the classes of label maps.
        mode: ``L`` (grey) or ``RGB`` to convert to; None keeps grey images grey and makes all others RGB. Photos are
            turned upright as their EXIF says; what is transparent shows its own colour.

    Returns:
        (H, W) uint8 of grey images and label maps, (H, W, 3) of coloured ones.

    Raises:
        UserError: a file that is missing or damaged, a row that is not there, a number of no class.
    """
    place = parse_source(source)
    try:
        if place.kind == "npy":
            pixels = _row(place)
        elif place.kind == "masks":
            return _join_masks(place, classes)
        else:
            pixels = _decode(place, mode, is_map=bool(classes))
    except FileNotFoundError:
        raise UserError(f"{source}: there is no such file") from None
    except KeyError:
        raise UserError(f"{source}: there is no such file in the zip") from None
    except _DAMAGE as error:
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise UserError(f"{source}: cannot be read ({error}); get it again or leave it out") from None
    if classes:
        return _checked_map(pixels, source, len(classes))
    if mode == "RGB" and pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if mode == "L" and pixels.ndim == 3:
        return _image_of(pixels, "L")
    return pixels


def _decode(place: Place, mode: str | None, is_map: bool) -> np.ndarray:
    from PIL import Image, ImageOps

    stream: str | io.BytesIO = place.path
    if place.kind == "zip":
        stream = io.BytesIO(_zip(place.path, os.stat(place.path).st_mtime_ns).read(place.member))
    with Image.open(stream) as image:
        if is_map:
            if image.mode not in ("L", "P", "1"):
                raise ValueError(f"a label map has one byte a pixel, this is {image.mode}")
            # of a palette the numbers are wanted, not the colours; of one bit, 0 and 1
            return np.asarray(image).astype(np.uint8)
        upright = ImageOps.exif_transpose(image)
        wanted = mode or ("L" if upright.mode in ("L", "1", "LA") else "RGB")
        return np.asarray(upright.convert(wanted))


def _image_of(pixels: np.ndarray, mode: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert(mode))


@functools.lru_cache(maxsize=_OPEN_FILES)
def _zip(path: str, modified: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@functools.lru_cache(maxsize=_OPEN_FILES)
def _array(path: str, modified: int) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.uint8 or not (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)):
        raise ValueError(f"images are (N, H, W) or (N, H, W, 3) uint8, this is {array.shape} {array.dtype}")
    return array


def _row(place: Place) -> np.ndarray:
    array = _array(place.path, os.stat(place.path).st_mtime_ns)
    if not place.member.isdecimal() or int(place.member) >= len(array):
        raise UserError(f"{place.path}:{place.member}: rows are 0 to {len(array) - 1}")
    return np.array(array[int(place.member)])


def _mask_paths(place: Place, classes: Sequence[str]) -> dict[int, Path]:
    """Return the masks that there are, by the number of their class."""
    folder, _, name = place.path.rpartition("/")
    before, after = name.split("*", 1)
    paths = {number: Path(folder) / f"{before}{label}{after}" for number, label in enumerate(classes)}
    return {number: path for number, path in paths.items() if path.is_file()}


def _join_masks(place: Place, classes: Sequence[str]) -> np.ndarray:
    from PIL import Image

    if not classes:
        raise UserError(f"{place.path}: masks make label maps, which need the names of the classes (file `classes`)")
    paths = _mask_paths(place, classes)
    if not paths:
        raise UserError(f"{place.path}: there is no mask of any class ({', '.join(classes[:6])}, ...)")
    joined: np.ndarray | None = None
    for number, path in sorted(paths.items()):
        with Image.open(path) as image:
            mask = np.asarray(image.convert("L"))
        if joined is None:
            joined = np.full(mask.shape, BACKGROUND, dtype=np.uint8)
        if mask.shape != joined.shape:
            raise UserError(f"{path}: {mask.shape} pixels, the other masks have {joined.shape}")
        joined[mask > 0] = number
    assert joined is not None
    return joined


def _checked_map(pixels: np.ndarray, source: str, num_classes: int) -> np.ndarray:
    if pixels.ndim != 2:
        raise UserError(f"{source}: a label map has one number a pixel, this is {pixels.shape}")
    if pixels.size and pixels.max() >= num_classes:
        raise UserError(f"{source}: has class {pixels.max()}, there are {num_classes} (0 to {num_classes - 1})")
    return pixels


def sources_digest(items: Iterable[ImageItem], settings: str, classes: Sequence[str] = ()) -> str:
    """SHA-256 of settings, items, and the sizes and times of the files that the images are in."""
    digest = hashlib.sha256(settings.encode())
    seen: dict[str, list[list[int]]] = {}
    for item in items:
        place = parse_source(item.source)
        state = seen.get(place.path)
        if state is None:
            files = _mask_paths(place, classes).values() if place.kind == "masks" else [Path(place.path)]
            state = [_state(path) for path in files]
            if place.kind in ("zip", "npy"):  # which hold many
                seen[place.path] = state
        digest.update(json.dumps([item.image_id, item.source, item.label, state]).encode())
    return digest.hexdigest()


def _state(path: Path) -> list[int]:
    if not path.exists():
        return []
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
