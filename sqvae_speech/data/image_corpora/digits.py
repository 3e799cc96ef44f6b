"""The embedded default: scikit-learn's digits, 1,797 real images of 8 x 8 pixels that come with the package.

They are the test set of the Optical Recognition of Handwritten Digits corpus (Alpaydin, Kaynak, 1998), CC BY 4.0,
https://archive.ics.uci.edu/dataset/80.
"""

from pathlib import Path

import numpy as np

from sqvae_speech.data.image_corpora.common import ImagePreparation, array_items, divide, write_array, write_splits

WHAT = "nothing: the images come with scikit-learn"
_MAXIMUM = 16  # of the package's numbers


def prepare_digits(
    corpus: str | Path | None, output: str | Path, *, fraction: float = 0.1, seed: int = 0
) -> ImagePreparation:
    """Write ``output/{train,dev,test}`` from the digits of scikit-learn.

    The images are written as they are, 8 x 8 pixels; ``sqvae-speech shards --size 28`` or ``--size 32`` scales them
    to what the published networks take.

    Args:
        corpus: not looked at.
        output: folder for the data directories.
        fraction: part of each class for dev, and for test.
        seed: of the splits.

    Raises:
        UserError: ``fraction`` outside 0 to 0.4.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / _MAXIMUM)).astype(np.uint8)
    path = write_array(output, "digits", pixels)
    items = array_items(path, "digit", [str(digit) for digit in digits.target.tolist()])
    return write_splits(divide(items, fraction, seed, ("test", "dev")), [], output)
