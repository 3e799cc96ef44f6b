"""Image shards: what is in them is what the corpus has, whole or not at all, by any number of workers."""

import itertools
import json

import numpy as np
import pytest
import webdataset
from image_fixtures import make_image_dir, make_image_shards, random_pixels, save, stored

from sqvae_speech.bin.main import main
from sqvae_speech.data.cluster import ClusterConfig
from sqvae_speech.data.image_dir import ImageDir, ImageItem
from sqvae_speech.data.image_front_end import ImageFrontEnd
from sqvae_speech.data.image_index import ImageIndex
from sqvae_speech.data.image_loader import image_batches
from sqvae_speech.data.image_shards import write_image_shards
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.errors import UserError
from sqvae_speech.images.spec import ImageSpec

CLASSES = ("sky", "sea", "sand")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def images_of(index) -> np.ndarray:
    return np.concatenate([batch["image"].numpy() for batch in image_batches(index, 3)])


def test_what_is_written_is_what_the_corpus_has(tmp_path):
    pixels = make_image_dir(tmp_path / "train")
    index = write_image_shards(tmp_path / "train", tmp_path / "dump", images_per_shard=4, progress=False)
    assert [shard.images for shard in index.shards] == [3, 3, 4]
    assert index == ImageIndex.load(tmp_path / "dump")
    assert index.image_spec == ImageSpec(6, 4, 3)
    assert index.labels == ("a", "b")
    assert [entry.label for entry in index.entries()] == ["a", "b"] * 5
    assert np.array_equal(images_of(index), np.float32(stored(pixels)) / np.float32(255))
    found = {}
    for path in index.shard_paths():  # as webdataset's own users read them
        for sample in webdataset.WebDataset(str(path), shardshuffle=False).decode():
            found[sample["__key__"]] = (sample["image.npy"], sample["json"])
    assert len(found) == 10
    for row, (name, (image, meta)) in enumerate(found.items()):
        assert np.array_equal(image, stored(pixels)[row])
        assert meta == {"image_id": name, "source_size": [6, 4], "label": "ab"[row % 2]}


def test_label_maps(tmp_path):
    pixels = make_image_dir(tmp_path / "train", shape=(6, 4), classes=CLASSES)
    index = write_image_shards(tmp_path / "train", tmp_path / "dump", progress=False)
    assert index.image_spec == ImageSpec(6, 4, 1, 3)
    assert index.classes == CLASSES
    assert np.array_equal(images_of(index), pixels)
    scaled = write_image_shards(tmp_path / "train", tmp_path / "half", size=(3, 2), progress=False)
    assert set(np.unique(images_of(scaled))) <= {0, 1, 2}  # numbers of classes are never averaged


def triangle(pixels: np.ndarray, size: int) -> np.ndarray:
    """Scale the first axis: new pixels are means of old ones, weighted by a triangle two new ones wide."""
    scale = len(pixels) / size
    reach = max(scale, 1.0)
    rows = []
    for new in range(size):
        centre = (new + 0.5) * scale
        weights = np.maximum(0, 1 - np.abs(np.arange(len(pixels)) + 0.5 - centre) / reach)
        rows.append(np.tensordot(weights / weights.sum(), pixels, axes=1))
    return np.stack(rows)


@pytest.mark.parametrize(
    ("shape", "size", "crop"), [((9, 8), (4, 5), None), ((5, 6), (9, 9), None), ((11, 9), (4, 4), 6)]
)
def test_cropping_and_scaling_are_an_antialiased_bilinear_filter(shape, size, crop):
    pixels = random_pixels(*shape, 3)
    found = ImageFrontEnd(crop=crop, scale=True).prepare(pixels, ImageSpec(*size, 3), "x")
    expected = pixels.astype(np.float64)
    if crop:  # from the middle; a half pixel rounds to even, as torchvision's CenterCrop
        top, left = round((shape[0] - crop) / 2), round((shape[1] - crop) / 2)
        expected = expected[top : top + crop, left : left + crop]
    expected = triangle(triangle(expected, size[0]).swapaxes(0, 1), size[1]).swapaxes(0, 1)
    assert np.abs(found.transpose(1, 2, 0) - expected).max() <= 1  # Pillow rounds to bytes between the two axes


def test_colours_and_grey_are_converted_to_what_is_wanted(tmp_path):
    save(tmp_path / "c.png", random_pixels(4, 4, 3))
    save(tmp_path / "g.png", random_pixels(4, 4))
    ImageDir([ImageItem("a", f"{tmp_path}/c.png"), ImageItem("b", f"{tmp_path}/g.png")]).write(tmp_path / "data")
    options = {"progress": False}
    assert write_image_shards(tmp_path / "data", tmp_path / "1", channels=1, **options).image_spec.shape == (1, 4, 4)
    three = write_image_shards(tmp_path / "data", tmp_path / "3", **options)
    assert three.image_spec.shape == (3, 4, 4)  # as the first
    assert np.ptp(images_of(three)[1], axis=0).max() == 0


