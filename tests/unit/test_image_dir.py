"""Data directories of images: what is read back, and what is refused with which line."""

import numpy as np
import pytest
from image_fixtures import random_pixels, save

from sqvae_speech.data.image_dir import ImageDir, ImageItem
from sqvae_speech.data.image_sources import parse_source, read_image
from sqvae_speech.errors import UserError

ITEMS = (ImageItem("b", "/x/b.png", "cat"), ImageItem("a", "/x/a 1.png", "dog"))


def test_written_and_read_back(tmp_path):
    ImageDir(ITEMS).write(tmp_path)
    assert (tmp_path / "images.scp").read_text() == "a /x/a 1.png\nb /x/b.png\n"
    assert (tmp_path / "labels").read_text() == "a dog\nb cat\n"
    found = ImageDir.read(tmp_path)
    assert found.items == (ITEMS[1], ITEMS[0])
    assert found.labels == ("cat", "dog")
    ImageDir([ImageItem("a", "/x/a.png")], ["sky", "sea"]).write(tmp_path)
    assert not (tmp_path / "labels").exists()
    assert ImageDir.read(tmp_path).classes == ("sky", "sea")
    ImageDir.clear(tmp_path)
    assert not tmp_path.exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("images.scp", "b x.png\na x.png\n", r"images.scp:2: 'a' comes after 'b': not sorted"),
        ("images.scp", "a x.png\na y.png\n", r"images.scp:2: duplicate image id 'a'"),
        ("images.scp", "a\n", r"images.scp:1: image 'a' has no path"),
        ("images.scp", "a.b x.png\n", r"images.scp:1: image id 'a.b' contains a dot"),
        ("images.scp", "", r"images.scp is empty"),
        ("labels", "a cat\n", r"labels lacks 'b', which images.scp has"),
        ("labels", "a cat\nb c/d\n", r"labels:2: label 'c/d' contains a slash"),
        ("classes", "sky\nsea\nsky\n", r"classes: class 'sky' is listed twice"),
        ("classes", "sky\n", r"classes: 1 classes; label maps have 2 to 256"),
        ("classes", "sky\nthe sea\n", r"classes: class 'the sea' contains a space"),
    ],
)
def test_what_is_refused(tmp_path, name, text, message):
    ImageDir(ITEMS).write(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        ImageDir.read(tmp_path)


def test_labels_for_all_or_for_none():
    with pytest.raises(UserError, match="'a' has no label, others have"):
        ImageDir([ImageItem("a", "x"), ImageItem("b", "y", "cat")])


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"has no images.scp; `sqvae-speech prepare`"):
        ImageDir.read(tmp_path)
    with pytest.raises(UserError, match=r"does not exist"):
        ImageDir.read(tmp_path / "x")


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("/a/b.png", ("file", "/a/b.png", "")),
        ("/a:1/b c.png", ("file", "/a:1/b c.png", "")),
        ("/a.zip:x/y:z.png", ("zip", "/a.zip", "x/y:z.png")),
        ("/a.npy:17", ("npy", "/a.npy", "17")),
        ("/a.zip", ("file", "/a.zip", "")),
        ("/a*/00_*.png", ("masks", "/a*/00_*.png", "")),
        ("/a*/00.png", ("file", "/a*/00.png", "")),
    ],
)
def test_where_an_image_is(source, place):
    assert tuple(parse_source(source)) == place


def test_images_of_every_kind_are_read_as_they_are(tmp_path):
    colour, grey = random_pixels(5, 4, 3), random_pixels(5, 4)
    np.save(tmp_path / "x.npy", np.stack([grey, grey[::-1]]))
    for source, expected in (
        (save(tmp_path / "c.png", colour), colour),
        (save(tmp_path / "g.png", grey), grey),
        (f"{tmp_path / 'x.npy'}:1", grey[::-1]),
    ):
        assert np.array_equal(read_image(str(source)), expected)
    assert np.array_equal(read_image(str(tmp_path / "g.png"), mode="RGB"), np.stack([grey] * 3, axis=2))
    assert np.array_equal(read_image(f"{tmp_path / 'x.npy'}:0", mode="RGB"), np.stack([grey] * 3, axis=2))
    luma = read_image(str(tmp_path / "c.png"), mode="L")
    assert np.abs(luma - colour.astype(float) @ [0.299, 0.587, 0.114]).max() <= 1  # ITU-R BT.601


def test_a_photo_is_turned_upright(tmp_path):
    from PIL import Image

    pixels = random_pixels(8, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(read_image(str(tmp_path / "x.png")), np.rot90(pixels, -1))


def test_masks_make_a_label_map_and_later_classes_cover_earlier_ones(tmp_path):
    first, second = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    first[:3], second[2:, :2] = 255, 255
    save(tmp_path / "07_skin.png", first)
    save(tmp_path / "07_hair.png", np.stack([second] * 3, axis=2))  # the corpus' own masks are stored in colours
    save(tmp_path / "07_other.png", np.full((4, 4), 255, np.uint8))  # of no class
    found = read_image(f"{tmp_path}/07_*.png", ("ground", "hat", "skin", "hair"))
    assert found.tolist() == [[2, 2, 2, 2], [2, 2, 2, 2], [3, 3, 2, 2], [3, 3, 0, 0]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.png", r"none.png: there is no such file"),
        ("text.png", r"text.png: cannot be read \(cannot identify image file"),
        ("cut.png", r"cut.png: cannot be read"),
        ("x.npy:2", r"x.npy:2: rows are 0 to 1"),
        ("x.npy:-1", r"x.npy:-1: rows are 0 to 1"),
        ("floats.npy:0", r"images are \(N, H, W\) or \(N, H, W, 3\) uint8, this is \(2, 3\) float64"),
        ("no.zip:x", r"there is no such file"),
        ("x.zip:y.png", r"there is no such file in the zip"),
        ("00_*.png", r"masks make label maps, which need the names of the classes"),
    ],
)
def test_images_that_cannot_be_read(tmp_path, source, message):
    import zipfile

    (tmp_path / "text.png").write_text("hello")
    data = save(tmp_path / "whole.png", random_pixels(30, 30, 3)).read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    np.save(tmp_path / "x.npy", random_pixels(2, 3, 3))
    np.save(tmp_path / "floats.npy", np.zeros((2, 3)))
    with zipfile.ZipFile(tmp_path / "x.zip", "w"):
        pass
    with pytest.raises(UserError, match=message):
        read_image(f"{tmp_path}/{source}")


def test_label_maps_that_are_none(tmp_path):
    save(tmp_path / "x.png", np.full((2, 2), 3, np.uint8))
    save(tmp_path / "c.png", random_pixels(2, 2, 3))
    assert read_image(f"{tmp_path}/x.png", ("a", "b", "c", "d")).tolist() == [[3, 3], [3, 3]]
    with pytest.raises(UserError, match=r"has class 3, there are 3 \(0 to 2\)"):
        read_image(f"{tmp_path}/x.png", ("a", "b", "c"))
    with pytest.raises(UserError, match="a label map has one byte a pixel, this is RGB"):
        read_image(f"{tmp_path}/c.png", ("a", "b"))
    with pytest.raises(UserError, match=r"00_\*.png: there is no mask of any class \(a, b"):
        read_image(f"{tmp_path}/00_*.png", ("a", "b"))


def test_a_failing_disk_is_no_damaged_image(tmp_path, monkeypatch):
    from PIL import Image

    def fails(*_):
        raise OSError(5, "Input/output error")

    save(tmp_path / "x.png", random_pixels(2, 2, 3))
    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(OSError, match="Input/output error"):
        read_image(f"{tmp_path}/x.png")
