"""Corpora of images: tiny ones in the published forms, written by the tests from the descriptions of the forms."""

import gzip
import hashlib
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from download_server import serving, stay_here
from image_fixtures import idx_bytes, random_pixels, save

from sqvae_speech.bin.main import main
from sqvae_speech.bin.prepare import corpora_and_sources
from sqvae_speech.data.corpus_sources import Source
from sqvae_speech.data.download import Archive
from sqvae_speech.data.image_corpora import CORPORA
from sqvae_speech.data.image_corpora.celebamask_hq import CLASSES
from sqvae_speech.data.image_corpora.sources import SOURCES
from sqvae_speech.data.image_dir import ImageDir
from sqvae_speech.data.image_sources import read_image
from sqvae_speech.errors import UserError


def prepare(name: str, corpus: Path | None, output: Path, **options) -> dict[str, ImageDir]:
    CORPORA[name].prepare(corpus, output, **options)
    return {split: ImageDir.read(output / split) for split in ("train", "dev", "test") if (output / split).exists()}


def images_of(data: ImageDir) -> np.ndarray:
    return np.stack([read_image(item.source, data.classes) for item in data])


# ---- MNIST


def mnist_files(train: int = 7, test: int = 3) -> dict[str, np.ndarray]:
    return {
        "train-images-idx3-ubyte": random_pixels(train, 5, 4, seed=1),
        "train-labels-idx1-ubyte": random_pixels(train, seed=2, high=10),
        "t10k-images-idx3-ubyte": random_pixels(test, 5, 4, seed=3),
        "t10k-labels-idx1-ubyte": random_pixels(test, seed=4, high=10),
    }


@pytest.fixture
def mnist(tmp_path) -> Path:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, array in mnist_files().items():
        if name.startswith("train"):
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:  # unpacked, and with the dot of older archives
            (folder / name.replace("-idx", ".idx")).write_bytes(idx_bytes(array))
    return tmp_path / "MNIST"


def test_mnist(mnist, tmp_path):
    found = prepare("mnist", mnist, tmp_path / "data", dev=2)
    files = mnist_files()
    assert {split: [item.image_id for item in data] for split, data in found.items()} == {
        "train": [f"train-{row:05d}" for row in range(5)],
        "dev": ["train-00005", "train-00006"],  # the last of the training set, as published
        "test": [f"test-{row:05d}" for row in range(3)],
    }
    pixels = np.concatenate([images_of(found["train"]), images_of(found["dev"])])
    assert np.array_equal(pixels, files["train-images-idx3-ubyte"])
    assert np.array_equal(images_of(found["test"]), files["t10k-images-idx3-ubyte"])
    labels = [item.label for split in ("train", "dev") for item in found[split]]
    assert labels == [str(digit) for digit in files["train-labels-idx1-ubyte"]]


def test_fashion_mnist_has_names(mnist, tmp_path):
    names = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]
    found = prepare("fashion_mnist", mnist, tmp_path / "data", dev=0)
    numbers = mnist_files()["train-labels-idx1-ubyte"]
    assert [item.label for item in found["train"]] == [names[number] for number in numbers]
    assert "dev" not in found


def test_an_earlier_division_is_cleared(mnist, tmp_path):
    prepare("mnist", mnist, tmp_path / "data", dev=2)
    assert "dev" not in prepare("mnist", mnist, tmp_path / "data", dev=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x0d\3" + bytes(12), "is no IDX file of bytes"),  # floats
        (idx_bytes(random_pixels(7, 5, 4))[:-1], r"is damaged: \[7, 5, 4\] numbers take 140 bytes, it has 139"),
        (idx_bytes(random_pixels(6, 5, 4)), "do not belong together"),
        (b"", "is no IDX file"),
    ],
)
def test_idx_files_that_are_none(mnist, tmp_path, content, message):
    (mnist / "raw" / "train-images-idx3-ubyte").write_bytes(content)  # before the packed one
    with pytest.raises(UserError, match=message):
        prepare("mnist", mnist, tmp_path / "data", dev=0)


def test_a_dev_that_leaves_nothing(mnist, tmp_path):
    with pytest.raises(UserError, match=r"dev 7; the training set has 7 images"):
        prepare("mnist", mnist, tmp_path / "data", dev=7)
    (mnist / "raw" / "train-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8bno")
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte.gz is damaged"):
        prepare("mnist", mnist, tmp_path / "data", dev=0)
    (mnist / "raw" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"MNIST has no train-labels-idx1-ubyte.gz, it has raw; --corpus takes"):
        prepare("mnist", mnist, tmp_path / "data", dev=0)


