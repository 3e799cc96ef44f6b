"""Units in pieces are the units of the whole; folding changes none; timing says which samples a unit depends on."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from units_world import make_model, voice

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.stream import Level, samples_of_frames
from sqvae_speech.models import streaming
from sqvae_speech.models.inference import UnitTiming, for_inference
from sqvae_speech.models.modules import ConvEncoder
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig
from sqvae_speech.models.streaming import UnitStream, read_posterior
from sqvae_speech.quantization import QuantizerConfig

KINDS = {
    "type IV": {},
    "type II": {"covariance": "sample"},
    "VQ": {"kind": "vq"},
    "residual": {"num_quantizers": 2},
    "grouped": {"num_groups": 2},
}


def level_of(logmel: LogMel, wav: np.ndarray) -> Level:
    """From the whole, by other means than a stream's."""
    spec = logmel.spec
    flat = LogMel(replace(spec, peak=None, dynamic_range=None, normalize=False))
    loudest = float(flat(torch.from_numpy(wav)[None].double()).mel.max())
    undo = {"db": lambda x: 10 ** (x / 20 * spec.power), "log10": lambda x: 10**x, "ln": np.exp}
    return Level(float(np.abs(wav).max()), float(undo[spec.log](loudest)))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: make_model(root / str(n), **kind) for n, (name, kind) in enumerate(KINDS.items())}


@pytest.mark.parametrize("kind", KINDS)
def test_folding_changes_latents_by_rounding_and_no_unit(models, kind):
    bundle = models[kind]
    mel = LogMel(bundle.mel_spec)(torch.from_numpy(voice(2.0, 3))[None]).mel
    folded = for_inference(bundle.model)
    with torch.no_grad():
        expected, got = bundle.model.latents(mel)[0], folded.latents(mel)[0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert torch.equal(bundle.model.encode(mel).indices, folded.encode(mel).indices)
    assert len(folded.encode(mel).indices.unique()) > 5
    assert not any("running_mean" in name for name in folded.state_dict())
    assert any("running_mean" in name for name in bundle.model.state_dict())


@pytest.mark.parametrize("kind", ["type IV", "type II", "VQ", "residual"])
def test_ties_are_decided_alike_in_any_company(models, kind):
    """Codes in pairs, so that units lie on the borders between them: rounding decides, but for a second look."""
    bundle = models[kind]
    logmel, count = LogMel(bundle.mel_spec), 16
    wav = voice(3.0, 3).astype(np.float32)
    mel = logmel(torch.from_numpy(wav)[None]).mel
    model = copy.deepcopy(bundle.model)
    double = copy.deepcopy(bundle.model).double()
    with torch.no_grad():
        latents = double.latents(mel.double())[0][0]
        chosen = latents[torch.linspace(0, len(latents) - 1, count).long()]
        apart = (
            torch.randn(count, latents.shape[1], generator=torch.Generator().manual_seed(1)) * 0.05 * latents.std()
        )
        pairs = torch.cat([chosen + apart, chosen - apart]).float()
        quantizer = model.quantizer.stages[0] if kind == "residual" else model.quantizer
        quantizer.set_codebook(pairs)
        if kind == "residual":  # those of an untrained second stage repeat: true ties, that nothing decides
            second = model.quantizer.stages[1].codebook
            second.copy_(0.3 * latents.std() * torch.randn(second.shape, generator=torch.Generator().manual_seed(2)))
        double.quantizer = copy.deepcopy(model.quantizer).double()
        expected = double.encode(mel.double()).indices[0]
    fast = for_inference(model)
    alone = fast.encode(mel).indices[0]
    assert torch.equal(alone, expected)
    others = (
        torch.cat([mel, torch.zeros(1, 80, 77)], dim=2).repeat(3, 1, 1)
        + torch.tensor([0.0, 0.3, -0.2])[:, None, None]
    )
    company = fast.encode(others, torch.tensor([mel.shape[2], mel.shape[2] + 60, 50])).indices[0, : len(expected)]
    assert torch.equal(company, expected)
    for size in (320, 5_000):
        stream = UnitStream(fast, logmel, 16_000, level_of(logmel, wav))
        parts = [stream.push(wav[start : start + size]) for start in range(0, len(wav), size)] + [stream.finish()]
        assert torch.equal(torch.cat(parts), expected)
    # without the second look they differ, or this test would say little
    z, log_var = fast.latents(mel)
    once = fast.quantizer.encode(z, log_var)[0]
    assert not torch.equal(once, expected)
    doubtful = fast.changes(once[None], z, log_var)[0]
    assert count // 2 <= int(doubtful.sum()) < len(expected) // 4


@pytest.mark.parametrize("kind", KINDS)
def test_few_units_need_a_second_look(models, kind):
    fast = for_inference(models[kind].model)
    mel = LogMel(fast_spec := models[kind].mel_spec)(torch.from_numpy(voice(4.0, 3))[None]).mel
    z, log_var = fast.latents(mel)
    assert fast_spec.name == "sqvae16k"
    assert float(fast.changes(fast.quantizer.encode(z, log_var), z, log_var).float().mean()) < 0.02


def test_half_precision_is_of_the_convolutions_only(models):
    bundle = models["type IV"]
    mel = LogMel(bundle.mel_spec)(torch.from_numpy(voice(2.0, 3))[None]).mel
    half = for_inference(bundle.model, torch.bfloat16)
    assert half.quantizer.codebook.dtype == torch.float32
    with torch.no_grad():
        latents, exact = half.latents(mel)[0], bundle.model.latents(mel)[0]
    assert latents.dtype == torch.float32
    error = float((latents - exact).abs().max() / exact.abs().max())
    assert 1e-5 < error < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [130, 4_000, 10**9])
