"""Training a unit language model on the loop that speech trains on."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from unit_lm_fixtures import SPEAKERS, random_store

from sqvae_speech.bin._cli import run
from sqvae_speech.bin.train import main
from sqvae_speech.errors import UserError
from sqvae_speech.models.pretrained import load_speech_model
from sqvae_speech.models.pretrained_unit_lm import load_unit_lm
from sqvae_speech.training.metrics_log import read_metrics
from sqvae_speech.training.optimization import build_optimizer
from sqvae_speech.training.task import Place
from sqvae_speech.training.unit_lm import UnitLmTask
from sqvae_speech.training.unit_lm_config import UnitDataConfig, UnitLmTrainConfig, UnitLmTrainingConfig
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStore, UnitStoreMeta, store_of, write_units

SMALL = (
    "--no-progress --task unit_lm --model.dim 16 --model.num_layers 1 --model.num_heads 2 --model.context 8 "
    "--training.batch_size 4 --training.log_interval 1 --training.valid_interval 4 --training.num_plots 0 "
    "--training.warmup_steps 3 --training.schedule milestones --training.milestones [6] --training.gamma 0.3 "
    "--training.learning_rate 1e-2"
)
LENGTHS = [7, 0, 20, 3, 9, 1]


def saved(path: Path, store: UnitStore) -> Path:
    write_units(path, store, store.meta)
    return path


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return saved(tmp_path / "train.parquet", random_store(LENGTHS, books=2))


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    return saved(tmp_path / "valid.parquet", random_store(LENGTHS, books=2, seed=1))


def words(exp_dir: Path, train: Path, valid: Path, *more: str) -> list[str]:
    data = ["--exp-dir", str(exp_dir), "--data.train", str(train), "--data.valid", str(valid)]
    return [*data, *(word for text in (SMALL, *more) for word in text.split())]


def rows(exp_dir: Path, split: str) -> list[dict]:
    return [row for row in read_metrics(exp_dir / "metrics.jsonl") if row["split"] == split]


@pytest.mark.parametrize("condition", ["none", "speaker"])
def test_a_run_interrupted_and_resumed_is_the_run_never_interrupted(train, valid, tmp_path, condition):
    more = f"--data.condition {condition}"
    assert main(words(tmp_path / "whole", train, valid, more, "--training.num_steps 8")) == 0
    assert main(words(tmp_path / "parts", train, valid, more, "--training.num_steps 5")) == 0
    assert main(words(tmp_path / "parts", train, valid, more, "--training.num_steps 8")) == 0
    # the interrupted run validates once more, at its end
    for split, names in (
        ("train", ("step", "loss", "grad_norm", "learning_rate", "epoch")),
        ("valid", ("step", "loss", "bits_per_unit")),
    ):
        whole, parts = (
            [[row[name] for name in names] for row in rows(tmp_path / run, split)] for run in ("whole", "parts")
        )
        assert whole[-1] == parts[-1]
        assert split == "valid" or whole == parts
    last = Path("checkpoints") / "step-00000008" / "model.safetensors"
    expected, got = (load_file(tmp_path / name / last) for name in ("whole", "parts"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    rates = [row["learning_rate"] for row in rows(tmp_path / "whole", "train")]
    # written after a step: that of the next one
    assert rates == pytest.approx([1e-2 * factor for factor in (2 / 3, 1, 1, 1, 1, 0.3, 0.3, 0.3)])


def test_it_learns_a_pattern_to_almost_no_bits(tmp_path):
    """Which codes follow is fixed by the first one, and so is where the end comes."""
    patterns = [np.array([[first, *((first + 3 * step) % 7 for step in range(1, 9 + first))]]) for first in range(3)]
    store = store_of(
        [UtteranceUnits(f"u{i:02d}", patterns[i % 3]) for i in range(30)], UnitStoreMeta(7, frame_rate=50.0)
    )
    path = saved(tmp_path / "train.parquet", store)
    size = "--model.num_layers 2 --model.dim 32 --model.context 16 --model.dropout 0 --training.weight_decay 0"
    steps = "--training.num_steps 150 --training.milestones [120] --training.valid_interval 150"
    more = "--training.learning_rate 5e-3 --training.batch_size 8 --training.log_interval 50"
    assert main(words(tmp_path / "exp", path, path, size, steps, more)) == 0
    score = rows(tmp_path / "exp", "valid")[-1]
    choice = np.log2(3) * 3 / sum(pattern.size for pattern in patterns)  # which of the three it is
    assert choice < score["bits_per_unit"] < choice + 0.015
    assert score["perplexity"] == pytest.approx(2 ** score["bits_per_unit"])
    units = sum(pattern.size for pattern in patterns)
    assert score["loss"] == pytest.approx(score["bits_per_unit"] * np.log(2) * units / (units + 3))


def test_weight_decay_spares_vectors():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.RMSNorm(2))
    multipliers = {"bias": 10.0}
    groups = build_optimizer(
        model, UnitLmTrainingConfig(weight_decay=0.5, learning_rate=1.0), multipliers
    ).param_groups
    found = [(group["name"], group["weight_decay"], group["lr"], len(group["params"])) for group in groups]
    assert found == [("rest", 0.0, 1.0, 1), ("rest", 0.5, 1.0, 1), ("bias", 0.0, 10.0, 1)]


def test_what_is_saved_is_what_was_trained(train, valid, tmp_path):
    assert main(words(tmp_path / "exp", train, valid, "--data.condition speaker", "--training.num_steps 4")) == 0
    bundle = load_unit_lm(tmp_path / "exp")
    assert bundle.conditions == SPEAKERS
    assert bundle.step == 4
    assert UnitStoreMeta.from_dict(bundle.units) == UnitStoreMeta(5, 2, frame_rate=50.0)
    assert (bundle.model.vocabulary.codebook_size, bundle.model.vocabulary.num_codebooks) == (5, 2)
    assert not bundle.model.training
    with pytest.raises(UserError, match="a model of kind 'unit_lm', this needs one of kind 'speech'"):
        load_speech_model(tmp_path / "exp")


def test_two_processes_see_the_batch_of_one(train, valid):
    config = UnitLmTrainConfig(data=UnitDataConfig(str(train), str(valid)))
    whole = next(iter(UnitLmTask(config, Place()).loader))
    halves = [next(iter(UnitLmTask(config, Place(rank, 2)).loader)) for rank in (0, 1)]
    for name, value in whole.items():
        assert torch.equal(value, torch.cat([half[name] for half in halves]))


@pytest.mark.slow
def test_two_processes_are_one_on_the_same_batch(train, valid, tmp_path):
    more = "--training.num_steps 12 --training.valid_interval 6 --model.dropout 0"
    assert main(words(tmp_path / "one", train, valid, more)) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "sqvae_speech.bin.train", *words(tmp_path / "two", train, valid, more)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    for split, name in (("train", "grad_norm"), ("valid", "bits_per_unit")):
        one, two = ([row[name] for row in rows(tmp_path / folder, split)] for folder in ("one", "two"))
        assert len(one) == {"train": 12, "valid": 2}[split]
        assert two == pytest.approx(one, rel=1e-5)


# ---- what a user can get wrong


def error(arguments: list[str], capsys) -> str:
    assert run(main, arguments) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message[message.index("error: ") :]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.dim 18", "dim must be a multiple of 2 * num_heads = 4, got 18"),
        ("--model.context 1", "context must be at least 2"),
        ("--data.condition text", "data.condition must be one of none, speaker, got 'text'"),
        ("--data.train nowhere.parquet", "nowhere.parquet: no such unit store"),
        ("--training.warmup_steps -1", "training.warmup_steps must be at least 0"),
        ("--training.weight_decay -1", "training.weight_decay must be at least 0"),
        ("--task unit_lms", "got 'unit_lms', did you mean 'unit_lm'?"),
        ("--model.channels 8", "unknown option --model.channels"),
    ],
)
def test_a_bad_setting_is_one_message(train, valid, tmp_path, capsys, option, message):
    assert message in error(words(tmp_path / "exp", train, valid, option), capsys)
    assert not (tmp_path / "exp").exists()


def test_no_data_says_which_option_is_missing(tmp_path, capsys):
    assert "data.train is not set" in error(["--exp-dir", str(tmp_path), "--task", "unit_lm"], capsys)


def test_units_of_different_kinds_are_refused(train, tmp_path, capsys):
    other = saved(tmp_path / "other.parquet", random_store(LENGTHS, size=6, books=2))
    assert "codebook_size 5" in error(words(tmp_path / "exp", train, other), capsys)
    other = saved(tmp_path / "other.parquet", random_store(LENGTHS, books=2, deduplicated=True))
    assert "deduplicated" in error(words(tmp_path / "exp", train, other), capsys)


def test_a_checkpoint_of_other_units_or_another_model_is_refused(train, valid, tmp_path, capsys):
    assert main(words(tmp_path / "exp", train, valid, "--training.num_steps 2")) == 0
    message = error(words(tmp_path / "exp", train, valid, "--model.dim 32"), capsys)
    assert "model.dim: 16 there, 32 here" in message
    other = saved(tmp_path / "other.parquet", random_store(LENGTHS, size=6, books=2))
    assert "was trained on other units" in error(words(tmp_path / "exp", other, other), capsys)
    assert "was trained on other units" in error(
        words(tmp_path / "exp", train, valid, "--data.condition speaker"), capsys
    )


def test_images_need_a_context_of_whole_images(tmp_path, capsys):
    path = saved(tmp_path / "images.parquet", random_store([6] * 4, shape=(2, 3)))
    assert "multiple of the 6 codes of an image, got 8" in error(words(tmp_path / "exp", path, path), capsys)
    for steps in (2, 3):  # and go on
        assert main(words(tmp_path / "exp", path, path, "--model.context 12", f"--training.num_steps {steps}")) == 0
    assert load_unit_lm(tmp_path / "exp").model.vocabulary.shape == (2, 3)