# ---- CIFAR-10


def cifar_batches() -> dict[str, tuple[np.ndarray, list[int]]]:
    """Name -> (N, 3072) bytes, red, green and blue planes, and classes."""
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    return {
        name: (random_pixels(4, 3072, seed=seed), random_pixels(4, seed=seed, high=10).tolist())
        for seed, name in enumerate(names)
    }


def write_binary(folder: Path) -> Path:
    folder.mkdir()
    for name, (data, labels) in cifar_batches().items():
        records = np.concatenate([np.array(labels, np.uint8)[:, None], data], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def write_pickled(folder: Path) -> Path:
    folder.mkdir()
    for name, (data, labels) in cifar_batches().items():
        batch = {b"batch_label": b"x", b"labels": labels, b"data": data, b"filenames": [b"a.png"] * 4}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


@pytest.mark.parametrize("write", [write_binary, write_pickled])
def test_cifar10_in_its_published_forms(tmp_path, write):
    found = prepare("cifar10", write(tmp_path / "cifar").parent, tmp_path / "data", dev=5)
    batches = cifar_batches()
    train = np.concatenate([batches[f"data_batch_{number}"][0] for number in range(1, 6)])
    expected = train.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert np.array_equal(images_of(found["train"]), expected[:15])
    assert np.array_equal(images_of(found["dev"]), expected[15:])
    assert [item.image_id for item in found["dev"]] == [f"train-{row:05d}" for row in range(15, 20)]
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert [item.label for item in found["test"]] == [names[label] for label in batches["test_batch"][1]]


def test_a_pickle_that_runs_something_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    folder = write_pickled(tmp_path / "cifar")
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}, protocol=2))
    with pytest.raises(UserError, match=r"data_batch_3 is not a batch of CIFAR-10 \(it asks for .*do not trust it"):
        prepare("cifar10", folder, tmp_path / "data", dev=0)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "data_batch_2.bin").unlink(), "has no data_batch_2.bin"),
        (lambda folder: (folder / "test_batch.bin").write_bytes(b"x" * 99), "has 99 bytes, which are not records of"),
        (lambda folder: (folder / "test_batch.bin").write_bytes(b"\x0a" + bytes(3072)), "has classes from 10 to 10"),
    ],
)
def test_cifar10_that_is_not_whole(tmp_path, change, message):
    folder = write_binary(tmp_path / "cifar")
    change(folder)
    with pytest.raises(UserError, match=message):
        prepare("cifar10", folder, tmp_path / "data", dev=0)


@pytest.fixture
def cifar_files(tmp_path) -> Path:
    for split, count in (("train", 5), ("test", 2)):
        for seed, label in enumerate(("cat", "dog", "frog")):
            for number in range(count):
                pixels = random_pixels(32, 32, 3, seed=100 * seed + number)
                save(tmp_path / "cifar10" / split / label / f"{number:04d}.png", pixels)
    (tmp_path / "cifar10" / "train" / "cat" / "notes.txt").write_text("x")
    return tmp_path / "cifar10"


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_as_files_by_class(cifar_files, tmp_path, packed):
    corpus = cifar_files
    if packed:
        corpus = tmp_path / "x.zip"
        with zipfile.ZipFile(corpus, "w") as archive:
            for path in cifar_files.rglob("*.*"):
                archive.write(path, path.relative_to(tmp_path))
    found = prepare("cifar10", corpus, tmp_path / "data", dev=4)
    assert [item.image_id for item in found["dev"]] == [
        *("train-cat-0004", "train-dog-0003", "train-dog-0004", "train-frog-0004")  # 4 of 15, spread over 3 classes
    ]
    assert len(found["train"]) == 11
    assert [item.label for item in found["test"]] == ["cat", "cat", "dog", "dog", "frog", "frog"]
    assert np.array_equal(images_of(found["test"])[3], random_pixels(32, 32, 3, seed=101))
    assert ("x.zip:cifar10/" in found["dev"].items[0].source) == packed


def test_what_is_not_cifar10(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "readme").write_text("x")
    with pytest.raises(UserError, match=r"is not CIFAR-10: it has readme; --corpus takes"):
        prepare("cifar10", tmp_path / "c", tmp_path / "data")
    with pytest.raises(UserError, match=r"is no zip that can be read"):
        prepare("cifar10", tmp_path / "c" / "readme", tmp_path / "data")


# ---- CelebA


