"""Training: a run that learns, exact resume, several processes, and what a user can get wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fixtures import make_data_dir
from safetensors.torch import load_file

from sqvae_speech.audio.front_end import FrontEnd
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.bin._cli import run
from sqvae_speech.bin.train import main
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.shards import write_shards
from sqvae_speech.models.pretrained import load_speech_model
from sqvae_speech.training.metrics_log import read_metrics

SMALL = "--model.channels 16 --model.decoder_hidden 8 --model.quantizer.codebook_size 16 --model.quantizer.dim 8"
SHORT = "--training.batch_size 4 --training.log_interval 1 --training.valid_interval 4 --training.num_plots 0"
KINDS = {
    "global": "--model.quantizer.covariance global",
    "sample": "--model.quantizer.covariance sample",
    "position": "--model.quantizer.covariance position",
    "diagonal": "--model.quantizer.covariance diagonal",
    "vmf": "--model.quantizer.kind vmf",
    "ema": "--model.quantizer.kind vq",
    "gradient": "--model.quantizer.kind vq --model.quantizer.codebook_update gradient",
    "residual": "--model.quantizer.num_quantizers 3 --model.quantizer.stage_dropout 0.5 "
    "--training.codebook_init data",
    "grouped": "--model.quantizer.kind vq --model.quantizer.num_groups 2 --model.quantizer.num_quantizers 2 "
    "--model.quantizer.shared_codebook true --training.codebook_init data",
    "convolutional": "--model.decoder convolutional --model.decoder_channels 8 --model.decoder_blocks 2",
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Shards of 12 utterances of 0.45 to 0.6 s (46 frames and more) by three speakers."""
    folder = tmp_path_factory.mktemp("shards")
    make_data_dir(folder / "train", seconds=0.45)
    write_shards(folder / "train", folder / "dump", MelSpec.preset("sqvae16k"), progress=False)
    return folder / "dump"


def words(shards: Path, exp_dir: Path, *more: str) -> list[str]:
    common = f"--no-progress {SMALL} {SHORT}".split()
    data = ["--exp-dir", str(exp_dir), "--data.train", str(shards), "--data.valid", str(shards)]
    return [*data, *common, *(word for text in more for word in text.split())]


def losses(exp_dir: Path, split: str = "train") -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_metrics(exp_dir / "metrics.jsonl") if row["split"] == split}


