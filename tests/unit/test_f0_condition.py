"""Decoders that are told F0: its features, its files, what it changes, training with it, speaking with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_models_decoders import DIM, N_MELS, SPEAKERS, make_model
from units_world import make_model as make_bundle

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.pitch_features import pitch_features
from sqvae_speech.bin._cli import run
from sqvae_speech.bin.data import main as data
from sqvae_speech.bin.train import main as train
from sqvae_speech.data.f0_tracks import F0Tracks, write_f0_tracks
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.loader import SegmentLoader
from sqvae_speech.data.shards import write_shards
from sqvae_speech.errors import UserError
from sqvae_speech.models.pretrained import SpeechBundle, load_speech_model
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig
from sqvae_speech.units.convert_voice import decode_units
from sqvae_speech.units.sequences import UtteranceUnits

PITCH = {"ann-1": 150.0, "ann-2": 220.0, "bob-1": 100.0}
CONDITION = "--model.decoder convolutional --model.f0_condition true"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones with harmonics of the pitches above, half a second, then silence; shards of them, and their F0."""
    root = tmp_path_factory.mktemp("world")
    utterances = []
    for number, (name, pitch) in enumerate(PITCH.items()):
        time = np.arange(8000 + 1600 * number) / 16_000
        wav = sum(np.sin(2 * np.pi * k * pitch * time) / k for k in range(1, 12)) * (time < 0.5) * 0.1
        soundfile.write(
            root / f"{name}.wav", wav + 1e-4 * np.random.default_rng(0).standard_normal(len(time)), 16_000
        )
        utterances.append(Utterance(name, name.split("-")[0], str(root / f"{name}.wav")))
    DataDir(utterances).write(root / "data")
    write_shards(root / "data", root / "dump", MelSpec.preset("sqvae16k"), progress=False)
    assert data(["f0", str(root / "data"), str(root / "dump"), "--output", str(root / "f0.npz"), "--quiet"]) == 0
    return root


def test_features_are_relative_to_the_utterance():
    f0 = np.array([0.0, 100.0, 200.0, 0.0])
    expected = np.log([100, 200]) - np.log([100, 200]).mean()
    found = pitch_features(f0)
    np.testing.assert_allclose(found[:, 0], [0, *expected / 0.25, 0], rtol=1e-6)
    assert found[:, 1].tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(pitch_features(1.7 * f0), found, atol=1e-5)
    assert not pitch_features(np.zeros(3)).any()


def test_f0_of_shards_is_that_of_the_recordings(world):
    index = ShardIndex.load(world / "dump")
    with np.load(world / "f0.npz") as archive:
        for entry in index.entries():
            track = archive[entry.utterance_id]
            assert track.shape == (entry.num_frames,)
            np.testing.assert_allclose(track[15:35], PITCH[entry.utterance_id], rtol=0.02)
    tracks = F0Tracks(world / "f0.npz", index)
    batch = next(iter(SegmentLoader(index, batch_size=3, segment_frames=12, seed=0)))
    cut = tracks.cut(batch["utterance_id"], batch["first"].tolist(), 12)
    assert cut.shape == (3, 12, 2)
    with np.load(world / "f0.npz") as archive:
        for row, name, first in zip(cut, batch["utterance_id"], batch["first"].tolist(), strict=True):
            np.testing.assert_array_equal(row, pitch_features(archive[name])[first : first + 12])
    assert not tracks.cut(["ann-1"], [0], 500)[0, 60:].any(), "beyond the end"


