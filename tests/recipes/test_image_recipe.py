"""The image recipe from beginning to end on the digits: what it writes, when it works again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMAGE_SMALL, with_report

from sqvae_speech.data.image_index import ImageIndex
from sqvae_speech.data.image_loader import image_batches
from sqvae_speech.models.pretrained_image import load_image_model
from sqvae_speech.units.image_extract import code_grids
from sqvae_speech.units.store import read_units

pytestmark = pytest.mark.slow
PRIOR = "--training.num_steps 5 --training.batch_size 4 --model.dim 16 --model.num_layers 1 --model.num_heads 2"
OPTIONS = ("--tag", "small", "--training.num_steps", "20", "--lm-args", PRIOR, "--num-samples", "4")


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which all stages have been run."""
    work = tmp_path_factory.mktemp("work dir")
    run = recipe("mini_image", work, *OPTIONS, small=IMAGE_SMALL)
    assert run.status == 0, run.errors
    assert run.done == [0, 1, 2, 3, 4, 5, 6]
    assert "| test | 179 | " in run.output, "the end of the run prints the scores"
    assert "| test | transformer | " in run.output, "and those of the prior"
    return work


def test_codes_are_those_of_the_images(whole):
    exp = whole / "exp" / "small"
    model = load_image_model(exp)
    for split, count in (("train", 1439), ("dev", 179), ("test", 179)):
        index = ImageIndex.load(whole / "dump" / split)
        store = read_units(exp / "units" / f"{split}.parquet")
        assert index.image_spec.shape == (1, 28, 28)
        assert (len(store), store.meta.shape) == (count, (7, 7))
        assert store.ids == [entry.image_id for entry in index.entries()]
        first = next(image_batches(index, 100))
        codes = code_grids((store[name] for name in first["image_id"]), store.meta)
        assert torch.equal(codes, model.model.encode(first["image"]))


def test_scores_are_those_of_the_last_checkpoint(whole):
    exp = whole / "exp" / "small"
    scores = json.loads((exp / "scores" / "scores.json").read_text())
    assert [split["split"] for split in scores["splits"]] == ["dev", "test"]
    model = load_image_model(exp).model
    errors = [
        (model.reconstruct(batch["image"]) - batch["image"]).double().square().flatten(1).mean(1).numpy()
        for batch in image_batches(whole / "dump" / "test", 100)
    ]
    assert scores["splits"][1]["pixels"]["mse"] == pytest.approx(float(np.concatenate(errors).mean()), rel=1e-6)
    for name in ("reconstructions_test.png", "code_map_dev.png"):
        assert (exp / "scores" / name).stat().st_size > 1000


def test_samples_are_of_the_prior(whole):
    samples = whole / "exp" / "small" / "prior" / "samples"
    store = read_units(samples / "units.parquet")
    assert (len(store), store.meta.shape, store.meta.codebook_size) == (4, (7, 7), 8)
    assert (samples / "samples.png").stat().st_size > 1000


def test_the_report_at_the_end(whole, recipe):
    run = recipe("mini_image", whole, *OPTIONS, small=with_report(IMAGE_SMALL))
    assert (run.status, run.done) == (0, []), run.errors
    report = whole / "exp" / "small" / "report.html"
    assert f" {report}\n" in run.output
    text = report.read_text()
    for picture in ("scores/reconstructions_test", "scores/codes_dev", "prior/samples/samples"):
        assert f"<figcaption>{picture}</figcaption>" in text
    assert "PSNR (dB)" in text


def test_only_what_changed_is_done_again(whole, recipe):
    again = recipe("mini_image", whole, *OPTIONS, small=IMAGE_SMALL)
    assert (again.status, again.done, again.skipped) == (0, [], [0, 1, 2, 3, 4, 5, 6]), again.errors
    more = recipe("mini_image", whole, *OPTIONS, "--num-samples", "2", small=IMAGE_SMALL)
    assert (more.status, more.done) == (0, [6]), more.errors
