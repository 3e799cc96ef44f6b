"""What fixes image data, and its refusals."""

import pytest

from sqvae_speech.errors import UserError
from sqvae_speech.images.spec import ImageSpec


@pytest.mark.parametrize(
    ("spec", "shape", "words"),
    [
        (ImageSpec(28, 30, 1), (1, 28, 30), "28 x 30 grey"),
        (ImageSpec(32, 32), (3, 32, 32), "32 x 32 RGB"),
        (ImageSpec(64, 48, 1, 19), (64, 48), "64 x 48 label maps of 19 classes"),
    ],
)
def test_round_trip_shape_and_words(spec, shape, words):
    assert ImageSpec.from_dict(spec.to_dict()) == spec
    assert (spec.shape, spec.describe(), spec.is_labels) == (shape, words, spec.num_classes > 0)
    spec.require_same(ImageSpec(**spec.to_dict()), "a", "b")


def test_other_data_is_refused_with_both_values():
    with pytest.raises(UserError, match="checkpoint x is of 32 x 32 RGB, dump of 28 x 28 grey: use data and models"):
        ImageSpec(32, 32).require_same(ImageSpec(28, 28, 1), "checkpoint x", "dump")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 4), "at least one pixel, got 0 x 4"),
        ((4, 4, 2), r"1 \(grey\) or 3 \(RGB\) channels, got 2"),
        ((4, 4, 3, 5), "one channel and 2 to 256 classes, got 3 and 5"),
        ((4, 4, 1, 257), "one channel and 2 to 256 classes, got 1 and 257"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(ValueError, match=message):
        ImageSpec(*values)


def test_settings_from_elsewhere():
    with pytest.raises(UserError, match="unknown key heigth, did you mean 'height'"):
        ImageSpec.from_dict({"heigth": 4, "width": 4})
    with pytest.raises(UserError, match="width"):
        ImageSpec.from_dict({"height": 4})