@pytest.mark.parametrize("packed", [False, True])
def test_celeba(tmp_path, packed):
    root = tmp_path / "celeba"
    names = [f"{number:06d}.jpg" for number in range(1, 7)]
    for seed, name in enumerate(names[:-1]):
        save(root / "img_align_celeba" / name, random_pixels(8, 6, 3, seed=seed))
    if packed:
        with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
            for path in sorted((root / "img_align_celeba").iterdir()):
                archive.write(path, path.relative_to(root))
                path.unlink()
    (root / "list_eval_partition.txt").write_text("".join(f"{n} {s}\n" for n, s in zip(names, "000122", strict=True)))
    with pytest.raises(UserError, match=r"000006.jpg: is in list_eval_partition.txt, but not in img_align_celeba"):
        prepare("celeba", root, tmp_path / "data")
    found = prepare("celeba", root, tmp_path / "data", max_bad=1)
    ids = {split: [item.image_id for item in data] for split, data in found.items()}
    assert ids == {"train": ["000001", "000002", "000003"], "dev": ["000004"], "test": ["000005"]}
    assert images_of(found["train"]).shape == (3, 8, 6, 3)
    (root / "list_eval_partition.txt").write_text("000001.jpg 3\n")
    with pytest.raises(UserError, match=r"list_eval_partition.txt:1: '000001.jpg 3' should be"):
        prepare("celeba", root, tmp_path / "data")


# ---- CelebAMask-HQ