def test_units_in_pieces_are_those_of_the_whole(models, monkeypatch, kind, size):
    bundle = models[kind]
    monkeypatch.setattr(streaming, "_UNITS_AT_ONCE", 7)
    logmel = LogMel(bundle.mel_spec)
    for seconds in (0.041, 0.3, 1.234):
        wav = voice(seconds, 2).astype(np.float32)
        mel = logmel(torch.from_numpy(wav)[None]).mel
        stream = UnitStream(for_inference(bundle.model), logmel, 16_000, level_of(logmel, wav))
        parts = [stream.push(wav[start : start + size]) for start in range(0, len(wav), size)] + [stream.finish()]
        assert torch.equal(torch.cat(parts), bundle.model.encode(mel).indices[0])
        assert stream.num_units == bundle.model.num_units(mel.shape[2])


def test_posteriors_in_pieces(models):
    bundle = models["type IV"]
    logmel, wav = LogMel(bundle.mel_spec), voice(0.8, 2).astype(np.float32)
    stream = UnitStream(bundle.model, logmel, 16_000, level_of(logmel, wav), read_posterior)
    parts = [*map(stream.push, np.array_split(wav, 9)), stream.finish()]
    expected = bundle.model.posterior(logmel(torch.from_numpy(wav)[None]).mel)[0]
    torch.testing.assert_close(torch.cat([part for part in parts if len(part)]), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("preset", ["melgan22k", "waveglow22k", "vocos24k"])
def test_other_features_need_no_level(tmp_path, preset):
    bundle = make_model(tmp_path, preset)
    spec = bundle.mel_spec
    wav = voice(0.9, 1, spec.sample_rate).astype(np.float32)
    stream = UnitStream(bundle.model, LogMel(spec), spec.sample_rate)
    parts = [*map(stream.push, np.array_split(wav, 50)), stream.finish()]
    expected = bundle.model.encode(LogMel(spec)(torch.from_numpy(wav)[None]).mel).indices[0]
    assert torch.equal(torch.cat(parts), expected)


def test_a_running_level_is_that_of_the_wav_so_far(models):
    """Each unit against one computed alone: all frames at the level of the samples that it may look at."""
    bundle = models["type IV"]
    spec, logmel, timing = bundle.mel_spec, LogMel(bundle.mel_spec), UnitTiming(bundle.mel_spec)
    wav = (voice(1.0, 1) * np.linspace(0.05, 1, 16_000)).astype(np.float32)
    told = []
    for size in (100, 3_000, 16_000):
        stream = UnitStream(bundle.model, logmel, 16_000)
        told.append(torch.cat([stream.push(wav[n : n + size]) for n in range(0, len(wav), size)] + [stream.finish()]))
    assert torch.equal(told[0], told[1])  # however it was cut
    assert torch.equal(told[0], told[2])
    linear = LogMel(replace(spec, peak=None, dynamic_range=None, normalize=False))
    mel = 10 ** (linear(torch.from_numpy(wav)[None].double()).mel.double() / 20)
    offline = bundle.model.encode(logmel(torch.from_numpy(wav)[None]).mel).indices[0]
    assert not torch.equal(told[0], offline)  # a wav that grows louder: or this test would say little
    for unit in range(len(offline) - 8):
        frames = 2 * unit + 10
        gain = spec.peak / np.abs(wav[: timing.receptive_field(unit)[1]]).max()
        part = mel[:, :, :frames] * gain
        level = logmel.log(part, part.amax(dim=(1, 2))).float()
        assert told[0][unit] == bundle.model.encode(level).indices[0, unit]


def test_once_the_loudest_moment_has_passed_running_units_are_the_offline_ones(models):
    bundle = models["type IV"]
    wav = voice(1.5, 1).astype(np.float32)
    wav[6_000:9_000] *= 1.5
    logmel, timing = LogMel(bundle.mel_spec), UnitTiming(bundle.mel_spec)
    stream = UnitStream(bundle.model, logmel, 16_000)
    told = torch.cat([stream.push(wav), stream.finish()])
    offline = bundle.model.encode(logmel(torch.from_numpy(wav)[None]).mel).indices[0]
    first = next(unit for unit in range(len(offline)) if timing.receptive_field(unit)[1] > 9_000 + 800)
    assert first < len(offline) - 20
    assert torch.equal(told[first:], offline[first:])


GEOMETRY = {
    "melgan22k": MelSpec.preset("melgan22k"),
    "vocos24k": MelSpec.preset("vocos24k"),
    "preemphasis": replace(MelSpec.preset("sqvae16k"), peak=None, dynamic_range=None, normalize=False),
    "odd": replace(MelSpec.preset("vocos24k"), hop_length=255, win_length=1001, preemphasis=0.9),
}


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize("unit", [10, 11])
def test_the_receptive_field_is_just_the_samples_that_change_a_unit(name, unit):
    spec = GEOMETRY[name]
    torch.manual_seed(0)
    config = SpeechModelConfig(channels=16, quantizer=QuantizerConfig(codebook_size=8, dim=4))
    model = SpeechModel(config, spec.n_mels, 1).eval().double()
    logmel = LogMel(spec)
    first, stop = UnitTiming(spec).receptive_field(unit)
    assert first > 0
    # a click, far louder than what it falls into: the window all but hides its first and last sample
    wav = 1e-3 * torch.randn(1, stop + 9_000, dtype=torch.float64)

    def latents(sample: int | None) -> torch.Tensor:
        clicked = wav.clone()
        if sample is not None:
            clicked[0, sample] += 1e4
        with torch.no_grad():
            return model.latents(logmel(clicked).mel.double())[0][0, unit]

    silent = latents(None)
    for sample, inside in [(first - 1, False), (first, True), (stop - 1, True), (stop, False)]:
        assert torch.equal(latents(sample), silent) == (not inside), (sample, inside)


@pytest.mark.parametrize("name", GEOMETRY)
def test_spans_follow_one_another_and_lie_in_the_middle_of_the_receptive_field(name):
    spec, timing = GEOMETRY[name], UnitTiming(GEOMETRY[name])
    for unit in range(5):
        start, stop = timing.span(unit)
        assert stop - start == 2 * spec.hop_length
        assert stop == timing.span(unit + 1)[0]
        first, last = timing.receptive_field(unit)
        assert abs((first + last) - (start + stop)) <= 3  # the window's first sample and the samples' halves
    # frame 0 of a centred mel is centred on sample 0, and unit 0 begins with frame 1
    if spec.center:
        assert abs(timing.span(0)[0] - spec.hop_length / 2) <= 1
    assert timing.frame_rate == spec.sample_rate / spec.hop_length / 2


@pytest.mark.parametrize("preset", ["sqvae16k", "melgan22k", "vocos24k"])
def test_a_unit_comes_just_when_the_latency_says(tmp_path, preset):
    bundle = make_model(tmp_path, preset)
    spec, timing = bundle.mel_spec, UnitTiming(bundle.mel_spec)
    wav = voice(0.6, 0, spec.sample_rate).astype(np.float32)
    stream = UnitStream(bundle.model, LogMel(spec), spec.sample_rate)
    told = 0
    for number, sample in enumerate(wav[:6_000, None], 1):
        for _ in range(len(stream.push(sample))):
            assert number == timing.span(told)[1] + timing.latency
            told += 1
    assert told >= 5


def test_the_network_sees_sixteen_frames():
    """By perturbing frames: the constant that streams and timing count with is that of the network."""
    torch.manual_seed(0)
    encoder = ConvEncoder(3, 8, 4).eval()
    mel, unit = torch.randn(1, 3, 60), 10
    with torch.no_grad():
        base = encoder(mel)[0, unit]
        seen = [t for t in range(60) if not torch.equal(encoder(mel + 10.0 * torch.eye(60)[t])[0, unit], base)]
    assert (seen[0] - 2 * unit, seen[-1] - 2 * unit) == ConvEncoder.receptive_frames
    assert len(seen) == 16
    assert samples_of_frames(MelSpec.preset("sqvae16k"), 1) == 201  # frame 0 mirrors sample 200
