"""The figures are real images of what was given, and are never left half-written."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from sqvae_speech.plots import (
    image_picture,
    plot_bars,
    plot_code_histogram,
    plot_confusion,
    plot_curves,
    plot_images,
    plot_map,
    plot_mels,
)


def test_mels_share_one_scale_and_time_axis(tmp_path):
    short, long = torch.zeros(80, 20), np.ones((80, 40))
    path = plot_mels(tmp_path / "new" / "mels.png", {"target": short, "reconstruction": long})
    pixels = imread(path)[..., :3].reshape(-1, 3)
    # viridis' two ends: both mels are constant, so each can only show its own end if the scale is shared
    for colour in ([0.267, 0.005, 0.329], [0.993, 0.906, 0.144]):
        assert (np.abs(pixels - colour).max(axis=1) < 0.02).sum() > 10_000
    assert [p.name for p in path.parent.iterdir()] == ["mels.png"]


@pytest.mark.parametrize("mels", [{}, {"x": np.zeros(80)}, {"x": np.zeros((80, 0))}])
def test_mels_that_cannot_be_drawn(tmp_path, mels):
    with pytest.raises(ValueError, match="plot_mels"):
        plot_mels(tmp_path / "x.png", mels)
    assert list(tmp_path.iterdir()) == []


def test_histogram_of_one_and_of_several_codebooks(tmp_path):
    one = imread(plot_code_histogram(tmp_path / "one.png", torch.tensor([3, 0, 1, 0])))
    two = imread(plot_code_histogram(tmp_path / "two.png", np.array([[3, 0, 1, 0], [0, 0, 0, 0]]), title="dev"))
    assert two.shape[0] > one.shape[0]
    assert two.shape[1] == one.shape[1]
    with pytest.raises(ValueError, match="not negative"):
        plot_code_histogram(tmp_path / "bad.png", [1, -1])


def test_curves_in_one_axis_and_in_panels(tmp_path):
    curves = {"entropy": ([0, 1, 2], [3.0, 2.0, float("nan")]), "sigma_squared": ([0, 2], [10.0, 0.1])}
    together = imread(plot_curves(tmp_path / "a.png", curves, ylabel="nats"))
    apart = imread(plot_curves(tmp_path / "b.png", curves, panels=True, log_y=["sigma_squared"], title="annealing"))
    assert apart.shape != together.shape
    with pytest.raises(ValueError, match="2 steps and 1 values"):
        plot_curves(tmp_path / "c.png", {"x": ([0, 1], [1.0])})


@pytest.mark.parametrize(
    ("shape", "num_classes"),
    [((10, 3, 8, 6), None), ((3, 1, 8, 6), None), ((4, 8, 6), 5)],
    ids=["rgb", "grey", "labels"],
)
def test_images_in_rows_of_pairs(tmp_path, shape, num_classes):
    high = 256 if num_classes is None else num_classes
    levels = torch.randint(high, shape, dtype=torch.uint8)
    pair = {"target": levels, "reconstruction": levels if num_classes else levels.float() / 255}
    path = plot_images(tmp_path / "deep" / "images.png", pair, num_classes=num_classes)
    height, width = imread(path).shape[:2]
    assert (width >= 8 * 100) == (shape[0] == 10), "at most eight columns"
    assert height > 2 * 8


def test_images_are_drawn_as_they_are(tmp_path):
    """A red image is red and a green one green, whatever else is beside them."""
    image = torch.zeros(2, 3, 4, 4)
    image[0, 0], image[1, 1] = 1.0, 1.0
    picture = imread(plot_images(tmp_path / "a.png", {"x": image}))[..., :3]
    for colour in ((1, 0, 0), (0, 1, 0)):
        assert (np.abs(picture - colour).max(axis=-1) < 0.01).sum() > 1000


def test_images_as_one_picture():
    image = torch.zeros(3, 3, 4, 6)
    image[0, 0], image[1, 1], image[2, 2] = 1.0, 1.0, 1.0
    picture = image_picture({"target": image, "reconstruction": 1 - image}, columns=2, least=8)
    # two bands of two rows, an image is enlarged to 8 x 12 and has two pixels of white at its right and below
    assert picture.shape == (4 * 10, 2 * 14, 3)
    assert (picture[:8, :12] == (255, 0, 0)).all()
    assert (picture[:8, 14:26] == (0, 255, 0)).all()
    assert (picture[10:18, :12] == (0, 255, 255)).all()
    assert (picture[20:28, :12] == (0, 0, 255)).all()
    for row, column in ((8, 0), (0, 12), (20, 14), (39, 27)):
        assert (picture[row, column] == 255).all()


def test_images_that_cannot_be_drawn(tmp_path):
    for images in ({}, {"a": torch.zeros(0, 3, 4, 4)}, {"a": torch.zeros(1, 3, 4, 4), "b": torch.zeros(2, 3, 4, 4)}):
        with pytest.raises(ValueError, match="needs images, all of one shape"):
            plot_images(tmp_path / "a.png", images)


def test_confusion(tmp_path):
    path = plot_confusion(tmp_path / "c.png", [[1.0, 0.0], [0.0, 1.0]], ["a", "i"], ["x", "y"], title="t")
    pixels = imread(path)[..., :3].reshape(-1, 3)
    # the two ends of the scale fill the picture in equal parts
    shares = [
        (np.abs(pixels - end).max(axis=1) < 0.02).sum() for end in ([0.267, 0.005, 0.329], [0.993, 0.906, 0.144])
    ]
    assert min(shares) > 20_000
    assert max(shares) < 1.05 * min(shares)
    for matrix, rows in (([[1.0]], ["a", "b"]), (np.zeros((0, 3)), []), ([1.0], ["a"])):
        with pytest.raises(ValueError, match="plot_confusion"):
            plot_confusion(tmp_path / "d.png", matrix, rows)


def test_map_of_points_and_of_none(tmp_path):
    points = [[0.0, 0.0], [1.0, 2.0], [-1.0, 0.5]]
    plain = imread(plot_map(tmp_path / "a.png", points))
    named = imread(plot_map(tmp_path / "b.png", points, labels=["a", "i", "a"], sizes=[1, 5, 0], others=[[2.0, 2.0]]))
    assert plain.shape == named.shape
    assert not np.array_equal(plain, named)
    plot_map(tmp_path / "c.png", np.zeros((0, 2)), labels=[], sizes=np.zeros(0))
    for options in ({"labels": ["a"]}, {"sizes": [1.0]}):
        with pytest.raises(ValueError, match="plot_map: 1"):
            plot_map(tmp_path / "d.png", points, **options)


def test_bars(tmp_path):
    path = plot_bars(tmp_path / "a.png", [0.0, 1.0, 2.0], [3, 1], xlabel="x", ylabel="y", title="t")
    assert imread(path).size
    with pytest.raises(ValueError, match="2 edges for 2 counts"):
        plot_bars(tmp_path / "b.png", [0.0, 1.0], [3, 1], xlabel="x", ylabel="y")
