"""Face-like label maps in CelebAMask-HQ's layout, drawn from a seed: a stand-in where the corpus is not at hand.

python egs/celebamask_hq/local/make_faces.py downloads/faces --count 2000

Writes CelebAMask-HQ-mask-anno/<n>/<number>_<class>.png, binary masks, and CelebA-HQ-to-CelebA-mapping.txt, so that
`sqvae-speech prepare celebamask_hq --corpus downloads/faces` takes it. A face is made of ellipses and bands whose
places, sizes and tilt vary; hats, glasses, earrings and necklaces are rare, as in the corpus.
"""

import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.data.files import write_text
from sqvae_speech.data.image_corpora.celebamask_hq import DEV, MAPPING, MASKS, PER_FOLDER, TEST
from sqvae_speech.errors import UserError

Mask = np.ndarray  # (size, size) bool


class Canvas:
    """Shapes in a face's own coordinates: the origin between the eyes, x to the right, y down, tilted with the head.

    Args:
        size: of the masks, pixels.
        centre: of the face, in parts of the size.
        scale: what a unit is, in parts of the size.
        tilt: of the head, radians.
    """

    def __init__(self, size: int, centre: tuple[float, float], scale: float, tilt: float):
        rows, columns = (np.mgrid[:size, :size] + 0.5) / size
        right, down = (columns - centre[0]) / scale, (rows - centre[1]) / scale
        self.x = np.cos(tilt) * right + np.sin(tilt) * down
        self.y = np.cos(tilt) * down - np.sin(tilt) * right

    def ellipse(self, x: float, y: float, width: float, height: float) -> Mask:
        """With half axes ``width`` and ``height`` around a point."""
        return ((self.x - x) / width) ** 2 + ((self.y - y) / height) ** 2 < 1

    def band(self, x: float, y: float, width: float, height: float, arch: float) -> Mask:
        """A stroke, whose middle is ``arch`` higher than its ends."""
        across = (self.x - x) / width
        return (np.abs(across) < 1) & (np.abs(self.y - y + arch * (1 - across**2)) < height)