def test_files_that_do_not_fit(world, tmp_path, capsys):
    index = ShardIndex.load(world / "dump")
    write_f0_tracks(tmp_path / "short.npz", {name: np.zeros(5) for name in PITCH})
    with pytest.raises(UserError, match=r"F0 of 'ann-1' is \(5,\), its log-mel has 51 frames"):
        F0Tracks(tmp_path / "short.npz", index)
    write_f0_tracks(tmp_path / "one.npz", {"ann-1": np.zeros(51)})
    with pytest.raises(UserError, match="has no F0 of 'ann-2'"):
        F0Tracks(tmp_path / "one.npz", index)
    with pytest.raises(UserError, match="no F0 at"):
        F0Tracks(tmp_path / "none.npz", index)
    words = ["--exp-dir", str(tmp_path / "exp"), "--data.train", str(world / "dump"), *CONDITION.split()]
    assert run(train, words) == 1
    assert "`sqvae-speech data f0` writes the file" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"f0_condition is for model\.decoder convolutional"):
        SpeechModelConfig(f0_condition=True)


def test_what_a_decoder_makes_of_it():
    model = make_model(decoder="convolutional", f0_condition=True).eval()
    lengths = torch.tensor([6, 3])
    quantized, speaker, f0 = torch.randn(2, 6, DIM), torch.tensor([0, SPEAKERS - 1]), torch.randn(2, 12, 2)
    with torch.no_grad():
        told, not_told = model.decoder(quantized, speaker, lengths, f0), model.decoder(quantized, speaker, lengths)
        assert not torch.allclose(told, not_told)
        alone = model.decoder(quantized[1:, :3], speaker[1:], None, f0[1:, :6])
        torch.testing.assert_close(told[1:, :, :6], alone, rtol=1e-5, atol=1e-5)
        # training hides it now and then
        model.decoder.train()
        torch.manual_seed(0)
        hidden = [
            torch.allclose(model.decoder(quantized[:1], speaker[:1], None, f0[:1]), not_told[:1], atol=1e-6)
            for _ in range(60)
        ]
    assert 2 < sum(hidden) < 30
    mel = torch.randn(2, N_MELS, 14)
    model.eval()
    one = model(mel, speaker, f0=torch.cat([torch.randn(2, 1, 2), f0, torch.randn(2, 1, 2)], dim=1))
    other = model(mel, speaker, f0=torch.cat([torch.randn(2, 1, 2), f0, torch.randn(2, 1, 2)], dim=1))
    assert torch.equal(one.reconstruction, other.reconstruction), "the frames that are lost at the ends do not count"


def test_training_with_f0(world, tmp_path):
    folder, tracks = str(world / "dump"), str(world / "f0.npz")
    words = ["--exp-dir", str(tmp_path), "--no-progress", "--data.train", folder, "--data.valid", folder]
    words += ["--data.f0", tracks, "--data.valid_f0", tracks, *CONDITION.split()]
    sizes = (
        "--model.channels 16 --model.decoder_channels 8 --model.decoder_blocks 1 --model.quantizer.codebook_size 8"
    )
    steps = "--training.num_steps 2 --training.batch_size 3 --training.num_plots 0"
    words += [*sizes.split(), *steps.split()]
    assert train(words) == 0
    model = load_speech_model(tmp_path).model
    assert model.decoder.pitch is not None
    torch.manual_seed(0)
    start = SpeechModel(model.config, model.n_mels, 2)
    assert not torch.equal(start.decoder.pitch.weight, model.decoder.pitch.weight)


def test_units_with_f0_are_said_with_it(tmp_path):
    plain = make_bundle(tmp_path)
    config = replace(plain.model.config, decoder="convolutional", f0_condition=True, decoder_channels=8)
    model = SpeechModel(config, plain.mel_spec.n_mels, len(plain.speakers)).eval()
    bundle = SpeechBundle(model, plain.mel_spec, plain.speakers)
    f0 = np.array([0.0, 120.0, 180.0])
    units = UtteranceUnits("u", np.array([1, 2, 3]), f0=f0, durations=np.array([1, 2, 1]))
    of_frames = pitch_features(np.repeat(f0, [1, 2, 1])).repeat(2, axis=0)
    expected = model.decode(torch.tensor([[1, 2, 2, 3]]), torch.tensor([1]), f0=torch.from_numpy(of_frames)[None])[0]
    torch.testing.assert_close(decode_units(bundle, units, "bob"), expected)
    assert not torch.allclose(decode_units(bundle, replace(units, f0=None), "bob"), expected)
