"""CelebAMask-HQ: label maps of 30,000 faces, 19 classes, as binary masks of 512 x 512 pixels (Lee et al., CVPR 2020).

https://github.com/switchablenorms/CelebAMask-HQ; for non-commercial research.
"""

from pathlib import Path

from sqvae_speech.data.files import read_text
from sqvae_speech.data.image_corpora.common import ImagePreparation, write_splits
from sqvae_speech.data.image_dir import ImageItem
from sqvae_speech.data.preparation import LeftOut, entries_of, existing_corpus, refuse_damage
from sqvae_speech.errors import UserError

WHAT = "CelebAMask-HQ: the folder with CelebAMask-HQ-mask-anno/ and CelebA-HQ-to-CelebA-mapping.txt, at any depth"
MASKS = "CelebAMask-HQ-mask-anno"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
# In the order in which the corpus' own script gives numbers, and lets later masks cover earlier ones.
CLASSES = (
    *("background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"),
    *("mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
# First numbers of CelebA's photos, from 0, that the corpus' own script takes for validation and test.
DEV, TEST = 162_771, 182_638
PER_FOLDER = 2000  # faces of a folder of masks


def prepare_celebamask_hq(corpus: str | Path, output: str | Path, *, max_bad: int = 0) -> ImagePreparation:
    """Write ``output/{train,dev,test}`` from CelebAMask-HQ's masks, which stay where they are.

    A face's label map is joined from its masks when the shards are written; classes and splits are those of the
    corpus' own scripts (24,183 faces to train, 2,993 for dev, 2,824 for test). Ids are the masks' numbers.

    Args:
        corpus: the folder.
        output: folder for the data directories.
        max_bad: faces of the list that may have no mask.

    Raises:
        UserError: a part of the corpus that is missing, a line of the list that cannot be read, more than ``max_bad``
            faces without masks.
    """
    root = existing_corpus(corpus, WHAT)
    folders = sorted(path for path in root.rglob(MASKS) if path.is_dir())
    lists = sorted(root.rglob(MAPPING))
    if not folders or not lists:
        lacks = MAPPING if folders else f"{MASKS}/"
        raise UserError(f"{root} has no {lacks}, it has {entries_of(root)}; --corpus takes {WHAT}")
    there = {path.name.partition("_")[0]: path.parent for path in folders[0].rglob("*_*.png")}
    splits: dict[str, list[ImageItem]] = {"train": [], "dev": [], "test": []}
    left_out: list[LeftOut] = []
    for number, line in enumerate(read_text(lists[0]).splitlines(), 1):
        columns = line.split()
        if not columns or columns[0] == "idx":
            continue
        if len(columns) < 2 or not (columns[0].isdecimal() and columns[1].isdecimal()):
            raise UserError(f"{lists[0]}:{number}: {line!r} should be '<idx> <orig_idx> <orig_file>'")
        name, photo = f"{int(columns[0]):05d}", int(columns[1])
        split = "train" if photo < DEV else "dev" if photo < TEST else "test"
        if name in there:
            splits[split].append(ImageItem(name, f"{there[name].resolve()}/{name}_*.png"))
        else:
            left_out.append(LeftOut(name, f"{name}: is in {MAPPING}, but has no mask in {MASKS}", damaged=True))
    refuse_damage(left_out, max_bad, "image")
    return write_splits(splits, left_out, output, CLASSES)