def test_images_that_cannot_be_used_are_listed(tmp_path):
    pixels = make_image_dir(tmp_path / "train", count=6)
    data = ImageDir.read(tmp_path / "train")
    (tmp_path / "text.png").write_text("x")
    save(tmp_path / "large.png", random_pixels(9, 9, 3))
    bad = [ImageItem("i001", f"{tmp_path}/text.png", "a"), ImageItem("i004", f"{tmp_path}/large.png", "c")]
    ImageDir([*(item for item in data if item.image_id not in ("i001", "i004")), *bad]).write(tmp_path / "train")
    options = {"images_per_shard": 2, "progress": False}
    with pytest.raises(UserError, match=r"images that cannot be used: 2, at most 1 may be \(--max-bad\)"):
        write_image_shards(tmp_path / "train", tmp_path / "dump", max_bad=1, **options)
    assert not (tmp_path / "dump" / "index.json").exists()
    index = write_image_shards(tmp_path / "train", tmp_path / "dump", max_bad=2, **options)
    assert [item.name for item in index.bad] == ["i001", "i004"]
    assert "give --size to scale all to one size" in index.bad[1].reason
    assert index.labels == ("a", "b")  # c was only that of a bad one
    kept = [0, 2, 3, 5]
    assert np.array_equal(images_of(index), np.float32(stored(pixels)[kept]) / np.float32(255))


def test_workers_and_interruptions_leave_the_same_bytes(tmp_path, monkeypatch):
    make_image_dir(tmp_path / "train", count=9)
    write_image_shards(tmp_path / "train", tmp_path / "one", images_per_shard=2, progress=False)
    options = {"images_per_shard": 2, "progress": False}
    write_image_shards(
        tmp_path / "train", tmp_path / "two", cluster=ClusterConfig(num_workers=2), split="train", **options
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    (tmp_path / "two" / "train-000001.tar").unlink()
    (tmp_path / "two" / "train-000002.json").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("*.tar")}
    write_image_shards(tmp_path / "train", tmp_path / "two", **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("*.tar")}
    assert {name for name in before if before[name] == after[name]} == {
        "train-000000.tar",
        "train-000003.tar",
        "train-000004.tar",
    }


@pytest.mark.parametrize("change", ["pixels", "label", "size"])
def test_what_has_changed_is_written_again(tmp_path, change):
    for number in range(4):
        save(tmp_path / f"{number}.png", random_pixels(4, 4, 3, seed=number))
    items = [ImageItem(f"i{number}", f"{tmp_path}/{number}.png", "a") for number in range(4)]
    ImageDir(items).write(tmp_path / "train")
    first = write_image_shards(tmp_path / "train", tmp_path / "dump", images_per_shard=2, progress=False)
    size = None
    if change == "pixels":
        save(tmp_path / "3.png", random_pixels(4, 4, 3, seed=9))
    elif change == "label":
        ImageDir([*items[:3], ImageItem("i3", items[3].source, "b")]).write(tmp_path / "train")
    else:
        size = (2, 2)
    second = write_image_shards(tmp_path / "train", tmp_path / "dump", size=size, images_per_shard=2, progress=False)
    changed = [a.sha256 != b.sha256 for a, b in zip(first.shards, second.shards, strict=True)]
    assert changed == ([True, True] if change == "size" else [False, True])


