"""Codes of images in unit stores: every code in its place, by any number of processes, decoded as the model does."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from image_fixtures import make_image_shards

from sqvae_speech.bin.main import main
from sqvae_speech.data.image_loader import image_batches
from sqvae_speech.errors import UserError
from sqvae_speech.images.spec import ImageSpec
from sqvae_speech.models.image import ImageModel, ImageModelConfig
from sqvae_speech.models.pretrained_image import ImageBundle, load_image_model, save_image_model
from sqvae_speech.quantization import QuantizerConfig
from sqvae_speech.units.image_extract import code_grids, decode_store, encode_image_shards
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.parts import Processes
from sqvae_speech.units.store import deduplicated, read_units


@pytest.fixture(params=[1, 2])
def model(request, tmp_path) -> ImageBundle:
    torch.manual_seed(0)
    quantizer = QuantizerConfig(codebook_size=8, dim=4, num_quantizers=request.param)
    network = ImageModel(ImageModelConfig("28x28", 1, quantizer=quantizer), ImageSpec(8, 12, 3))
    (tmp_path / "model").mkdir()
    save_image_model(tmp_path / "model", ImageBundle(network.eval()))
    return load_image_model(tmp_path / "model")


@pytest.fixture
def index(tmp_path):
    return make_image_shards(tmp_path / "train", count=11, shape=(8, 12, 3))


def test_codes_keep_their_places(model, index, tmp_path):
    (path,) = encode_image_shards(model, index.folder, tmp_path / "x.parquet", batch_size=4, progress=False)
    store = read_units(path)
    assert store.meta.shape == (2, 3)
    assert (store.meta.codebook_size, store.meta.frame_rate, store.meta.mel_spec) == (8, None, None)
    assert store.meta.checkpoint == model.fingerprint
    assert store.ids == [entry.image_id for entry in index.entries()]
    assert [units.speaker for units in store] == [entry.label for entry in index.entries()]
    images = torch.cat([batch["image"] for batch in image_batches(index, 11)])
    expected = model.model.encode(images)
    for row, units in enumerate(store):
        for book in range(store.meta.num_codebooks):
            grid = expected[row] if expected.ndim == 3 else expected[row, ..., book]
            assert units.codes[book].tolist() == [int(grid[y, x]) for y in range(2) for x in range(3)]
    assert torch.equal(code_grids(store, store.meta), expected)
    decoded = torch.stack(list(decode_store(model, store)))
    assert torch.allclose(decoded, model.model.reconstruct(images), atol=1e-6)


def test_any_number_of_processes_and_parts_give_the_same_bytes(model, index, tmp_path):
    options = {"batch_size": 2, "part_images": 4, "progress": False}
    encode_image_shards(model, index.folder, tmp_path / "one.parquet", **options)
    together = threading.Barrier(2)

    def encode(rank: int) -> list[Path]:
        processes = Processes(rank, 2, together.wait)
        return encode_image_shards(model, index.folder, tmp_path / "two.parquet", processes=processes, **options)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(encode, (0, 1))) == [[tmp_path / "two.parquet"], []]
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_what_does_not_fit_is_refused(model, index, tmp_path):
    other = make_image_shards(tmp_path / "other", shape=(8, 8, 3))
    with pytest.raises(UserError, match=r"8 x 12 RGB.*8 x 8 RGB"):
        encode_image_shards(model, other.folder, tmp_path / "x.parquet")
    with pytest.raises(UserError, match="--batch-size 0; at least 1"):
        encode_image_shards(model, index.folder, tmp_path / "x.parquet", batch_size=0)
    (path,) = encode_image_shards(model, index.folder, tmp_path / "x.parquet", progress=False)
    store = read_units(path)
    with pytest.raises(UserError, match="codes of images have places, not durations"):
        deduplicated(store)
    with pytest.raises(UserError, match="units in time, not codes of images"):
        code_grids(store, UnitStoreMeta(8))
    store.meta = UnitStoreMeta(8, store.meta.num_codebooks, shape=(3, 2))
    with pytest.raises(UserError, match=r"has images of 3 x 2 codes, the model .* of 2 x 3"):
        list(decode_store(model, store))


def test_from_the_command_line(model, index, tmp_path, capsys):
    output = tmp_path / "x.parquet"
    words = ["encode", "--model", str(tmp_path / "model"), "--shards", str(index.folder), "--output", str(output)]
    assert main([*words, "--device", "cpu", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "11 utterances, 66 units" in said
    assert "lasts" not in said  # a unit of an image has no duration
    store = read_units(output)
    assert code_grids(store, store.meta).shape[:3] == (11, 2, 3)
    with pytest.raises(SystemExit):
        main([*words, "--deduplicate"])
    assert "are for units in time" in capsys.readouterr().err


def test_scores_from_the_command_line(model, index, tmp_path, capsys):
    output = tmp_path / "scores"
    words = ["score", "--model", str(tmp_path / "model"), "--shards", str(index.folder), "--device", "cpu", "--quiet"]
    assert main([*words, "--output", str(output / "scores.json"), "--plots", str(output)]) == 0
    said = capsys.readouterr().out
    assert "| train | 11 | " in said
    names = ("reconstructions_train.png", "codes_train.png", "code_map_train.png", "scores.json", "scores.md")
    assert sorted(path.name for path in output.iterdir()) == sorted(names)
    assert (output / "scores.md").read_text() in said
