"""Charts show the values they were given; embedded pictures and sounds are what went in."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from sqvae_speech.reporting.charts import (
    MOST_POINTS,
    Dots,
    MapPoint,
    Series,
    dot_plot,
    heat_map,
    histogram,
    line_chart,
    point_map,
)
from sqvae_speech.reporting.drawing import Axis, log_ticks, short, ticks
from sqvae_speech.reporting.embed import LEVELS, mel_uri, png_uri, shares_uri, sound_uri
from sqvae_speech.reporting.examples import Span, strip


def svg_of(figure) -> ElementTree.Element:
    return ElementTree.fromstring(str(figure.picture))


def points_of(figure, class_: str = "line") -> list[list[tuple[float, float]]]:
    """The strokes of the lines of a chart."""
    found = []
    for path in svg_of(figure).iter("path"):
        if path.get("class", "").startswith(class_):
            for stroke in path.get("d", "").split("M")[1:]:
                numbers = [float(number) for number in re.findall(r"-?[\d.]+", stroke)]
                found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition("base64,")[2])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0, 2000, [0, 500, 1000, 1500, 2000]),
        (-1.2, 1.9, [-1, 0, 1]),
        (40, 41.7, [40, 40.5, 41, 41.5]),
    ],
)
def test_ticks_are_round_numbers_in_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_ticks_of_a_logarithmic_axis():
    assert log_ticks(0.01, 100) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert log_ticks(0.6, 6) == pytest.approx([1, 2, 5])
    assert log_ticks(2000, 7000) == pytest.approx([2000, 4000, 6000]), "less than a decade"
    axis = Axis(0.01, 100, 0, 400, log=True)
    assert [axis(value) for value in (0.01, 1, 100)] == pytest.approx([0, 200, 400])


def test_numbers_for_people():
    assert [short(value) for value in (0, 0.00041234, 12.345, 2000, 1_500_000, -3.5)] == [
        "0", "0.000412", "12.3", "2,000", "1.5M", "-3.5",
    ]  # fmt: skip


def test_a_curve_goes_through_its_values():
    figure = line_chart("loss", [Series("a", [0, 50, 100], [1.0, 3.0, 2.0])])
    (stroke,) = points_of(figure)
    xs, ys = zip(*stroke, strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)
    # 3 is at the top, 1 at the bottom, 2 half way
    assert ys[1] < ys[2] < ys[0]
    assert ys[2] == pytest.approx((ys[0] + ys[1]) / 2, abs=0.11)
    assert not figure.keys, "one curve needs no key"


def test_values_that_cannot_be_shown():
    figure = line_chart("a", [Series("a", [1, 2, 3, 4], [float("nan"), 0.0, -1.0, 10.0])], log_y=True)
    assert [len(stroke) for stroke in points_of(figure)] == [1], "neither is 0 on a logarithmic axis"
    assert line_chart("a", [Series("a", [1, 2], [float("nan"), float("inf")])]) is None
    assert line_chart("a", []) is None
    assert line_chart("a", [Series("a", [5], [2.0])]) is not None


def test_long_curves_are_thinned_by_means():
    y = np.concatenate([np.zeros(30_000), np.ones(30_000)])
    (stroke,) = points_of(line_chart("a", [Series("a", range(60_000), y)]))
    assert len(stroke) == MOST_POINTS
    heights = {round(height, 1) for _, height in stroke}
    assert len(heights) == 2, "means of equal values are these values"


def test_what_happens_at_the_beginning_does_not_flatten_the_rest():
    y = [1e6, *np.linspace(2, 1, 99)]
    (stroke,) = points_of(line_chart("a", [Series("a", range(100), y)]))
    rest = [height for _, height in stroke[5:]]
    assert max(rest) - min(rest) > 100, "the rest takes the height of the picture"
    assert min(height for _, height in stroke) >= 0, "and the beginning stays inside"


def test_bars_dots_and_points():
    bars = list(svg_of(histogram("h", [0, 1, 2], [10, 5], xlabel="x")).iter("rect"))
    assert float(bars[0].get("height")) == pytest.approx(2 * float(bars[1].get("height")), abs=0.11)

    dots = dot_plot("abx", [Dots("x", {"a": 10.0, "b": 20.0}), Dots("y", {"a": None, "b": None})], xlabel="%")
    circles = list(svg_of(dots).iter("circle"))
    assert [circle.get("class") for circle in circles] == ["dot c0", "dot c1"], "y has no value, so no row"
    assert float(circles[0].get("cx")) < float(circles[1].get("cx"))
    assert dot_plot("abx", [Dots("y", {"a": None})], xlabel="%") is None

    points = [MapPoint(0, 0, 1, "s", "code 1"), MapPoint(1, 2, 4, "a", "code 2")]
    drawn = svg_of(point_map("map", points, [(0.5, 0.5)]))
    large, little = drawn.iter("circle")
    assert float(large.get("r")) > float(little.get("r"))
    assert float(large.get("cy")) < float(little.get("cy")), "y grows upwards"
    assert [path.get("class") for path in drawn.iter("path")] == ["cross"]
    assert [text.text for text in drawn.iter("text")] == ["a", "s"], "the largest first"


def test_names_in_pictures_are_text():
    nasty = "<script>alert(1)</script>&\"'"
    picture = svg_of(heat_map(nasty, "data:,", [nasty], "x", "y"))
    assert [title.text for title in picture.iter("title")] == [nasty]
    assert nasty in [text.text for text in picture.iter("text")]
    row = ElementTree.fromstring(str(strip(nasty, 1.0, [Span(0, 1, nasty)], [Span(0, 0.5, "3"), Span(0.5, 1, "3")])))
    assert len(list(row.iter("rect"))) == 1, "two uses of one unit, one after the other, are one block"


def test_a_png_holds_the_numbers():
    values = np.array([[0.0, 0.5, 1.0], [2.0, -1.0, np.nan]])
    palette = np.stack([np.arange(256.0)] * 3 + [np.full(256, 255.0)], axis=1)
    pixels = imread(io.BytesIO(decoded(png_uri(values, 0.0, 1.0, palette))))
    assert pixels.shape[:2] == (2, 3)
    assert pixels[..., 0] == pytest.approx(np.array([[0, 128, 255], [255, 0, 0]]) / 255, abs=1e-6)
    mel = imread(io.BytesIO(decoded(mel_uri(np.array([[0.0], [1.0]]), 0.0, 1.0))))
    assert mel[0, 0, :3].sum() > mel[1, 0, :3].sum(), "low bands are at the bottom, high values are bright"
    shares = imread(io.BytesIO(decoded(shares_uri(np.array([[0.0, 1.0]])))))
    assert shares[0, :, 3].tolist() == [0.0, 1.0]
    assert LEVELS <= 256


def test_a_sound_is_without_loss():
    wav = np.random.default_rng(0).uniform(-1, 1, 4000)
    data, rate = soundfile.read(io.BytesIO(decoded(sound_uri(wav, 22050))))
    assert rate == 22050
    assert np.abs(data - wav).max() <= 0.5001 / 32768 + (1 / 32768)
