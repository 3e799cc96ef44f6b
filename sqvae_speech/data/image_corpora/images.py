"""Any folder or zip of images, at whatever depth, with or without splits and classes in its paths."""

import re
from pathlib import Path, PurePosixPath

from sqvae_speech.data.ids import escape_id
from sqvae_speech.data.image_corpora.common import SUFFIXES, ImagePreparation, divide, write_splits, zip_members
from sqvae_speech.data.image_dir import ImageItem
from sqvae_speech.data.image_sources import parse_source
from sqvae_speech.data.preparation import LeftOut, existing_corpus
from sqvae_speech.data.splits import SPLITS
from sqvae_speech.errors import UserError

WHAT = "a folder or a zip of images (png, jpg, bmp, gif, tif, webp, ppm), at any depth"
FOLDERS = {"train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}


def prepare_images(
    corpus: str | Path,
    output: str | Path,
    *,
    label: str = "",
    fraction: float = 0.05,
    seed: int = 0,
) -> ImagePreparation:
    """Write ``output/{train,dev,test}`` from a folder or zip of images, which stay where they are.

    Where the paths begin with a folder ``train``, these folders (``dev`` may be called ``val``, ``valid`` or
    ``validation``) are the splits, and a dev or test that is missing is not made up. Otherwise dev and test are
    drawn. An image's id is its path without suffix, slashes as hyphens and illegal characters as ``%XX``
    (:func:`sqvae_speech.data.ids.escape_id`).

    Args:
        corpus: the folder or zip.
        output: folder for the data directories.
        label: regular expression, searched in the path below ``corpus`` (folders separated by ``/``); its first group
            is the class, such as ``([^/]+)/[^/]+$`` for the name of the image's folder. Images without one are left
            out. Without it there are no ``labels``.
        fraction: part of every class for dev, and for test, where they are drawn.
        seed: of the splits.

    Raises:
        UserError: no such corpus, no image in it, a pattern that is none or has no group, two images of one id,
            ``fraction`` outside 0 to 0.4.
    """
    root = existing_corpus(corpus, WHAT, folder_only=False)
    pattern = _compiled(label) if label else None
    names = _names(root)
    if not names:
        raise UserError(f"{root} has no image; --corpus takes {WHAT}")
    left_out: list[LeftOut] = []
    items: dict[str, ImageItem] = {}
    paths: dict[str, str] = {}
    for name, source in names:
        if parse_source(source).kind != ("file" if root.is_dir() else "zip"):
            left_out.append(
                LeftOut(name, "images.scp would take this path for something else (it has * or .npy: in it)")
            )
            continue
        found: str | None = None
        if pattern is not None:
            match = pattern.search(name)
            if not (match and match[1]):
                left_out.append(LeftOut(name, f"no class: the path does not match {label}"))
                continue
            found = escape_id(match[1])
        image_id = escape_id(str(PurePosixPath(name).with_suffix("")).replace("/", "-"))
        if image_id in items:
            raise UserError(f"two images would be {image_id!r}: {paths[image_id]} and {name}; rename one")
        items[image_id], paths[image_id] = ImageItem(image_id, source, found), name
    split_of = {image_id: FOLDERS.get(path.partition("/")[0]) for image_id, path in paths.items()}
    if "train" not in split_of.values():
        return write_splits(divide(items.values(), fraction, seed, ("test", "dev")), left_out, output)
    splits = {split: [item for item in items.values() if split_of[item.image_id] == split] for split in SPLITS}
    left_out += [
        LeftOut(paths[image_id], "is in none of the folders train, dev and test")
        for image_id, split in split_of.items()
        if split is None
    ]
    return write_splits(splits, left_out, output)


def _names(root: Path) -> list[tuple[str, str]]:
    """Return the images' paths below the corpus, sorted, and where each is."""
    if root.is_dir():
        files = (path for path in root.rglob("*") if path.is_file())
        every = {path.relative_to(root).as_posix(): str(path.resolve()) for path in files}
    else:
        every = zip_members(root, WHAT)
    return sorted((name, source) for name, source in every.items() if PurePosixPath(name).suffix.lower() in SUFFIXES)


def _compiled(label: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(label)
    except re.error as error:
        raise UserError(f"--label {label!r} is no regular expression: {error}") from None
    if not pattern.groups:
        raise UserError(f"--label {label!r} has no group: put parentheses around the class, as in '([^/]+)/[^/]+$'")
    return pattern
