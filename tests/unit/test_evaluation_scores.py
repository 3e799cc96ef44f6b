"""Scores against a float64 computation, utterance by utterance, in numpy and scipy."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from units_world import SPEAKERS, make_model, make_world

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.reader import UtteranceMel, iterate_utterances
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.codebook import CodebookAccumulator
from sqvae_speech.evaluation.reconstruction import squared_error_sums
from sqvae_speech.evaluation.report import markdown, report
from sqvae_speech.evaluation.report_files import write_report
from sqvae_speech.evaluation.scores import score_shards, score_utterances


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("score"))


def alone(bundle, utterance, speaker):
    """Sum of squared errors and number of values of one utterance, unpadded, subtracted in float64."""
    mel = torch.from_numpy(utterance.mel)[None]
    with torch.no_grad():
        indices = bundle.model.encode(mel).indices
        decoded = bundle.model.decode(indices, torch.tensor([SPEAKERS.index(speaker)]))
    frames = utterance.mel.shape[1] - utterance.mel.shape[1] % 2  # an odd last frame is dropped first
    target = utterance.mel[:, :frames][:, 1:-1].astype(np.float64)
    assert target.shape == tuple(decoded.shape[1:])
    return float(((decoded[0].numpy().astype(np.float64) - target) ** 2).sum()), target.size, indices[0].numpy()


@pytest.mark.parametrize("max_frames", [16_000, 80])
def test_scores_against_single_utterances_in_float64(world, max_frames):
    scores = score_shards(world.bundle, world.shards, target_speakers=["bob"], max_frames=max_frames, progress=False)
    utterances = list(iterate_utterances(world.shards))
    for error, speaker_of in (
        (scores.error, lambda u: u.speaker),
        (scores.target_errors["bob"], lambda u: "bob"),
    ):
        sums, sizes, _ = zip(*(alone(world.bundle, u, speaker_of(u)) for u in utterances), strict=True)
        assert error.pooled == pytest.approx(6400 * sum(sums) / sum(sizes), rel=1e-5)
        each = 6400 * np.array(sums) / np.array(sizes)
        assert error.utterance_mean == pytest.approx(each.mean(), rel=1e-5)
        assert error.utterance_std == pytest.approx(each.std(), rel=1e-4)
        for name in SPEAKERS:
            own = [n for n, u in enumerate(utterances) if u.speaker == name]
            expected = 6400 * sum(sums[n] for n in own) / sum(sizes[n] for n in own)
            assert error.speakers[name] == pytest.approx(expected, rel=1e-5)
    assert scores.error.pooled != pytest.approx(scores.target_errors["bob"].pooled, rel=1e-3)

    codes = np.concatenate([alone(world.bundle, u, u.speaker)[2] for u in utterances])
    counts = np.bincount(codes, minlength=32)
    np.testing.assert_array_equal(scores.counts, counts[None])
    with torch.no_grad():
        posterior = (
            torch.cat([world.bundle.model.posterior(torch.from_numpy(u.mel)[None])[0] for u in utterances])
            .double()
            .numpy()
        )
    assert scores.codebook.perplexity == pytest.approx(math.exp(entropy(counts)), rel=1e-9)
    assert scores.codebook.perplexity_posterior == pytest.approx(math.exp(entropy(posterior.mean(axis=0))), rel=1e-5)
    assert scores.codebook.posterior_entropy == pytest.approx(entropy(posterior, axis=1).mean(), rel=1e-4)
    assert (scores.codebook.used, scores.codebook.usage) == ((counts > 0).sum(), (counts > 0).sum() / 32)
    seconds = sum(u.mel.shape[1] for u in utterances) / 100
    assert scores.units.bitrate == pytest.approx(len(codes) / seconds * entropy(counts, base=2), rel=1e-9)


def test_every_log_in_decibels():
    """A change of an amplitude by a factor, in the units of each preset, is the same number of dB in all."""
    for preset in ("sqvae16k", "melgan22k", "waveglow22k", "vocos24k"):
        spec = MelSpec.preset(preset)
        change = {
            "db": 20 * math.log10(3.0) / (spec.dynamic_range if spec.normalize else 1),
            "log10": spec.power * math.log10(3.0),
            "ln": spec.power * math.log(3.0),
        }[spec.log]
        assert change * spec.decibels_per_unit == pytest.approx(20 * math.log10(3.0), rel=1e-12)
    plain = MelSpec(
        name="x", sample_rate=16000, n_fft=512, hop_length=160, win_length=400, n_mels=40, fmin=0, fmax=8000, log="db"
    )
    assert plain.decibels_per_unit == 1
    assert MelSpec.preset("sqvae16k").decibels_per_unit == 80


def test_padding_counts_in_nothing():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 5)), rng.random((2, 3, 5))
    expected = [((a[0, :, :5] - b[0, :, :5]) ** 2).sum(), ((a[1, :, :2] - b[1, :, :2]) ** 2).sum()]
    a[1, :, 2:] = np.nan
    got = squared_error_sums(torch.from_numpy(a), torch.from_numpy(b), torch.tensor([5, 2]))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-14)

    accumulator = CodebookAccumulator(4)
    posterior = torch.tensor([[[0.5, 0.5, 0, 0], [float("nan")] * 4]])
    accumulator.update(torch.tensor([[1, 3]]), torch.tensor([[True, False]]), posterior)
    scores = accumulator.scores()
    assert (scores.used, scores.perplexity) == (1, 1)
    assert scores.perplexity_posterior == pytest.approx(2)
    assert scores.posterior_entropy == pytest.approx(math.log(2))


def test_vq_has_a_certain_posterior(world, tmp_path):
    bundle = make_model(tmp_path / "vq", kind="vq")
    scores = score_shards(bundle, world.shards, progress=False)
    assert scores.codebook.posterior_entropy == 0
    assert scores.codebook.perplexity_posterior == pytest.approx(scores.codebook.perplexity, rel=1e-6)


def test_untrained_speakers(world):
    stranger = UtteranceMel("x-1", "stranger", next(iter(iterate_utterances(world.shards))).mel, 1.0, {})
    with pytest.raises(UserError, match=r"'stranger' was not trained.*--target-speaker, one of ann, bob, eve"):
        score_utterances(world.bundle, [stranger])
    scores = score_utterances(world.bundle, [*iterate_utterances(world.shards), stranger], target_speakers=["ann"])
    assert scores.error is None
    assert scores.target_errors["ann"].pooled > 0
    with pytest.raises(UserError, match=r"'anne' was not trained, did you mean 'ann'.*seen target"):
        score_utterances(world.bundle, [stranger], target_speakers=["anne"])


def test_short_utterances_are_named_and_left_out(world):
    short = UtteranceMel("short", "ann", np.zeros((80, 3), np.float32), 1.0, {})
    utterances = list(iterate_utterances(world.shards))
    with_short = score_utterances(world.bundle, [short, *utterances])
    assert with_short.skipped == ["short"]
    assert with_short.error == score_utterances(world.bundle, utterances).error
    with pytest.raises(UserError, match="no utterance is long enough"):
        score_utterances(world.bundle, [short])


def test_report(world, tmp_path):
    scores = score_shards(world.bundle, world.shards, target_speakers=["eve"], progress=False)
    values = report(world.bundle, "exp/x", [scores])
    files = write_report(tmp_path / "out" / "scores.json", values, markdown(values))
    assert [file.name for file in files] == ["scores.json", "scores.md"]
    read = json.loads(files[0].read_text())
    assert read["splits"][0]["error_db2"]["pooled"] == scores.error.pooled
    assert read["step"] == 7
    rows = [line.split(" | ") for line in markdown(values).splitlines() if line.startswith("| test")]
    assert [row[1] for row in rows] == ["own speaker", "eve"]
    assert rows[0][3] == f"{scores.error.pooled:.2f}"
    assert rows[1][3] == f"{scores.target_errors['eve'].pooled:.2f}"
    widths = {line.count("|") for line in markdown(values).splitlines() if line.startswith("|")}
    assert widths == {11}


def test_shards_of_another_spec(world, tmp_path):
    other = make_model(tmp_path / "vocos", "vocos24k")
    with pytest.raises(UserError, match="sample_rate: 24000 in the checkpoint, 16000 in the shards"):
        score_shards(other, world.shards, progress=False)
