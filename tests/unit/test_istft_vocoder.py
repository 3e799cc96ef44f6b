"""Our own vocoder: lengths, batches, streams, levels, files; its inverse transform against its definition."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from voice_fixtures import voice

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import PRESETS, MelSpec
from sqvae_speech.audio.vocoder import undo_log
from sqvae_speech.errors import UserError
from sqvae_speech.models import istft_vocoder
from sqvae_speech.models.inverse_stft import InverseStft
from sqvae_speech.models.istft_vocoder import IstftVocoder
from sqvae_speech.models.pretrained_vocoder import VocoderBundle, load_trained_vocoder, save_vocoder
from sqvae_speech.models.vocoder_model import VocoderModel
from sqvae_speech.models.vocoder_network import _SHARPNESS, VocoderConfig, resampled_filterbank
from sqvae_speech.models.vocoders import load_vocoder

SMALL = VocoderConfig(channels=16, num_blocks=2, expansion=2, rounds=1, mel_rounds=1)
CONTEXT = 9  # frames on either side that the network looks at: three convolutions of 7
# frames on either side of a sample: half a window, a round of Griffin-Lim, one of matching the mel
REACH = {"sqvae16k": 2 + 2 + 3, "melgan22k": 2 + 3 + 4}


def untrained(spec: MelSpec, config: VocoderConfig = SMALL) -> VocoderModel:
    """With weights so large that all of its parts are heard."""
    torch.manual_seed(0)
    model = VocoderModel(config, spec)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=1.0 / math.sqrt(parameter[0].numel()))
    return model.eval()


def vocoder(name: str = "sqvae16k") -> IstftVocoder:
    return IstftVocoder(VocoderBundle(untrained(PRESETS[name]), step=7))


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To rounding, which the phase search amplifies a little."""
    return one.shape == other.shape and bool((one - other).norm() <= 1e-3 * other.norm())


def mels(spec: MelSpec, batch: int, frames: int) -> torch.Tensor:
    low, high = {"db": (0.2, 1.0), "log10": (-3.0, 0.0), "ln": (-7.0, 0.0)}[spec.log]
    drawn = torch.rand(batch, spec.n_mels, frames, generator=torch.Generator().manual_seed(1))
    return low + (high - low) * drawn