def draw_face(generator: np.random.Generator, size: int) -> dict[str, Mask]:
    """The masks of a face by class, without those that it does not have."""

    def between(low: float, high: float) -> float:
        return float(generator.uniform(low, high))

    def happens(probability: float) -> bool:
        return bool(generator.random() < probability)

    canvas = Canvas(size, (between(0.44, 0.56), between(0.42, 0.52)), between(0.2, 0.25), between(-0.25, 0.25))
    width, chin = between(0.95, 1.15), between(1.55, 1.85)
    face = canvas.ellipse(0, 0.25, width, chin - 0.25)
    masks: dict[str, Mask] = {"skin": face}
    eye, eye_height, eye_size = between(0.4, 0.5), between(0.07, 0.13), between(0.17, 0.24)
    brow, arch = between(0.25, 0.36), between(0.02, 0.12)
    # the corpus names sides as the person does
    for side, sign in (("r", -1), ("l", 1)):
        masks[f"{side}_eye"] = canvas.ellipse(sign * eye, 0.0, eye_size, eye_height)
        masks[f"{side}_brow"] = canvas.band(sign * eye, -brow, 0.3, 0.06, arch)
    nose = between(0.5, 0.68)
    masks["nose"] = canvas.ellipse(0, nose - 0.2, between(0.18, 0.26), 0.3)
    if happens(0.15):
        rims = [canvas.ellipse(sign * eye, 0.02, 0.36, 0.27) for sign in (-1, 1)]
        masks["eye_g"] = rims[0] | rims[1] | canvas.band(0, 0.0, 0.2, 0.04, 0.03)
    mouth, lips, open_by = between(0.9, 1.05), between(0.3, 0.45), between(0.02, 0.14) if happens(0.4) else 0.0
    masks["u_lip"] = canvas.ellipse(0, mouth - open_by, lips, 0.09) & (canvas.y < mouth - open_by + 0.02)
    masks["l_lip"] = canvas.ellipse(0, mouth + open_by, 0.85 * lips, 0.13) & (canvas.y > mouth + open_by - 0.02)
    if open_by:
        masks["mouth"] = canvas.ellipse(0, mouth, 0.9 * lips, open_by)
    # hair falls to its length on both sides, and leaves the face free below its line
    length, line = between(-0.2, 2.4), between(-0.75, -0.5)
    volume = between(1.1, 1.35)
    mane = canvas.ellipse(0, -0.1, volume * width, 1.25 * volume)
    curtain = (np.abs(canvas.x) < volume * width) & (canvas.y > -0.2) & (canvas.y < length)
    inner = face & (canvas.y > line + 0.5 * np.abs(canvas.x))
    hair = (mane & (canvas.y < max(length, 0.0)) | curtain) & ~inner
    shown = length < 0.9 and happens(0.8)
    for side, sign in (("r", -1), ("l", 1)):
        if shown:
            masks[f"{side}_ear"] = canvas.ellipse(sign * (width + 0.03), 0.2, 0.15, 0.33) & ~face
            hair &= ~masks[f"{side}_ear"]
    if shown and happens(0.3):
        masks["ear_r"] = canvas.ellipse(width + 0.05, 0.62, 0.08, 0.13) | canvas.ellipse(
            -width - 0.05, 0.62, 0.08, 0.13
        )
    masks["hair"] = hair
    if happens(0.1):
        masks["hat"] = canvas.ellipse(0, line - 0.1, 1.15 * volume * width, 1.0) & (canvas.y < line + 0.1)
    # what is below the head neither tilts nor is before it
    body = Canvas(size, (between(0.46, 0.54), between(0.42, 0.52)), 0.23, between(-0.05, 0.05))
    head = face | hair
    neck = (np.abs(body.x) < between(0.5, 0.65)) & (body.y > 1.0)
    cloth = body.ellipse(0, between(3.2, 3.5), between(2.0, 2.6), between(1.5, 1.8))
    masks["neck"] = neck & ~head & ~cloth
    masks["cloth"] = cloth & ~head
    if happens(0.1):
        masks["neck_l"] = body.band(0, between(1.85, 2.0), 0.6, 0.06, -0.2) & ~head
        masks["neck"] &= ~masks["neck_l"]
        masks["cloth"] &= ~masks["neck_l"]
    return {name: mask for name, mask in masks.items() if mask.any()}


def write_face(task: tuple[Path, int, int, int]) -> None:
    """Draw a face and write its masks: below which folder, its number, the size, the seed."""
    output, number, size, seed = task
    folder = output / MASKS / str(number // PER_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in draw_face(np.random.default_rng((seed, number)), size).items():
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{number:05d}_{name}.png", compress_level=1)


def make_faces(output: Path, count: int, size: int, seed: int, num_workers: int = 1) -> None:
    """Write ``count`` faces: four fifths for training, a tenth for validation and for test each."""
    lines = ["idx orig_idx orig_file"]
    for number in range(count):
        # the corpus' own script divides by the photo's number in CelebA
        photo = number + {8: DEV, 9: TEST}.get(number % 10, 0)
        lines.append(f"{number} {photo} {photo + 1:06d}.jpg")
    tasks = [(output, number, size, seed) for number in range(count)]
    if num_workers > 1:
        with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(write_face, tasks, chunksize=50))
    else:
        for task in tasks:
            write_face(task)
    write_text(output / MAPPING, "\n".join(lines) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the corpus."""
    parser = ArgumentParser(prog="make_faces.py", description="Write face-like label maps in CelebAMask-HQ's layout.")
    parser.add_argument("corpus", type=Path, help="folder to write to")
    parser.add_argument("--count", type=int, default=2000, help="faces")
    parser.add_argument("--size", type=int, default=128, help="of the masks, pixels")
    parser.add_argument("--seed", type=int, default=0, help="of all that varies")
    parser.add_argument("--num-workers", type=int, default=1, help="processes")
    options = parser.parse_args(argv)
    if options.count < 10 or options.size < 16:
        raise UserError(f"--count {options.count} --size {options.size}; at least 10 and 16 are needed")
    make_faces(options.corpus, options.count, options.size, options.seed, options.num_workers)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