def test_shards_of_the_other_kind_are_refused(tmp_path):
    images = make_image_shards(tmp_path / "train")
    with pytest.raises(UserError, match=r"train holds images; this takes shards of speech"):
        ShardIndex.load(images.folder)
    values = json.loads((images.folder / "index.json").read_text())
    del values["kind"]  # as indices of speech were before there was another kind
    (images.folder / "index.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"train holds speech; this takes shards of images"):
        ImageIndex.load(images.folder)


def test_from_the_command_line(tmp_path, capsys):
    make_image_dir(tmp_path / "train", shape=(8, 8))
    words = ["shards", str(tmp_path / "train"), str(tmp_path / "dump"), "--num-workers", "1", "--no-progress"]
    assert main([*words, "--size", "4", "--channels", "3", "--images-per-shard", "5"]) == 0
    said = capsys.readouterr().out
    assert "(4 x 4 RGB)" in said
    assert "shards             2, " in said
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--trim", "40"])
    assert stopped.value.code == 2
    assert "--trim is for speech" in capsys.readouterr().err
    assert main([*words, "--size", "4", "5", "6"]) == 1
    assert main([*words, "--size", "0"]) == 1
    assert main([*words, "--channels", "2"]) == 1
    assert main([*words, "--crop", "9"]) == 1
    said = capsys.readouterr().err
    for message in ("--size takes one number", "at least one pixel", "1 (grey) or 3 (RGB)", "8 x 8 pixels, --crop 9"):
        assert message in said


def test_image_options_are_not_for_speech(tmp_path, capsys):
    from data_fixtures import make_data_dir

    make_data_dir(tmp_path / "data" / "train", speakers=1, per_speaker=2)
    with pytest.raises(SystemExit) as stopped:
        main(["shards", str(tmp_path / "data" / "train"), str(tmp_path / "dump"), "--size", "32"])
    assert stopped.value.code == 2
    assert "--size is for images" in capsys.readouterr().err


# ---- looking at them


def test_summary_and_show(tmp_path, capsys, monkeypatch):
    pixels = make_image_dir(tmp_path / "train")
    index = write_image_shards(tmp_path / "train", tmp_path / "dump", progress=False)
    assert main(["data", "summary", "--json", str(tmp_path / "train"), str(tmp_path / "dump")]) == 0
    directory, shards = json.loads(capsys.readouterr().out).values()
    assert directory == {"kind": "image data directory", "images": 10, "labels": {"a": 5, "b": 5}, "classes": []}
    assert shards["labels"] == directory["labels"]
    levels = pixels.astype(np.float64) / 255
    assert np.allclose(shards["levels"]["mean"], levels.mean(axis=(0, 1, 2)))
    assert np.allclose(shards["levels"]["std"], levels.std(axis=(0, 1, 2)))
    assert main(["data", "summary", str(index.folder)]) == 0
    assert "6 x 4 RGB" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", "dump", "i003"]) == 0
    said = capsys.readouterr().out
    assert f"6 x 4 RGB, {pixels[3].min()} to {pixels[3].max()}, mean {pixels[3].mean():.1f}" in said
    assert (tmp_path / "i003.png").read_bytes().startswith(b"\x89PNG")
    assert main(["data", "show", "--no-plot", "train", "i003"]) == 0
    assert f"{tmp_path}/train.npy:3" in capsys.readouterr().out
    assert main(["data", "show", "dump", "i03"]) == 1
    assert "near it are i003" in capsys.readouterr().err


def test_label_maps_are_summarized_by_class(tmp_path, capsys):
    index = make_image_shards(tmp_path / "train", shape=(6, 4), classes=CLASSES)
    pixels = images_of(index)
    assert main(["data", "summary", "--json", str(index.folder)]) == 0
    (summary,) = json.loads(capsys.readouterr().out).values()
    assert summary["pixels"] == pytest.approx({name: (pixels == n).mean() for n, name in enumerate(CLASSES)})
    assert main(["data", "show", "--plot", str(tmp_path / "x.png"), str(index.folder), "i001"]) == 0
    assert f"sky {(pixels[1] == 0).mean():.1%}" in capsys.readouterr().out


def test_validate_finds_all_faults(tmp_path, capsys):
    index = make_image_shards(tmp_path / "train", shape=(6, 4), classes=CLASSES)
    folder = str(index.folder)
    assert main(["data", "validate", "--images", folder, str(tmp_path / "data" / "train")]) == 0
    assert "3 shards, 6 x 4 label maps of 3 classes; 10 images" in capsys.readouterr().out
    path = index.shard_path(1)
    entry = next(entry for entry in index.entries() if entry.shard == 1)
    content = bytearray(path.read_bytes())
    content[sum(entry.image) - 1] = 3  # a class that there is not
    content[entry.json[0]] = ord("x")
    path.write_bytes(content)
    assert main(["data", "validate", folder]) == 1
    faults = [line.strip() for line in capsys.readouterr().err.splitlines()]
    name = f"{path.name}: {entry.image_id}"
    assert f"{path.name}: has changed (SHA-256 differs from index.json's)" in faults
    assert f"{name}.image.npy has class 3, there are 3" in faults
    assert f"{name}.json cannot be read, or lacks what it should say" in faults
    (tmp_path / "data" / "train.npy").unlink()
    assert main(["data", "validate", str(tmp_path / "data" / "train")]) == 0
    assert main(["data", "validate", "--images", str(tmp_path / "data" / "train")]) == 1
    assert "10 faults" in capsys.readouterr().err


def test_a_shard_that_is_not_what_its_list_says(tmp_path):
    index = make_image_shards(tmp_path / "train")
    state = json.loads((index.folder / "train-000000.json").read_text())
    state["images"][0][2][0] += 512
    (index.folder / "train-000000.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"train-000000.tar does not hold the image of 'i000' where its list says"):
        list(itertools.islice(image_batches(index, 2), 1))