def weights(exp_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(exp_dir / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_interrupted_and_resumed_is_the_run_never_interrupted(shards, tmp_path, kind):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(words(shards, whole, KINDS[kind], "--training.num_steps 8")) == 0
    assert main(words(shards, parts, KINDS[kind], "--training.num_steps 5")) == 0
    assert main(words(shards, parts, KINDS[kind], "--training.num_steps 8")) == 0
    assert losses(whole) == losses(parts)
    assert losses(whole, "valid")[8] == losses(parts, "valid")[8]
    expected, got = weights(whole, 8), weights(parts, 8)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_voices_by_vectors(shards, tmp_path, capsys):
    """Some of speakers, some of utterances; what is saved has one of each speaker."""
    index = ShardIndex.load(shards)
    rng = np.random.default_rng(0)
    names = [*index.speakers[:2], *(one.utterance_id for one in index.entries() if one.speaker == index.speakers[2])]
    vectors = {name: rng.standard_normal(6).astype(np.float32) for name in names}
    np.savez(tmp_path / "spk.npz", **vectors)
    voices = f"--model.speaker vector --model.speaker_vector_dim 6 --data.speaker_vectors {tmp_path / 'spk.npz'}"
    assert main(words(shards, tmp_path / "exp", voices, "--training.num_steps 4")) == 0
    embedding = load_speech_model(tmp_path / "exp").model.decoder.speaker_embedding
    expected = [*(vectors[name] for name in names[:2]), np.mean([vectors[name] for name in names[2:]], axis=0)]
    np.testing.assert_allclose(embedding.vectors, expected, rtol=1e-6)
    assert "needs a file of vectors" in error(words(shards, tmp_path / "no", "--model.speaker vector"), capsys)


def test_a_run_learns_and_leaves_what_it_promises(shards, tmp_path):
    exp_dir = tmp_path / "exp"
    assert (
        main(
            words(
                shards,
                exp_dir,
                "--training.num_steps 60 --training.valid_interval 20 --training.num_plots 2",
                "--training.codebook_init data",
            )
        )
        == 0
    )
    valid = [row for row in read_metrics(exp_dir / "metrics.jsonl") if row["split"] == "valid"]
    assert valid[-1]["db2"] < 0.7 * valid[0]["db2"]
    assert valid[-1]["db2"] == pytest.approx(6400 * valid[-1]["mse"])
    assert valid[-1].keys() >= {"loss", "loss_sampled", "perplexity", "usage", "entropy"}
    plots = {path.name for path in (exp_dir / "plots").iterdir()}
    assert plots >= {"annealing.png", "codebook.png", "codes.png", "error.png", "losses.png"}
    assert sum(name.startswith("mel-") for name in plots) == 2
    assert list((exp_dir / "tensorboard").iterdir())
    # 2 latest and the best
    assert len(list((exp_dir / "checkpoints").glob("step-*"))) <= 3
    bundle = load_speech_model(exp_dir)
    assert bundle.speakers == ("s0", "s1", "s2")
    assert bundle.mel_spec == MelSpec.preset("sqvae16k")


def test_metrics_after_the_checkpoint_are_dropped_on_resume(shards, tmp_path):
    exp_dir = tmp_path / "exp"
    main(words(shards, exp_dir, "--training.num_steps 3"))
    lost = {"step": 4, "split": "train", "loss": 1.0}
    with (exp_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(lost) + "\n" + '{"step": 5, "spl')
    main(words(shards, exp_dir, "--training.num_steps 5"))
    assert sorted(losses(exp_dir)) == [1, 2, 3, 4, 5]
    assert losses(exp_dir)[4] != 1.0


def launch(shards: Path, exp_dir: Path, processes: int, *more: str) -> subprocess.CompletedProcess:
    """Train by torchrun: on a CPU, `accelerate launch` would start one process whatever it is told."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += ["-m", "sqvae_speech.bin.train", *words(shards, exp_dir, *more)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["diagonal", "ema"])
def test_two_processes_follow_one_on_the_same_global_batch(shards, tmp_path, kind):
    # noise differs from process to process: the losses follow, they are not the same
    options = (KINDS[kind], "--training.num_steps 30 --model.jitter 0 --training.batch_size 12")
    assert main(words(shards, tmp_path / "one", *options)) == 0
    result = launch(shards, tmp_path / "two", 2, *options)
    assert result.returncode == 0, result.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys()
    scale = max(one.values()) - min(one.values())
    assert max(abs(one[step] - two[step]) for step in one) < 0.1 * scale


# ---- what a user can get wrong


def error(arguments: list[str], capsys) -> str:
    """Run the verb as the command line does; it must fail with one message and no traceback."""
    assert run(main, arguments) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message[message.index("error: ") :]


def test_unknown_option_names_the_nearest(shards, tmp_path, capsys):
    message = error(words(shards, tmp_path, "--training.num_step 5"), capsys)
    assert "unknown option --training.num_step" in message
    assert "did you mean 'training.num_steps'" in message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.quantizer.kind vqq", "kind must be one of gaussian, vmf, vq, got 'vqq'"),
        ("--model.quantizer.covariance full", "covariance must be one of"),
        ("--model.jitter 2", "jitter must be a probability"),
        ("--model.likelihood mse", "likelihood must be one of"),
        ("--training.batch_size 0", "training.batch_size must be at least 1"),
        ("--training.codebook_init kmeans", "training.codebook_init must be one of normal, data"),
        ("--data.train nowhere", "nowhere does not exist"),
        ("--task speach", "got 'speach', did you mean 'speech'?"),
    ],
)
def test_a_bad_setting_is_one_message(shards, tmp_path, capsys, option, message):
    assert message in error(words(shards, tmp_path / "exp", option), capsys)
    assert not (tmp_path / "exp").exists()


def test_no_data_says_which_option_is_missing(tmp_path, capsys):
    assert "data.train is not set" in error(["--exp-dir", str(tmp_path)], capsys)


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory) -> Path:
    exp_dir = tmp_path_factory.mktemp("trained")
    assert main(words(shards, exp_dir, "--training.num_steps 2")) == 0
    return exp_dir


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_a_checkpoint_of_another_codebook_size_is_refused(shards, copy, capsys):
    message = error(words(shards, copy, "--model.quantizer.codebook_size 32"), capsys)
    assert "model.quantizer.codebook_size: 16 there, 32 here" in message


def test_a_checkpoint_of_another_melspec_is_refused(shards, copy, tmp_path, capsys):
    make_data_dir(tmp_path / "train", seconds=0.45)
    front_end = FrontEnd(resample="soxr")
    write_shards(
        tmp_path / "train", tmp_path / "dump", MelSpec.preset("melgan22k"), front_end=front_end, progress=False
    )
    message = error(words(tmp_path / "dump", copy), capsys)
    assert "sample_rate: 16000" in message
    assert "22050" in message


def test_a_checkpoint_of_other_speakers_is_refused(copy, tmp_path, capsys):
    make_data_dir(tmp_path / "train", speakers=2, seconds=0.45)
    write_shards(tmp_path / "train", tmp_path / "dump", MelSpec.preset("sqvae16k"), progress=False)
    message = error(words(tmp_path / "dump", copy), capsys)
    assert "knows the speakers s0, s1, s2" in message


def test_an_earlier_run_is_not_overwritten(shards, copy, capsys):
    assert "has checkpoints of an earlier run" in error(words(shards, copy, "--no-resume"), capsys)


def test_damaged_weights_are_named(shards, copy, capsys):
    path = copy / "checkpoints" / "step-00000002" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert "model.safetensors is damaged" in error(words(shards, copy), capsys)


def test_a_damaged_training_state_is_named(shards, copy, capsys):
    path = copy / "checkpoints" / "step-00000002" / "training_state.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert "training_state.pt is damaged" in error(words(shards, copy), capsys)


def test_a_training_state_of_an_earlier_version_is_named(shards, copy, capsys):
    path = copy / "checkpoints" / "step-00000002" / "training_state.pt"
    state = torch.load(path, weights_only=True)
    del state["learning_rate"]
    torch.save(state, path)
    assert "cannot be resumed from (its weights can be used)" in error(words(shards, copy), capsys)


def test_a_loss_that_is_not_finite_stops_the_run(shards, tmp_path, capsys):
    message = error(words(shards, tmp_path, "--training.learning_rate 1e30 --training.num_steps 9"), capsys)
    assert "training has diverged" in message
    assert "training.learning_rate" in message