def inverse_by_definition(spectrum: np.ndarray, spec: MelSpec, overlap: int) -> np.ndarray:
    """The sum over frames and bins, one sample at a time, in float64."""
    hop, size = spec.hop_length, overlap * spec.hop_length
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    first = spec.n_fft // 2 - spec.pad_samples - size // 2
    samples = spec.num_samples(len(spectrum))
    total, weight = np.zeros(samples), np.zeros(samples)
    bins = np.arange(size // 2 + 1)
    twice = np.where((bins == 0) | (bins == size // 2), 1.0, 2.0)
    for number, frame in enumerate(spectrum):
        for n in range(size):
            place = first + number * hop + n
            if 0 <= place < samples:
                value = (twice * (frame * np.exp(2j * np.pi * bins * n / size)).real).sum() / size
                total[place] += window[n] * value
                weight[place] += window[n] ** 2
    return total / weight


@pytest.mark.parametrize("name", ["sqvae16k", "melgan22k"])
@pytest.mark.parametrize("overlap", [4, 6])
def test_the_inverse_transform_is_its_definition(name, overlap):
    spec = dataclasses.replace(PRESETS[name], hop_length=16, win_length=64, n_fft=64)
    if name == "melgan22k":
        spec = dataclasses.replace(spec, padding=24)  # centred on sample 8 of a hop of 16, as 128 of 256
    rng = np.random.default_rng(0)
    inverse = InverseStft(spec, overlap).double()
    inverse.window = torch.hann_window(inverse.n_fft, periodic=True, dtype=torch.float64)
    spectrum = rng.standard_normal((1, 9, inverse.num_bins)) + 1j * rng.standard_normal((1, 9, inverse.num_bins))
    made = inverse.add(torch.from_numpy(spectrum), inverse.weights(9))[0, -inverse.start :]
    expected = inverse_by_definition(spectrum[0], spec, overlap)
    np.testing.assert_allclose(made[: len(expected)].numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["sqvae16k", "melgan22k", "vocos24k"])
def test_what_was_analysed_comes_back(name):
    spec = PRESETS[name]
    inverse = InverseStft(spec, 4)
    wav = torch.randn(1, spec.num_samples(21), generator=torch.Generator().manual_seed(0))
    made = inverse.add(inverse.spectrum(wav, 21), inverse.weights(21))[:, -inverse.start :]
    torch.testing.assert_close(made[:, : wav.shape[1]], wav, rtol=0, atol=2e-5)


def test_a_mel_whose_frames_leave_samples_out_is_refused():
    spec = dataclasses.replace(PRESETS["melgan22k"], padding=0)
    with pytest.raises(UserError, match=r"centred on sample 512; this vocoder needs it within a hop, from 0 to 256"):
        VocoderModel(SMALL, spec)


@pytest.mark.parametrize("setting", [{"overlap": 2}, {"kernel_size": 4}, {"channels": 0}, {"rounds": -1}])
def test_sizes_that_cannot_be_are_refused(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=rf"model\.{name} must be"):
        VocoderConfig(**setting)


@pytest.mark.parametrize("name", PRESETS)
def test_the_length_is_that_of_every_vocoder(name):
    spec = PRESETS[name]
    ours = vocoder(name)
    for frames in (1, 2, 3, 40):
        wav = ours.vocode(mels(spec, 1, frames)[0])
        assert wav.shape == (spec.num_samples(frames),)
        assert wav.dtype == torch.float32
        assert torch.isfinite(wav).all()
        assert wav.abs().max() > 1e-3


def test_a_frame_is_heard_as_far_as_the_context_says_and_no_further():
    network = untrained(PRESETS["sqvae16k"]).network
    assert network.context == CONTEXT
    mel = mels(network.mel_spec, 1, 60)
    other = mel.clone()
    other[:, :, 30] += 0.5
    with torch.no_grad():
        for one, two in zip(network(mel), network(other), strict=True):
            changed = (one - two).abs().amax(dim=(0, 2)).nonzero().flatten()
            assert (int(changed.min()), int(changed.max())) == (30 - CONTEXT, 30 + CONTEXT)


@pytest.mark.parametrize("name", REACH)
def test_a_sample_depends_on_the_frames_within_reach_and_on_no_others(name):
    model = untrained(PRESETS[name])
    rounds, hop = model.rounds, model.mel_spec.hop_length
    assert rounds.reach == REACH[name]
    mel = mels(model.mel_spec, 1, 60)
    with torch.no_grad():
        said = model.network(mel)
        phases = rounds.phases(said.turn)
        wav = rounds(said.log_magnitude, phases, mel)
        magnitude, other = said.log_magnitude.clone(), mel.clone()
        magnitude[:, 30:31] += 1.0
        other[:, :, 30:31] += 0.1
        changed = (rounds(magnitude, phases, other) - wav)[0].abs().nonzero().flatten() + rounds.inverse.start
    assert changed.min() >= (30 - rounds.reach) * hop
    assert changed.max() < (30 + rounds.reach + 1) * hop
    assert changed.max() - changed.min() > (2 * rounds.reach - 4) * hop, "or the bound says little"


@pytest.mark.parametrize("name", PRESETS)
def test_the_first_guess_has_the_bands_of_the_mel(name):
    spec = PRESETS[name]
    network = untrained(spec).network
    mel = LogMel(spec)(voice(spec.sample_rate)).mel
    guess = network.guess
    magnitude = guess.log_magnitude(mel).double().exp() / guess.gain
    filters = torch.from_numpy(resampled_filterbank(spec, network.inverse.n_fft))
    found = 20 * torch.log10((magnitude**spec.power @ filters.T) ** (1 / spec.power))
    wanted = 20 / spec.power * torch.log10(undo_log(mel.transpose(1, 2).double(), spec))
    audible = wanted > wanted.max() - 60
    assert (found - wanted)[audible].square().mean().sqrt() < 1.5, "dB"


def test_the_first_guess_turns_towards_the_louder_side_as_a_tone_does():
    """Around a tone between two bins, given its true magnitudes, without the sharpening that the guess's own need."""
    spec = PRESETS["sqvae16k"]
    network = untrained(spec).network
    inverse = network.inverse
    width = spec.sample_rate / inverse.n_fft
    for place in (30.0, 30.2, 30.5, 30.7):
        wav = torch.sin(2 * math.pi * place * width / 16000 * torch.arange(8000, dtype=torch.float64)).float()[None]
        log_magnitude = inverse.spectrum(wav, 40)[:, 10:30].abs().log()
        turn = network.guess.turn(log_magnitude)[..., 30:31] / _SHARPNESS
        expected = 2 * math.pi * (place - 30) * width * spec.hop_length / spec.sample_rate
        assert float((turn - expected).abs().max()) < 0.25, place


def test_turns_add_up_to_the_phases_of_a_steady_tone():
    model = untrained(PRESETS["sqvae16k"])
    inverse, frequency = model.network.inverse, 1013.0
    wav = torch.sin(2 * math.pi * frequency / 16000 * torch.arange(16000, dtype=torch.float64)).float()[None]
    spectrum = inverse.spectrum(wav, 90)[:, 4:]
    peak = round(frequency * inverse.n_fft / 16000)
    bins = slice(peak - 1, peak + 2)
    own = 2 * math.pi * torch.arange(inverse.num_bins) / inverse.overlap
    moved = 2 * math.pi * frequency * 160 / 16000
    turn = torch.remainder(moved - own + math.pi, 2 * math.pi) - math.pi
    phases = model.rounds.phases(turn.expand(1, spectrum.shape[1], -1))
    difference = phases - spectrum.angle().double()
    difference = torch.polar(torch.ones_like(difference), difference)[..., bins]
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference), rtol=0, atol=2e-2)
    # and go on from a phase
    half = model.rounds.phases(turn.expand(1, 40, -1))
    rest = model.rounds.phases(turn.expand(1, 46, -1), half[:, -1])
    torch.testing.assert_close(torch.cat([half, rest], dim=1), phases)


@pytest.mark.parametrize(("name", "overlap"), [*((name, None) for name in PRESETS), ("melgan22k", 3)])
def test_rounds_of_matching_bring_the_mel_nearer(name, overlap):
    """Also where the mel's windows are longer than those of the spectrum."""
    spec = PRESETS[name]
    logmel = LogMel(dataclasses.replace(spec, peak=None))
    mel = LogMel(spec)(voice(spec.sample_rate)).mel
    errors = []
    for mel_rounds in (0, 1, 3):
        torch.manual_seed(0)
        model = VocoderModel(dataclasses.replace(SMALL, mel_rounds=mel_rounds, rounds=3, overlap=overlap), spec)
        with torch.no_grad():
            made = model.synthesise(mel)
        errors.append(float((logmel(made).mel - mel).abs().mean()) * spec.decibels_per_unit)
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.85 * errors[0]


@pytest.mark.parametrize("name", REACH)
def test_each_sounds_the_same_alone_and_in_a_batch(name):
    spec = PRESETS[name]
    ours = vocoder(name)
    lengths = torch.tensor([33, 12, 1])
    batch = mels(spec, 3, 33)
    batch[1, :, 12:] = torch.nan  # what lies beyond is never read
    batch[2, :, 1:] = 1e4
    made = ours.vocode(batch, 0.2, lengths)
    with torch.no_grad():
        together = ours.bundle.model.synthesise(batch, lengths)  # as on a GPU: one padded batch
    for row, length in enumerate(lengths.tolist()):
        alone = ours.vocode(batch[row, :, :length], 0.2)
        assert len(alone) == spec.num_samples(length)
        torch.testing.assert_close(made[row, : len(alone)], alone, rtol=0, atol=0)
        assert not made[row, len(alone) :].any()
        with torch.no_grad():
            plain = ours.bundle.model.synthesise(batch[row : row + 1, :, :length])[0]
        assert close(together[row, : len(alone)], plain)
        assert not together[row, len(alone) :].any()


@pytest.mark.parametrize("name", REACH)
@pytest.mark.parametrize("sizes", [[1] * 50, [50], [7, 0, 13, 30], [49, 1], [3]], ids=str)
def test_a_stream_gives_the_whole_however_it_is_cut(name, sizes):
    spec = PRESETS[name]
    ours = vocoder(name)
    mel = mels(spec, 1, sum(sizes))[0]
    stream = ours.stream(peak=0.01)
    pieces = [stream.push(piece) for piece in mel.split(sizes, dim=1)]
    told = sum(map(len, pieces))
    assert told == max(0, sum(sizes) - CONTEXT - REACH[name]) * spec.hop_length, "as early as it can be"
    wav = torch.cat([*pieces, stream.finish()])
    expected = ours.bundle.model.synthesise(mel[None])[0].detach()
    if spec.peak is not None:
        expected = expected * (0.01 / spec.peak)
    assert close(wav, expected.clamp(-1.0, 1.0))


def test_a_streams_latency_and_memory():
    stream = vocoder().stream()
    reach = REACH["sqvae16k"]
    assert stream.latency == pytest.approx((CONTEXT + reach) * 0.01)
    for _ in range(20):
        stream.push(torch.rand(80, 10))
    assert stream._mel.shape[2] <= CONTEXT + 2 * max(CONTEXT, reach) + 10
    assert stream._polar is not None
    assert stream._polar.turn.shape[1] <= 2 * reach + 10
    stream.finish()
    for call in (stream.finish, lambda: stream.push(torch.rand(80, 1))):
        with pytest.raises(UserError, match="has ended"):
            call()
    assert len(vocoder().stream().finish()) == 0, "a stream of nothing"


def test_long_mels_go_in_pieces(monkeypatch):
    ours = vocoder()
    mel = mels(ours.mel_spec, 2, 70)
    lengths = torch.tensor([70, 64])
    expected = ours.vocode(mel, 0.3, lengths)
    monkeypatch.setattr(istft_vocoder, "_FRAMES_AT_ONCE", 16)
    assert close(ours.vocode(mel, 0.3, lengths), expected)


def test_the_peak_brings_the_level_back():
    ours = vocoder()
    mel = mels(ours.mel_spec, 2, 20)
    plain = ours.bundle.model.synthesise(mel).detach()
    loud = ours.vocode(mel, torch.tensor([0.1, 0.001]))
    scale = 0.1 / ours.mel_spec.peak
    expected = (plain[0] * scale) * min(1.0, 0.999 / float((plain[0] * scale).abs().max()))
    assert close(loud[0], expected)
    assert close(loud[1], plain[1] * (0.001 / ours.mel_spec.peak))
    assert ours.vocode(mel, 1e3).abs().max() <= 1.0
    level = vocoder("vocos24k")  # whose mel holds the level itself
    mel = mels(level.mel_spec, 1, 9)
    torch.testing.assert_close(level.vocode(mel, 0.5), level.vocode(mel))


def test_bad_mels_are_refused():
    ours = vocoder()
    with pytest.raises(UserError, match=r"\(2, 5, 80\).*\(batch, 80, frames\)"):
        ours.vocode(torch.zeros(2, 5, 80))
    with pytest.raises(UserError, match="NaN or infinity"):
        ours.vocode(torch.full((80, 3), math.nan))
    with pytest.raises(UserError, match="NaN or infinity"):
        ours.stream().push(torch.full((80, 3), math.nan))
    with pytest.raises(UserError, match=r"push \(80, frames\)"):
        ours.stream().push(torch.zeros(1, 80, 3))


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_what_is_saved_is_what_is_loaded(tmp_path, weights):
    ours = vocoder()
    save_vocoder(tmp_path, ours.bundle, weights)
    again = load_vocoder(f"istft:{tmp_path}", PRESETS["sqvae16k"])
    assert isinstance(again, IstftVocoder)
    assert (again.bundle.step, len(again.bundle.fingerprint), again.mel_spec) == (7, 64, ours.mel_spec)
    mel = mels(ours.mel_spec, 1, 30)
    made, expected = again.vocode(mel), ours.vocode(mel)
    if weights == "float32":
        assert torch.equal(made, expected)
    else:
        assert (made - expected).norm() < 0.05 * expected.norm()


def test_another_mel_is_refused_with_a_remedy(tmp_path):
    save_vocoder(tmp_path, vocoder().bundle)
    with pytest.raises(
        UserError, match=r"hop_length: 160 in vocoder istft:.*256 in the mel(.|\n)*griffin_lim, which"
    ):
        load_vocoder(f"istft:{tmp_path}", PRESETS["melgan22k"])


def test_names_that_mean_nothing(tmp_path):
    with pytest.raises(UserError, match=r"did you mean 'istft'.*istft:<folder>\)"):
        load_vocoder("istfd", PRESETS["sqvae16k"])
    with pytest.raises(UserError, match="no model at nowhere"):
        load_vocoder("istft:nowhere", PRESETS["sqvae16k"])
    assert load_vocoder("griffin_lim:3", PRESETS["melgan22k"]).mel_spec == PRESETS["melgan22k"]
    (tmp_path / "config.json").write_text('{"format": "sqvae_speech.speech"}')
    with pytest.raises(UserError, match="a model of kind 'speech', this needs one of kind 'vocoder'"):
        load_trained_vocoder(tmp_path)
