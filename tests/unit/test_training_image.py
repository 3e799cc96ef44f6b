"""Training of image models: exact resume, a run that learns, several processes, and what a user can get wrong."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fixtures import make_data_dir
from safetensors.torch import load_file

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.bin._cli import run
from sqvae_speech.bin.train import main
from sqvae_speech.config import load_config
from sqvae_speech.data.image_corpora.common import array_items, write_array, write_splits
from sqvae_speech.data.image_shards import write_image_shards
from sqvae_speech.data.shards import write_shards
from sqvae_speech.images.spec import ImageSpec
from sqvae_speech.models.pretrained_image import load_image_model
from sqvae_speech.training.image import ImageTask
from sqvae_speech.training.image_config import ImageTrainConfig
from sqvae_speech.training.metrics_log import read_metrics
from sqvae_speech.training.task import Place

SMALL = "--model.num_blocks 1 --model.quantizer.codebook_size 16 --model.quantizer.dim 8"
SHORT = "--training.batch_size 6 --training.log_interval 1 --training.valid_interval 4 --training.num_plots 0"
CLASSES = ("sky", "hill", "sun")
LABELS = "--model.network label_map --model.activation softplus --model.likelihood"
KINDS = {
    "global": "images --model.quantizer.covariance global --model.quantizer.variance_sum true",
    "sample": "images --model.quantizer.covariance sample --model.likelihood gaussian",
    "diagonal": "images --model.quantizer.covariance diagonal --training.codebook_init data",
    "ema": "images --model.quantizer.kind vq --model.network 28x28",
    "residual": "images --model.quantizer.num_quantizers 2 --training.codebook_init data --model.network 64x64",
    "vmf": f"labels --model.quantizer.kind vmf {LABELS} vmf",
    "categorical": f"labels --model.quantizer.covariance position {LABELS} categorical",
}


def scenes(count: int, size: int = 16) -> np.ndarray:
    """Label maps of a sun somewhere above a hill that is somewhere, (count, size, size) uint8."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    maps = np.zeros((count, size, size), np.uint8)
    for one in maps:
        middle, top, right, height = generator.integers(
            (2, size // 2, 2, 2), (size - 2, size - 2, size - 2, size // 2)
        )
        one[rows > top + np.abs(columns - middle) // 3] = 1
        one[(rows - height) ** 2 + (columns - right) ** 2 < 6] = 2
    return maps


@pytest.fixture(scope="module")
def dumps(tmp_path_factory) -> dict[str, Path]:
    """Shards of 40 scenes, as label maps and as pictures of 16 x 16 in three colours."""
    folder = tmp_path_factory.mktemp("scenes")
    maps = scenes(40)
    pictures = np.array([[90, 120, 240], [30, 140, 40], [250, 220, 20]], np.uint8)[maps]
    for name, arrays, classes in (("labels", maps, CLASSES), ("images", pictures, ())):
        items = array_items(write_array(folder / name, "train", arrays), "scene", ["any"] * len(maps))
        write_splits({"train": items}, [], folder / name, classes)
        write_image_shards(folder / name / "train", folder / name / "dump", images_per_shard=15, progress=False)
    return {name: folder / name / "dump" for name in ("labels", "images")}


def words(dumps: dict[str, Path], exp_dir: Path, kind: str, *more: str) -> list[str]:
    which, *options = KINDS[kind].split()
    shards = str(dumps[which])
    data = ["--task", "image", "--exp-dir", str(exp_dir), "--data.train", shards, "--data.valid", shards]
    return [
        *data,
        *f"--no-progress {SMALL} {SHORT}".split(),
        *options,
        *(word for text in more for word in text.split()),
    ]


def rows(exp_dir: Path, split: str = "train") -> dict[int, dict[str, float]]:
    return {row["step"]: row for row in read_metrics(exp_dir / "metrics.jsonl") if row["split"] == split}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_interrupted_and_resumed_is_the_run_never_interrupted(dumps, tmp_path, kind):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(words(dumps, whole, kind, "--training.num_steps 8")) == 0
    assert main(words(dumps, parts, kind, "--training.num_steps 5")) == 0
    assert main(words(dumps, parts, kind, "--training.num_steps 8")) == 0
    one, two = rows(whole), rows(parts)
    assert [row["loss"] for row in one.values()] == [row["loss"] for row in two.values()]
    assert rows(whole, "valid")[8] == rows(parts, "valid")[8]
    expected, got = (load_file(path / "checkpoints/step-00000008/model.safetensors") for path in (whole, parts))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize("kind", ["global", "vmf"])
def test_a_run_learns_and_leaves_what_it_promises(dumps, tmp_path, kind):
    exp_dir = tmp_path / "exp"
    length = (
        "--training.num_steps 60 --training.valid_interval 20 --training.num_plots 3 --training.learning_rate 3e-3"
    )
    assert main(words(dumps, exp_dir, kind, length)) == 0
    valid = list(rows(exp_dir, "valid").values())
    if kind == "vmf":
        assert valid[-1]["accuracy"] > max(valid[0]["accuracy"], 0.75)
    else:
        assert valid[-1]["mse"] < 0.7 * valid[0]["mse"]
    assert valid[-1].keys() >= {"loss", "loss_sampled", "perplexity", "usage", "entropy"}
    plots = {path.name for path in (exp_dir / "plots").iterdir()}
    assert plots >= {"annealing.png", "codebook.png", "codes.png", "error.png", "images.png", "losses.png"}
    bundle = load_image_model(exp_dir)
    assert bundle.image_spec == (ImageSpec(16, 16, 1, 3) if kind == "vmf" else ImageSpec(16, 16, 3))


@pytest.mark.parametrize("kind", ["diagonal", "vmf"])
def test_examples_for_whoever_follows(dumps, tmp_path, kind):
    arguments = words(dumps, tmp_path, kind, "--training.num_plots 3")
    arguments = arguments[arguments.index("--data.train") :]
    arguments.remove("--no-progress")
    task = ImageTask(load_config(ImageTrainConfig, None, arguments), Place())
    model = task.build_model()
    task.validate(model, 0, tmp_path)
    shown = {example.name: example for example in task.examples(model, 0)}
    names = {"images", "latents", "codes/0", *(["log_var"] if kind == "diagonal" else [])}
    assert shown.keys() == names
    # three targets of 16 x 16 above their reconstructions, enlarged to 64, two pixels of white between
    assert shown["images"].pixels.shape == (2 * 66, 3 * 66, 3)
    assert shown["codes/0"].weights.sum() == 40 * model.latent_shape[0] * model.latent_shape[1]


def test_a_scalar_that_is_kept_stays(dumps, tmp_path):
    assert main(words(dumps, tmp_path, "global", "--training.num_steps 3 --training.log_scale_lr_multiplier 0")) == 0
    assert [row["variance"] for row in rows(tmp_path).values()] == pytest.approx([11.0] * 3)


@pytest.mark.slow
def test_two_processes_are_one_on_the_same_global_batch(dumps, tmp_path):
    """VQ-VAE, which draws nothing: the same numbers, but for rounding, where they are of the global batch."""
    length = "--training.num_steps 12"
    assert main(words(dumps, tmp_path / "one", "ema", length)) == 0
    # by torchrun: on a CPU, `accelerate launch` would start one process whatever it is told
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "sqvae_speech.bin.train", *words(dumps, tmp_path / "two", "ema", length)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    one, two = (list(rows(tmp_path / name).values()) for name in ("one", "two"))
    for name in ("mse", "grad_norm"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-4)


# ---- what a user can get wrong


def error(arguments: list[str], capsys) -> str:
    """Run the verb as the command line does; it must fail with one message and no traceback."""
    assert run(main, arguments) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message[message.index("error: ") :]


@pytest.mark.parametrize(
    ("kind", "option", "message"),
    [
        ("global", "--model.network 30x30", "network must be one of 28x28, 32x32, 64x64, label_map, got '30x30'"),
        ("vmf", "--model.likelihood arelbo", "one of vmf, categorical for 16 x 16 label maps of 3 classes"),
        ("global", "--training.batch_size 0", "training.batch_size must be at least 1"),
        ("global", "--data.train nowhere", "nowhere does not exist"),
        ("global", "--model.channels 64", "unknown option --model.channels"),
    ],
)
def test_a_bad_setting_is_one_message(dumps, tmp_path, capsys, kind, option, message):
    assert message in error(words(dumps, tmp_path / "exp", kind, option), capsys)
    assert not (tmp_path / "exp").exists()


def test_other_data_is_refused(dumps, tmp_path, capsys):
    mixed = ["--data.valid", str(dumps["labels"])]
    message = error([*words(dumps, tmp_path / "exp", "global"), *mixed], capsys)
    assert "16 x 16 RGB" in message
    assert "16 x 16 label maps of 3 classes" in message
    assert main(words(dumps, tmp_path / "run", "global", "--training.num_steps 1")) == 0
    message = error(words(dumps, tmp_path / "run", "global", "--model.quantizer.codebook_size 32"), capsys)
    assert "model.quantizer.codebook_size: 16 there, 32 here" in message
    make_data_dir(tmp_path / "train", seconds=0.45)
    write_shards(tmp_path / "train", tmp_path / "speech", MelSpec.preset("sqvae16k"), progress=False)
    speech = ["--data.train", str(tmp_path / "speech")]
    assert "holds speech" in error([*words(dumps, tmp_path / "exp", "global"), *speech], capsys)
