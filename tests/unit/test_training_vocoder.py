"""Training our own vocoder: mels of shards, samples of the recordings behind them, on the loop of all tasks."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fixtures import make_data_dir
from safetensors.torch import load_file

from sqvae_speech.audio.front_end import FrontEnd
from sqvae_speech.audio.melspec import PRESETS
from sqvae_speech.bin import vocode
from sqvae_speech.bin._cli import run
from sqvae_speech.bin.train import main
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.reader import iterate_utterances
from sqvae_speech.data.shards import write_shards
from sqvae_speech.data.wav_loader import PackedWavs, WavReader, WavSegmentLoader
from sqvae_speech.models.discriminators import Discriminators
from sqvae_speech.models.pretrained_vocoder import load_trained_vocoder
from sqvae_speech.training.adversary import Adversary
from sqvae_speech.training.metrics_log import read_metrics

SMALL = (
    "--no-progress --task vocoder --model.channels 12 --model.num_blocks 1 --model.expansion 1 --model.rounds 1 "
    "--model.mel_rounds 2 --training.batch_size 3 --training.log_interval 1 --training.valid_interval 4 "
    "--training.num_plots 0 --training.warmup_steps 1 --training.schedule constant --training.ema_decay 0.5 "
    "--data.segment_frames 16"
)
ADVERSARY = "--training.adversarial_weight 0.1 --training.discriminator_channels 2 --training.adversarial_start 2"


@pytest.fixture(scope="module", params=["sqvae16k", "melgan22k"])
def corpus(request, tmp_path_factory) -> tuple[Path, Path]:
    """A data directory, and its shards."""
    folder = tmp_path_factory.mktemp(request.param)
    make_data_dir(folder / "data", speakers=2, per_speaker=2)
    return folder / "data", shards_of(folder / "data", folder / "shards", request.param)


def shards_of(data_dir: Path, folder: Path, preset: str) -> Path:
    write_shards(data_dir, folder, PRESETS[preset], front_end=FrontEnd(resample="soxr"), progress=False)
    return folder


def words(exp_dir: Path, corpus: tuple[Path, Path], *more: str) -> list[str]:
    data, shards = corpus
    paths = ["--data.train", str(shards), "--data.train_recordings", str(data)]
    paths += ["--data.valid", str(shards), "--data.valid_recordings", str(data)]
    return ["--exp-dir", str(exp_dir), *paths, *(word for text in (SMALL, *more) for word in text.split())]


def rows(exp_dir: Path, split: str) -> list[dict]:
    return [row for row in read_metrics(exp_dir / "metrics.jsonl") if row["split"] == split]


def loader(corpus: tuple[Path, Path], **options) -> WavSegmentLoader:
    settings = {"batch_size": 4, "segment_frames": 16, "seed": 3, **options}
    return WavSegmentLoader(corpus[1], recordings=corpus[0], **settings)


def test_crops_of_mels_come_with_the_samples_they_stand_for(corpus):
    """The mel of a crop's samples is the crop's mel, where no window reaches beyond it."""
    from sqvae_speech.audio.logmel import LogMel

    spec = ShardIndex.load(corpus[1]).mel_spec
    whole = {one.utterance_id: one.mel for one in iterate_utterances(corpus[1])}
    batch = next(iter(loader(corpus)))
    assert batch["wav"].shape == (4, spec.num_samples(16))
    assert batch["wav"].dtype == torch.float32
    if spec.peak is not None:  # at the level that the mel has, so that no floor or peak moves
        spec = dataclasses.replace(spec, peak=None)
    mel = LogMel(spec)(batch["wav"]).mel
    for row, name in enumerate(batch["utterance_id"]):
        assert batch["lengths"][row] == 16
        floor = whole[name].min()  # of the whole utterance, which a crop alone does not know
        inner = slice(4, 12)
        made, expected = (np.maximum(one[row, :, inner].numpy(), floor) for one in (mel, batch["mel"]))
        clear = expected > floor + 0.1
        assert np.abs(made - expected)[clear].max() < 0.02


def test_the_cache_changes_no_sample_by_more_than_its_step(corpus):
    packed, plain = loader(corpus), loader(corpus, cache_bytes=0)
    assert isinstance(packed._wavs, PackedWavs)
    assert isinstance(plain._wavs, WavReader)
    for cached, read in zip(packed, plain, strict=False):
        assert cached["utterance_id"] == read["utterance_id"]
        assert torch.equal(cached["mel"], read["mel"])
        torch.testing.assert_close(cached["wav"], read["wav"], rtol=0, atol=1.0 / 32767)
        if packed.epoch >= 2:
            break
    names = sorted(path.name.partition(".")[2] for path in (corpus[1] / ".cache").iterdir() if path.name != "lock")
    assert names == ["frames", "frames.json", "wavs", "wavs.json"], "both caches, and neither removes the other"


def test_utterances_shorter_than_a_crop_end_in_silence(corpus):
    spec = ShardIndex.load(corpus[1]).mel_spec
    for options in ({}, {"cache_bytes": 0}):
        batch = next(iter(loader(corpus, segment_frames=60, **options)))
        for row, length in enumerate(batch["lengths"].tolist()):
            assert length < 60
            assert batch["wav"][row, : spec.num_samples(length)].abs().max() > 0.1
            assert not batch["wav"][row, spec.num_samples(length) :].any()


@pytest.mark.parametrize("adversary", ["", ADVERSARY])
def test_a_run_interrupted_and_resumed_is_the_run_never_interrupted(corpus, tmp_path, adversary):
    assert main(words(tmp_path / "whole", corpus, adversary, "--training.num_steps 6")) == 0
    assert main(words(tmp_path / "parts", corpus, adversary, "--training.num_steps 4")) == 0
    assert main(words(tmp_path / "parts", corpus, adversary, "--training.num_steps 6")) == 0
    names = ["step", "loss", "magnitude", "turn", "convergence", "log_magnitude", "mel", "grad_norm", "epoch"]
    whole, parts = (
        [[row.get(name) for name in names] for row in rows(tmp_path / run, "train")] for run in ("whole", "parts")
    )
    assert whole == parts
    last = Path("checkpoints") / "step-00000006" / "model.safetensors"
    expected, got = (load_file(tmp_path / run / last) for run in ("whole", "parts"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    judged = [row["step"] for row in rows(tmp_path / "whole", "train") if "discriminators" in row]
    assert judged == ([3, 4, 5, 6] if adversary else []), "from step adversarial_start on"


@pytest.mark.slow
def test_two_processes_are_one_on_the_same_batch(corpus, tmp_path):
    # two steps and one with discriminators; neither phase search nor Adam have time to make more of rounding
    more = f"{ADVERSARY} --training.batch_size 4 --training.num_steps 3 --training.valid_interval 3 --model.rounds 0"
    assert main(words(tmp_path / "one", corpus, more)) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "sqvae_speech.bin.train", *words(tmp_path / "two", corpus, more)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    for split, name, count in (("train", "grad_norm", 3), ("valid", "loss", 1)):
        one, two = ([row[name] for row in rows(tmp_path / run, split)] for run in ("one", "two"))
        assert len(one) == count
        assert two == pytest.approx(one, rel=1e-3)


def test_training_lowers_the_loss(tmp_path):
    make_data_dir(tmp_path / "data", speakers=1, per_speaker=2)
    corpus = (tmp_path / "data", shards_of(tmp_path / "data", tmp_path / "shards", "sqvae16k"))
    more = "--model.channels 48 --training.num_steps 60 --training.valid_interval 20 --training.learning_rate 3e-3"
    assert main(words(tmp_path / "exp", corpus, more, "--training.num_plots 1")) == 0
    losses = [row["loss"] for row in rows(tmp_path / "exp", "valid")]
    assert losses[-1] < 0.9 * losses[0], losses
    plots = {path.name for path in (tmp_path / "exp" / "plots").rglob("*.png")}
    assert any(name.startswith("mel-") for name in plots)
    bundle = load_trained_vocoder(tmp_path / "exp")
    assert bundle.mel_spec == PRESETS["sqvae16k"]
    # and the verb that copies recordings
    arguments = ["--vocoder", f"istft:{tmp_path / 'exp'}", "--output", str(tmp_path / "out"), "--quiet"]
    assert run(vocode.main, [*arguments, "--shards", str(corpus[1]), "--max", "1"]) == 0
    (made,) = (tmp_path / "out").iterdir()
    recording = tmp_path / "wavs" / made.name
    assert run(vocode.main, [*arguments, "--wav", str(recording)]) == 0, "the same by the recording"


def test_discriminators_learn_and_the_model_is_drawn_to_what_they_like():
    torch.manual_seed(0)
    real = torch.sin(torch.linspace(0, 900, 3000))[None].repeat(2, 1)
    made = torch.randn(2, 3000).mul_(0.1).requires_grad_()
    adversary = Adversary(Discriminators(4, sizes=(256, 128)), learning_rate=1e-2)
    losses = [float(adversary.step(made, real)) for _ in range(60)]
    assert made.grad is None
    assert losses[-1] < 0.5 * losses[0]
    found = adversary.loss(made, real)
    (found.adversarial + found.features).backward()
    assert made.grad is not None
    assert made.grad.abs().max() > 0
    assert all(p.grad is None and p.requires_grad for p in adversary.discriminators.parameters())
    exact = adversary.loss(real, real)
    assert float(exact.features) == 0
    assert float(exact.adversarial) < float(found.adversarial.detach())


# ---- what a user can get wrong


def error(arguments: list[str], capsys) -> str:
    assert run(main, arguments) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message[message.index("error: ") :]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.train_recordings nowhere", "data directory nowhere does not exist"),
        ("--data.valid_recordings=", "data.valid_recordings is not set: give the data directory that data.valid was"),
        ("--data.segment_frames 8", "data.segment_frames must be at least 16, got 8"),
        ("--model.overlap 2", "model.overlap must be at least 3, got 2"),
        ("--training.mel_weight -1", "training.mel_weight must be at least 0"),
        ("--training.adversarial_weight 1 --training.accumulation 3", "training.accumulation must be 1 with"),
        ("--training.adversarial_weight 1 --training.mixed_precision fp16", "must be no or bf16 with"),
        ("--model.hidden 8", "unknown option --model.hidden"),
    ],
)
def test_a_bad_setting_is_one_message(corpus, tmp_path, capsys, option, message):
    assert message in error(words(tmp_path / "exp", corpus, option), capsys)


def test_recordings_that_are_not_those_of_the_shards_are_refused(tmp_path, capsys):
    make_data_dir(tmp_path / "data", speakers=1, per_speaker=2)
    corpus = (tmp_path / "data", shards_of(tmp_path / "data", tmp_path / "shards", "sqvae16k"))
    make_data_dir(tmp_path / "other" / "data", speakers=1, per_speaker=1)
    message = error(words(tmp_path / "exp", (tmp_path / "other" / "data", corpus[1])), capsys)
    assert "other/data has no utterance 's0-001'" in message
    make_data_dir(tmp_path / "data", speakers=1, per_speaker=2, seconds=0.4)  # the same names, other recordings
    assert "not the recording of then" in error(words(tmp_path / "exp", corpus), capsys)


def test_a_checkpoint_of_another_network_or_mel_is_refused(corpus, tmp_path, capsys):
    assert main(words(tmp_path / "exp", corpus, "--training.num_steps 1")) == 0
    assert "model.channels: 12 there, 16 here" in error(
        words(tmp_path / "exp", corpus, "--model.channels 16"), capsys
    )
    other = shards_of(corpus[0], tmp_path / "other", "vocos24k")
    assert "n_mels: 80 in checkpoint" in error(words(tmp_path / "exp", (corpus[0], other)), capsys)
