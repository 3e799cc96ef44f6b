"""CelebA: 202,599 photos of faces, aligned and cropped to 178 x 218 pixels (Liu et al., ICCV 2015).

https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; for non-commercial research, by an agreement on that page.
"""

from pathlib import Path

from sqvae_speech.data.files import read_text
from sqvae_speech.data.image_corpora.common import ImagePreparation, write_splits, zip_members
from sqvae_speech.data.image_dir import ImageItem
from sqvae_speech.data.preparation import LeftOut, entries_of, existing_corpus, refuse_damage
from sqvae_speech.errors import UserError

WHAT = "CelebA: the folder with img_align_celeba (or img_align_celeba.zip) and list_eval_partition.txt, at any depth"
PARTITION = "list_eval_partition.txt"
FOLDER = "img_align_celeba"
SPLITS = {"0": "train", "1": "dev", "2": "test"}


def prepare_celeba(corpus: str | Path, output: str | Path, *, max_bad: int = 0) -> ImagePreparation:
    """Write ``output/{train,dev,test}`` from CelebA's aligned photos, which stay where they are.

    Splits are the corpus' own (``list_eval_partition.txt``). Ids are the files' numbers. The published SQ-VAE code
    crops and scales them: ``sqvae-speech shards --crop 140 --size 64``.

    Args:
        corpus: the folder.
        output: folder for the data directories.
        max_bad: photos of the list that may be missing.

    Raises:
        UserError: a part of the corpus that is missing, a line of the list that cannot be read, more than ``max_bad``
            photos missing.
    """
    root = existing_corpus(corpus, WHAT)
    lists = sorted(root.rglob(PARTITION))
    if not lists:
        raise UserError(f"{root} has no {PARTITION}, it has {entries_of(root)}; --corpus takes {WHAT}")
    there = _photos(root)
    splits: dict[str, list[ImageItem]] = {split: [] for split in SPLITS.values()}
    left_out: list[LeftOut] = []
    for number, line in enumerate(read_text(lists[0]).splitlines(), 1):
        columns = line.split()
        if len(columns) != 2 or columns[1] not in SPLITS:
            raise UserError(f"{lists[0]}:{number}: {line!r} should be '<photo> <0, 1 or 2>'; get the list again")
        photo, split = columns[0], SPLITS[columns[1]]
        if photo in there:
            splits[split].append(ImageItem(Path(photo).stem, there[photo]))
        else:
            left_out.append(LeftOut(photo, f"{photo}: is in {PARTITION}, but not in {FOLDER}", damaged=True))
    refuse_damage(left_out, max_bad, "image")
    return write_splits(splits, left_out, output)


def _photos(root: Path) -> dict[str, str]:
    """Return ``{name: where it is}`` of the photos, of the folder or, where there is none, of the zip."""
    for folder in sorted(path for path in root.rglob(FOLDER) if path.is_dir()):
        photos = {path.name: str(path.resolve()) for path in folder.glob("*.jpg")}
        if photos:  # torchvision unpacks into img_align_celeba/img_align_celeba at times
            return photos
    for path in sorted(root.rglob(f"{FOLDER}.zip")):
        photos = zip_members(path, WHAT)
        return {Path(name).name: source for name, source in photos.items() if name.endswith(".jpg")}
    raise UserError(f"{root} has neither {FOLDER}/*.jpg nor {FOLDER}.zip; --corpus takes {WHAT}")
