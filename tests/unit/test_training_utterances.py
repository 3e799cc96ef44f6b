"""Training on whole utterances: resumed bit for bit, and several processes with batches of different sizes."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loader_fixtures import write_synthetic_shards
from safetensors.torch import load_file
from torch import nn

from sqvae_speech.bin._cli import run
from sqvae_speech.bin.train import main
from sqvae_speech.data.loader import UtteranceLoader
from sqvae_speech.models.speech import SpeechModelConfig
from sqvae_speech.quantization import QuantizerConfig
from sqvae_speech.training.config import AutoencoderTrainingConfig
from sqvae_speech.training.metrics_log import read_metrics
from sqvae_speech.training.speech import SpeechTask
from sqvae_speech.training.speech_config import DataConfig, SpeechTrainConfig
from sqvae_speech.training.task import Place

SMALL = "--model.channels 16 --model.decoder_hidden 8 --model.quantizer.codebook_size 16 --model.quantizer.dim 8"
SHORT = "--training.log_interval 1 --training.valid_interval 4 --training.num_plots 0 --no-progress"
WHOLE = "--data.batching utterances --data.batch_frames 150"
LENGTHS = [[20, 30, 25], [40, 12, 33, 50], [24, 61]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_synthetic_shards(tmp_path_factory.mktemp("shards"), LENGTHS).folder


def words(shards: Path | str, exp_dir: Path, *more: str) -> list[str]:
    data = ["--exp-dir", str(exp_dir), "--data.train", str(shards), "--data.valid", str(shards)]
    return [*data, *f"{SMALL} {SHORT}".split(), *(word for text in more for word in text.split())]


def losses(exp_dir: Path) -> dict[tuple[str, int], float]:
    return {(row["split"], row["step"]): row["loss"] for row in read_metrics(exp_dir / "metrics.jsonl")}


def weights(exp_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(exp_dir / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.mark.parametrize("kind", ["gaussian", "vq"])
@pytest.mark.parametrize("windows", [0, 2])
def test_a_run_interrupted_and_resumed_is_the_run_never_interrupted(shards, tmp_path, kind, windows):
    options = f"{WHOLE} --model.quantizer.kind {kind} --data.shuffle_shards {windows} --training.codebook_init data"
    other = "--data.num_workers 2 --data.cache_gb 0"  # other ways to the same batches
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(words(shards, whole, options, "--training.num_steps 10")) == 0
    assert main(words(shards, parts, options, "--training.num_steps 6")) == 0
    assert main(words(shards, parts, options, "--training.num_steps 10", other)) == 0
    expected_losses, got_losses = losses(whole), losses(parts)
    assert got_losses.pop(("valid", 6)) != 0.0  # of the first part's end
    assert expected_losses == got_losses
    assert len({loss for (split, _), loss in losses(whole).items() if split == "train"}) == 10
    expected, got = weights(whole, 10), weights(parts, 10)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_remote_shards_train_as_local_ones(shards, tmp_path):
    address = f"pipe:cat {shards}/{{name}}"
    downloads = ["--data.download_dir", str(tmp_path / "downloads")]
    assert main([*words(address, tmp_path / "far", WHOLE, "--training.num_steps 4"), *downloads]) == 0
    assert main(words(shards, tmp_path / "near", WHOLE, "--training.num_steps 4")) == 0
    assert losses(tmp_path / "far") == losses(tmp_path / "near")
    assert len(list((tmp_path / "downloads").glob("*/*.tar"))) == 3


def test_codes_start_at_latents_of_real_frames(shards):
    torch.manual_seed(0)
    config = SpeechTrainConfig(
        data=DataConfig(train=str(shards), batching="utterances", batch_frames=250),
        model=SpeechModelConfig(16, 8, 8, quantizer=QuantizerConfig(codebook_size=16, dim=4)),
        training=AutoencoderTrainingConfig(codebook_init="data"),
    )
    task = SpeechTask(config, Place())
    (batch,) = itertools.islice(task.loader, 1)
    mel, lengths = nn.functional.pad(batch["mel"], (0, 200)), batch["lengths"]  # most of it is padding
    task.loader = OneBatch({**batch, "mel": mel})
    model = task.build_model()
    with torch.no_grad():  # as the codes are started: with gradients another implementation rounds differently
        latents = model.latents(mel, lengths)[0]
    real = torch.cat([row[: (length - 2) // 2] for row, length in zip(latents, lengths.tolist(), strict=True)])
    task.initialize(model)
    codebook = model.quantizer.codebook.detach()
    assert (codebook[:, None] == real).all(dim=2).any(dim=1).all()


class OneBatch:
    """A loader of one batch, again and again."""

    epoch = 0.0

    def __init__(self, batch: dict):
        self.batch = batch

    def __iter__(self):
        return itertools.repeat(self.batch)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        assert state == {}


# ---- several processes


def launch(*command: str) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run([*start, *command], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_and_one_goes_on(shards, tmp_path):
    module = ("-m", "sqvae_speech.bin.train")
    launch(*module, *words(shards, tmp_path, WHOLE, "--training.num_steps 7"))
    one = UtteranceLoader(shards, batch_frames=150, seed=0)
    list(itertools.islice(iter(one), 14))
    state = torch.load(tmp_path / "checkpoints" / "step-00000007" / "training_state.pt", weights_only=True)
    assert state["data"] == one.state_dict()
    assert main(words(shards, tmp_path, WHOLE, "--training.num_steps 9")) == 0
    assert ("train", 9) in losses(tmp_path)


# ---- what a user can get wrong


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.batching words", "data.batching must be one of crops, utterances, got 'words'"),
        ("--data.batch_frames 0", "data.batch_frames must be at least 4, got 0"),
        ("--data.shuffle_shards -1", "data.shuffle_shards must be at least 0, got -1"),
        ("--data.cache_gb -0.5", "data.cache_gb must be 0 (no cache) or more, got -0.5"),
        ("--data.download_gb 0", "data.download_gb must be positive, got 0.0"),
        ("--data.batching utterances --data.batch_frames 50", "batch_frames 50; 'u0000008'"),
        ("--data.batch_frame 50", "did you mean 'data.batch_frames'?"),
    ],
)
def test_a_bad_setting_is_one_message(shards, tmp_path, capsys, option, message):
    assert run(main, words(shards, tmp_path / "exp", option)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "exp").exists()


def test_a_run_on_crops_is_not_resumed_on_utterances(shards, tmp_path, capsys):
    assert main(words(shards, tmp_path, "--training.num_steps 1 --training.batch_size 2")) == 0
    assert run(main, words(shards, tmp_path, "--training.num_steps 2", WHOLE)) == 1
    assert "batching crops" in capsys.readouterr().err