def test_celebamask_hq(tmp_path):
    root = tmp_path / "CelebAMask-HQ"
    rows = [(0, 119613), (1, 162770), (2, 162771), (3, 182637), (2000, 182638), (4, 5)]
    lines = [f"{number}   {photo}   {photo + 1:06d}.jpg" for number, photo in rows]
    root.mkdir()
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("idx   orig_idx   orig_file\n" + "\n".join(lines) + "\n")
    for number, _ in rows[:-1]:
        skin = np.zeros((6, 6), np.uint8)
        skin[number % 5 :] = 255
        folder = root / "CelebAMask-HQ-mask-anno" / str(number // 2000)
        save(folder / f"{number:05d}_skin.png", skin)
    hat = np.zeros((6, 6), np.uint8)
    hat[4:, :3] = 255
    save(root / "CelebAMask-HQ-mask-anno" / "0" / "00000_hat.png", hat)
    with pytest.raises(UserError, match=r"00004: is in CelebA-HQ-to-CelebA-mapping.txt, but has no mask"):
        prepare("celebamask_hq", tmp_path, tmp_path / "data")
    found = prepare("celebamask_hq", tmp_path, tmp_path / "data", max_bad=1)
    ids = {split: [item.image_id for item in data] for split, data in found.items()}
    assert ids == {"train": ["00000", "00001"], "dev": ["00002", "00003"], "test": ["02000"]}
    assert found["train"].classes == CLASSES
    assert len(CLASSES) == 19
    first = images_of(found["train"])[0]
    assert first[0].tolist() == [1] * 6
    assert first[5].tolist() == [14, 14, 14, 1, 1, 1]  # hat is class 14 and covers skin
    assert images_of(found["train"])[1][0].tolist() == [0] * 6


# ---- digits


def test_digits_are_those_of_the_package(tmp_path):
    from sklearn.datasets import load_digits

    found = prepare("digits", None, tmp_path / "data")
    assert {split: len(data) for split, data in found.items()} == {
        "train": 1439,
        "dev": 179,
        "test": 179,
    }  # a tenth of each class
    package = load_digits()
    for data in found.values():
        for item in data.items[::50]:
            number = int(item.image_id.removeprefix("digit-"))
            assert item.label == str(package.target[number])
            assert np.abs(read_image(item.source) / 255 * 16 - package.images[number]).max() < 0.04
    again = prepare("digits", None, tmp_path / "again")
    assert [item.image_id for item in again["dev"]] == [item.image_id for item in found["dev"]]
    other = prepare("digits", None, tmp_path / "again", seed=1)
    assert [item.image_id for item in other["dev"]] != [item.image_id for item in found["dev"]]


# ---- any folder


@pytest.fixture
def photos(tmp_path) -> Path:
    for number in range(20):
        save(tmp_path / "photos" / "ab"[number % 2] / f"my photo.{number}.png", random_pixels(4, 4, 3, seed=number))
    (tmp_path / "photos" / "b" / "x.txt").write_text("x")
    return tmp_path / "photos"


def test_a_folder_of_images_is_divided_by_class(photos, tmp_path):
    found = prepare("images", photos, tmp_path / "data", label="([^/]+)/[^/]+$", fraction=0.1)
    assert {split: len(data) for split, data in found.items()} == {"train": 16, "dev": 2, "test": 2}
    assert all(data.labels == ("a", "b") for data in found.values())
    assert len({item.image_id for data in found.values() for item in data}) == 20
    assert "a-my%20photo%2E0" in {item.image_id for data in found.values() for item in data}
    assert prepare("images", photos, tmp_path / "data")["train"].labels == ()


def test_splits_that_a_folder_has_are_kept(photos, tmp_path):
    (photos / "a").rename(photos / "train")
    (photos / "b").rename(photos / "val")
    save(photos / "extra" / "x.png", random_pixels(4, 4))
    found = prepare("images", photos, tmp_path / "data")
    assert {split: len(data) for split, data in found.items()} == {"train": 10, "dev": 10}
    assert (tmp_path / "data" / "left_out.txt").read_text().startswith("extra/x.png\tis in none of the folders")


def test_a_path_that_would_mean_something_else_is_left_out(photos, tmp_path):
    save(photos / "a" / "x*.png", random_pixels(4, 4, 3))
    assert sum(map(len, prepare("images", photos, tmp_path / "data").values())) == 20
    assert (tmp_path / "data" / "left_out.txt").read_text().startswith("a/x*.png\timages.scp would take this path")


def test_folders_of_images_that_are_refused(photos, tmp_path):
    with pytest.raises(UserError, match=r"--label '\(' is no regular expression"):
        prepare("images", photos, tmp_path / "data", label="(")
    with pytest.raises(UserError, match=r"--label 'a' has no group"):
        prepare("images", photos, tmp_path / "data", label="a")
    with pytest.raises(UserError, match=r"fraction 0\.5 for dev"):
        prepare("images", photos, tmp_path / "data", fraction=0.5)
    save(photos / "a-my photo.0.png", random_pixels(4, 4))
    with pytest.raises(UserError, match=r"two images would be 'a-my%20photo%2E0'"):
        prepare("images", photos, tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "photos.bin", "w"):
        pass
    with pytest.raises(UserError, match=r"photos.bin is a zip, but its name does not end in .zip; rename it"):
        prepare("images", tmp_path / "photos.bin", tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no image; --corpus takes"):
        prepare("images", tmp_path / "empty", tmp_path / "data")


# ---- the command line, and fetching


def test_the_embedded_corpus_needs_no_folder(tmp_path, capsys):
    assert main(["prepare", "digits", "--output", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["train", "1439", "10", "-"]
    assert (tmp_path / "data" / "left_out.txt").read_text() == ""


def test_no_corpus_has_two_meanings():
    every, sources = corpora_and_sources()
    from sqvae_speech.data.corpora import CORPORA as speech

    assert len(every) == len(CORPORA) + len(speech)
    assert set(sources) <= set(every)


def test_addresses_are_well_formed():
    for name, source in SOURCES.items():
        assert source.licence, name
        for part, archive in source.archives.items():
            assert part in source.there, name
            assert archive.url.startswith("http"), name
            assert archive.sha256 is not None, name
            assert len(bytes.fromhex(archive.sha256)) == 32, name


@pytest.mark.parametrize("name", ["celeba", "celebamask_hq"])
def test_what_an_agreement_is_asked_for_says_where(name, tmp_path, capsys):
    words = ["prepare", name, "--download", "--corpus", str(tmp_path), "--output", str(tmp_path / "data")]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert f"--download: {name} cannot be fetched" in said
    assert SOURCES[name].page in said
    assert str(tmp_path) in said


def test_mnist_is_fetched_file_by_file(tmp_path, monkeypatch, capsys):
    stay_here(monkeypatch)
    with serving() as server:
        archives = {}
        for part, published in SOURCES["mnist"].archives.items():
            array = next(array for name, array in mnist_files().items() if name.startswith(part))
            content = gzip.compress(idx_bytes(array))
            server.files[published.name] = content
            digest = hashlib.sha256(content).hexdigest()
            archives[part] = Archive(f"{server.url}/{published.name}", sha256=digest, is_file=True)
        monkeypatch.setitem(SOURCES, "mnist", Source(**{**vars(SOURCES["mnist"]), "archives": archives}))
        corpus = tmp_path / "mnist"
        words = ["prepare", "mnist", "--download", "--corpus", str(corpus), "--output", str(tmp_path / "data")]
        assert main([*words, "--dev", "2"]) == 0
        assert sorted(path.name for path in corpus.iterdir()) == sorted(server.files.keys() - {"x.bin"})
        asked = len(server.asked)
        assert main([*words, "--dev", "2"]) == 0
        assert len(server.asked) == asked, "what is there is not fetched again"
    assert len(ImageDir.read(tmp_path / "data" / "train")) == 5
