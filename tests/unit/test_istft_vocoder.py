"""Our own vocoder: lengths, batches, streams, levels, files; its inverse transform against its definition."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from sqvae_speech.audio.melspec import PRESETS, MelSpec
from sqvae_speech.errors import UserError
from sqvae_speech.models import istft_vocoder
from sqvae_speech.models.istft_vocoder import IstftVocoder
from sqvae_speech.models.pretrained_vocoder import VocoderBundle, load_trained_vocoder, save_vocoder
from sqvae_speech.models.vocoder_network import InverseStft, VocoderConfig, VocoderNetwork
from sqvae_speech.models.vocoders import load_vocoder

SMALL = VocoderConfig(channels=16, num_blocks=2, expansion=2)
CONTEXT = 9  # frames on either side: three convolutions of 7


def network(spec: MelSpec, config: VocoderConfig = SMALL) -> VocoderNetwork:
    """Untrained, with weights so large that all of its parts are heard."""
    torch.manual_seed(0)
    model = VocoderNetwork(config, spec)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=1.0 / math.sqrt(parameter[0].numel()))
    return model.eval()


def vocoder(name: str = "sqvae16k") -> IstftVocoder:
    return IstftVocoder(VocoderBundle(network(PRESETS[name]), step=7))


def mels(spec: MelSpec, batch: int, frames: int) -> torch.Tensor:
    floor = {"db": 0.0, "log10": -5.0, "ln": math.log(spec.clamp)}[spec.log]
    return floor + torch.rand(batch, spec.n_mels, frames, generator=torch.Generator().manual_seed(1)) * abs(
        floor or 1
    )


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
    made = inverse(torch.from_numpy(spectrum))
    expected = inverse_by_definition(spectrum[0], spec, overlap)
    np.testing.assert_allclose(made[0].numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["sqvae16k", "melgan22k", "vocos24k"])
def test_what_was_analysed_with_its_window_comes_back(name):
    """And so frames lie where those of the mel do."""
    spec = PRESETS[name]
    inverse = InverseStft(spec, 4)
    wav = torch.randn(spec.num_samples(21), generator=torch.Generator().manual_seed(0))
    before, after = -inverse.start, 21 * spec.hop_length + inverse.n_fft
    padded = torch.nn.functional.pad(wav, (before, after))
    frames = padded.unfold(0, inverse.n_fft, spec.hop_length)[:21] * inverse.window
    made = inverse(torch.fft.rfft(frames)[None])[0]
    torch.testing.assert_close(made, wav, rtol=0, atol=2e-5)


def test_a_mel_whose_frames_leave_samples_out_is_refused():
    spec = dataclasses.replace(PRESETS["melgan22k"], padding=0)
    with pytest.raises(UserError, match=r"centred on sample 512; this vocoder needs it within a hop, from 0 to 256"):
        VocoderNetwork(SMALL, spec)


@pytest.mark.parametrize("setting", [{"overlap": 5}, {"overlap": 2}, {"kernel_size": 4}, {"channels": 0}])
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
    model = network(PRESETS["sqvae16k"])
    assert model.context == CONTEXT
    mel = mels(model.mel_spec, 1, 60)
    other = mel.clone()
    other[:, :, 30] += 0.5
    with torch.no_grad():
        changed = (model.spectrum(mel) - model.spectrum(other)).abs().amax(dim=(0, 2)).nonzero().flatten()
    assert (int(changed.min()), int(changed.max())) == (30 - CONTEXT, 30 + CONTEXT)


@pytest.mark.parametrize("name", ["sqvae16k", "melgan22k"])
def test_each_sounds_the_same_alone_and_in_a_batch(name):
    spec = PRESETS[name]
    ours = vocoder(name)
    lengths = torch.tensor([33, 12, 1])
    batch = mels(spec, 3, 33)
    batch[1, :, 12:] = torch.nan  # what lies beyond is never read
    batch[2, :, 1:] = 1e4
    made = ours.vocode(batch, 0.2, lengths)
    with torch.no_grad():
        together = ours.bundle.model(batch, lengths)  # as on a GPU: one padded batch
    for row, length in enumerate(lengths.tolist()):
        alone = ours.vocode(batch[row, :, :length], 0.2)
        assert len(alone) == spec.num_samples(length)
        torch.testing.assert_close(made[row, : len(alone)], alone, rtol=0, atol=0)
        assert not made[row, len(alone) :].any()
        with torch.no_grad():
            plain = ours.bundle.model(batch[row : row + 1, :, :length])[0]
        torch.testing.assert_close(together[row, : len(alone)], plain, rtol=1e-4, atol=1e-4)
        assert not together[row, len(alone) :].any()


@pytest.mark.parametrize("name", ["sqvae16k", "melgan22k"])
@pytest.mark.parametrize("sizes", [[1] * 50, [50], [7, 0, 13, 30], [49, 1], [3]])
def test_a_stream_gives_the_whole_however_it_is_cut(name, sizes):
    spec = PRESETS[name]
    ours = vocoder(name)
    mel = mels(spec, 1, sum(sizes))[0]
    stream = ours.stream(peak=0.01)
    pieces = [stream.push(piece) for piece in mel.split(sizes, dim=1)]
    told = sum(map(len, pieces))
    # as early as it can be: what no frame to come adds to, without the frames that still wait for their context
    waiting = (sum(sizes) - CONTEXT) * spec.hop_length + ours.bundle.model.inverse.start
    assert told == max(0, waiting)
    wav = torch.cat([*pieces, stream.finish()])
    expected = ours.bundle.model(mel[None])[0].detach()
    if spec.peak is not None:
        expected = expected * (0.01 / spec.peak)
    torch.testing.assert_close(wav, expected.clamp(-1.0, 1.0), rtol=1e-4, atol=1e-5)


def test_a_streams_latency_and_memory():
    stream = vocoder().stream()
    assert stream.latency == pytest.approx((CONTEXT + 2) * 0.01)
    for _ in range(20):
        stream.push(torch.rand(80, 10))
    assert stream._mel.shape[2] <= 2 * CONTEXT + 10
    assert stream._total.shape[1] == 3 * 160
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
    torch.testing.assert_close(ours.vocode(mel, 0.3, lengths), expected, rtol=1e-4, atol=1e-5)


def test_the_peak_brings_the_level_back():
    ours = vocoder()
    mel = mels(ours.mel_spec, 2, 20)
    plain = ours.bundle.model(mel).detach()
    loud = ours.vocode(mel, torch.tensor([0.1, 0.001]))
    scale = 0.1 / ours.mel_spec.peak
    torch.testing.assert_close(loud[0], (plain[0] * scale) * min(1.0, 0.999 / (plain[0] * scale).abs().max()))
    torch.testing.assert_close(loud[1], plain[1] * (0.001 / ours.mel_spec.peak), rtol=1e-5, atol=1e-7)
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
