"""The speech network: shapes, receptive field, padding, jitter, the per-example variance."""

import pytest
import torch
from torch import Tensor, nn

from sqvae_speech.models.modules import ConvEncoder, RecurrentDecoder, TimeJitter, length_mask
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig
from sqvae_speech.quantization import QuantizerConfig

N_MELS, SPEAKERS, SIZE, DIM = 9, 4, 17, 6
KINDS = {
    **{name: QuantizerConfig("gaussian", SIZE, DIM, name) for name in ("global", "sample", "position", "diagonal")},
    "vmf": QuantizerConfig("vmf", SIZE, DIM),
    "vq": QuantizerConfig("vq", SIZE, DIM),
    "residual": QuantizerConfig("gaussian", SIZE, DIM, "position", num_quantizers=3),
    "grouped": QuantizerConfig("gaussian", SIZE, DIM, num_groups=2, num_quantizers=2),
}


def make_model(kind: str = "diagonal", jitter: float = 0.5) -> SpeechModel:
    torch.manual_seed(0)
    config = SpeechModelConfig(channels=24, speaker_dim=5, decoder_hidden=7, jitter=jitter, quantizer=KINDS[kind])
    model = SpeechModel(config, N_MELS, SPEAKERS)
    settle(model)
    return model


def settle(model: nn.Module) -> None:
    """Give the batch normalisations running statistics and scales as after training, not 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.1, 0.4),
                (module.weight, 0.7, 1.3),
                (module.bias, -0.3, 0.3),
            ):
                size = tensor.shape
                tensor.data.copy_(low + (high - low) * torch.rand(size, generator=generator))


def mels(*lengths: int, filler: float = torch.nan) -> tuple[Tensor, Tensor]:
    """A padded batch, and its lengths; what is beyond an utterance's end is ``filler``."""
    generator = torch.Generator().manual_seed(2)
    batch = torch.full((len(lengths), N_MELS, max(lengths)), filler)
    for row, length in zip(batch, lengths, strict=True):
        row[:, :length] = torch.randn(N_MELS, length, generator=generator)
    return batch, torch.tensor(lengths)


@pytest.mark.parametrize("frames", [4, 5, 32, 33])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind, frames):
    model = make_model(kind)
    mel, speaker = torch.randn(3, N_MELS, frames), torch.tensor([0, 3, 1])
    units = (frames - 2) // 2
    assert model.num_units(frames) == units
    assert torch.equal(model.num_units(torch.tensor([frames])), torch.tensor([units]))
    out = model(mel, speaker)
    assert out.reconstruction.shape == out.target.shape == (3, N_MELS, 2 * units)
    assert out.quantization.quantized.shape == (3, units, DIM)
    several = () if model.num_codebooks == 1 else (model.num_codebooks,)
    assert out.quantization.indices.shape == (3, units, *several)
    assert out.mask is None
    assert torch.equal(out.target, mel[:, :, 1 : 1 + 2 * units])
    torch.testing.assert_close(out.loss.detach(), out.reconstruction_loss + out.quantization.loss.detach())
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.eval()
    encoded = model.encode(mel)
    assert encoded.indices.shape == (3, units, *several)
    assert encoded.codes.shape == (3, model.num_codebooks, units)
    assert torch.equal(encoded.codes[:, -1], encoded.indices.reshape(3, units, -1)[..., -1])
    assert encoded.lengths.tolist() == [units] * 3
    assert model.posterior(mel).shape == (3, units, *several, SIZE)
    assert model.decode(encoded.indices, speaker).shape == (3, N_MELS, 2 * units)
    assert model.num_codebooks == {"residual": 3, "grouped": 4}.get(kind, 1)
    assert (model.codebook_size, model.frames_per_unit, model.first_frame) == (SIZE, 2, 1)


def test_receptive_field_is_what_the_docstring_says():
    """Unit u depends on the mel frames 2u - 6 to 2u + 9 and on no others."""
    torch.manual_seed(0)
    encoder = ConvEncoder(N_MELS, 64, DIM).eval()
    settle(encoder)
    mel = torch.randn(1, N_MELS, 60)
    before = encoder(mel)
    assert before.shape == (1, 29, DIM)
    for frame in range(60):
        changed = mel.clone()
        changed[:, :, frame] += 3.0
        units = (encoder(changed) != before).any(dim=-1)[0].nonzero().flatten().tolist()
        expected = [u for u in range(29) if 2 * u - 6 <= frame <= 2 * u + 9]
        assert units == expected, f"frame {frame}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_gives_what_each_utterance_gives_alone(kind):
    model = make_model(kind).eval()
    lengths = (37, 4, 5, 24, 11, 36)
    batch, frame_lengths = mels(*lengths)
    speaker = torch.arange(len(lengths)) % SPEAKERS
    with torch.no_grad():
        z, log_var = model.latents(batch, frame_lengths)
    units = model.encode(batch, frame_lengths)
    posterior = model.posterior(batch, frame_lengths)
    reconstruction, target, unit_lengths = model.reconstruct(batch, speaker, frame_lengths)
    assert unit_lengths.tolist() == [(length - 2) // 2 for length in lengths]
    assert (reconstruction[~length_mask(2 * unit_lengths, 34)[:, None].expand(-1, N_MELS, -1)] == 0).all()
    for i, length in enumerate(lengths):
        alone = batch[i : i + 1, :, :length]
        n = (length - 2) // 2
        with torch.no_grad():
            z_alone, log_var_alone = model.latents(alone)
        torch.testing.assert_close(z[i : i + 1, :n], z_alone, rtol=1e-5, atol=1e-5)
        if log_var is not None:
            rows = slice(None) if kind == "sample" else slice(0, n)
            torch.testing.assert_close(log_var[i : i + 1, rows], log_var_alone, rtol=1e-5, atol=1e-5)
        assert torch.equal(units.indices[i, :n], model.encode(alone).indices[0])
        assert (units.indices[i, n:] == 0).all()
        torch.testing.assert_close(posterior[i : i + 1, :n], model.posterior(alone), rtol=1e-4, atol=1e-5)
        expected, expected_target, _ = model.reconstruct(alone, speaker[i : i + 1])
        torch.testing.assert_close(reconstruction[i : i + 1, :, : 2 * n], expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(target[i : i + 1, :, : 2 * n], expected_target)


@pytest.mark.parametrize("training", [True, False])
def test_padding_of_any_content_leaves_losses_and_gradients(training):
    results = []
    for filler in (torch.nan, 0.0, 1e3):
        model = make_model().train(training)
        batch, lengths = mels(20, 7, 12, filler=filler)
        torch.manual_seed(5)
        out = model(batch, torch.tensor([0, 1, 2]), lengths)
        out.loss.backward()
        results.append([out.loss, out.mse, *(p.grad for p in model.parameters())])
    for other in results[1:]:
        for left, right in zip(results[0], other, strict=True):
            assert torch.isfinite(left).all()
            torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_an_odd_number_of_frames_loses_its_last():
    model = make_model().eval()
    mel = torch.randn(2, N_MELS, 21)
    changed = mel.clone()
    changed[:, :, 20] += 5.0
    assert torch.equal(model.latents(mel)[0], model.latents(mel[:, :, :20])[0])
    assert torch.equal(model.latents(mel)[0], model.latents(changed)[0])


def test_the_per_example_variance_is_the_mean_over_real_units():
    model = make_model("sample").eval()
    batch, lengths = mels(30, 9)
    with torch.no_grad():
        _, log_var = model.latents(batch, lengths)
        head = model.encoder(batch, lengths)[..., DIM:]
    assert log_var.shape == (2, 1, 1)
    torch.testing.assert_close(log_var[0, 0], head[0, :14].mean(dim=0))
    torch.testing.assert_close(log_var[1, 0], head[1, :3].mean(dim=0))


def test_the_first_stages_of_a_residual_model_decode_alone():
    model = make_model("residual").eval()
    mel, speaker = torch.randn(2, N_MELS, 24), torch.tensor([0, 1])
    units = model.encode(mel)
    one = model.decode(units.indices[..., :1], speaker)
    first = model.quantizer.stages[0].decode(units.indices[..., 0])
    torch.testing.assert_close(one, model.decoder(first, speaker).detach())
    assert (one - model.decode(units.indices, speaker)).abs().max() > 1e-3


def test_decoder_speaks_as_the_speaker_asked_for():
    model = make_model().eval()
    indices = torch.randint(SIZE, (1, 8)).expand(2, -1)
    first, second = model.decode(indices, torch.tensor([0, 1]))
    assert (first - second).abs().max() > 1e-3
    torch.testing.assert_close(model.decode(indices[:1], torch.tensor([1]))[0], second)


def test_decoder_repeats_each_unit_twice():
    decoder = RecurrentDecoder(DIM, SPEAKERS, 5, 7, N_MELS).eval()
    x, speaker = torch.randn(2, 6, DIM), torch.tensor([0, 1])
    lengths = torch.tensor([6, 6])
    assert decoder(x, speaker).shape == (2, N_MELS, 12)
    torch.testing.assert_close(decoder(x, speaker), decoder(x, speaker, lengths))
    # frame by frame: the network sees the sequence x0 x0 x1 x1 ...
    identity = decoder.speaker_embedding(speaker)[:, None].expand(-1, 12, -1)
    doubled = torch.stack((x, x), dim=2).reshape(2, 12, DIM)
    expected = decoder.output(decoder.rnn(torch.cat((doubled, identity), dim=-1))[0]).transpose(1, 2)
    torch.testing.assert_close(decoder(x, speaker), expected)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_jitter_takes_each_neighbour_with_half_the_probability(probability):
    torch.manual_seed(0)
    size, rows = 50, 4000
    x = torch.arange(size, dtype=torch.float32)[None, :, None].expand(rows, -1, 2)
    jittered = TimeJitter(probability).train()(x)
    assert torch.equal(jittered[..., 0], jittered[..., 1]), "whole vectors move"
    shift = (jittered - x)[..., 0]
    assert set(shift.unique().tolist()) <= {-1.0, 0.0, 1.0}
    inner = shift[:, 1:-1]
    count = inner.numel()
    for step, expected in ((-1, probability / 2), (1, probability / 2), (0, 1 - probability)):
        share = (inner == step).float().mean().item()
        assert abs(share - expected) <= 4 * (expected * (1 - expected) / count) ** 0.5, step
    # at the ends the draw that would leave the sequence keeps the position
    assert (shift[:, 0] >= 0).all()
    assert (shift[:, -1] <= 0).all()
    for edge, step in ((0, 1), (-1, -1)):
        share = (shift[:, edge] == step).float().mean().item()
        assert abs(share - probability / 2) <= 4 * (0.25 / rows) ** 0.5
    # draws of neighbours and of examples are independent: moves by -1 coincide as often as chance has it
    both = ((inner[:, 1:] == -1) & (inner[:, :-1] == -1)).float().mean().item()
    across = ((inner[1:] == -1) & (inner[:-1] == -1)).float().mean().item()
    assert both == pytest.approx((probability / 2) ** 2, abs=0.01)
    assert across == pytest.approx((probability / 2) ** 2, abs=0.01)


def test_jitter_stays_within_each_example():
    torch.manual_seed(0)
    lengths = torch.tensor([5, 1, 8])
    x = torch.arange(8.0)[None, :, None].expand(3, -1, 1).clone()
    x[~length_mask(lengths, 8)] = torch.nan
    for _ in range(200):
        jittered = TimeJitter(1.0).train()(x, lengths)
        assert torch.isfinite(jittered[length_mask(lengths, 8)]).all()
        assert jittered[1, 0] == 0


def test_jitter_is_for_training():
    x = torch.randn(2, 9, 3)
    assert torch.equal(TimeJitter(1.0).eval()(x), x)
    with pytest.raises(ValueError, match="jitter must be a probability"):
        TimeJitter(1.5)


def test_evaluation_is_deterministic():
    model = make_model().eval()
    mel, speaker = torch.randn(2, N_MELS, 24), torch.tensor([0, 1])
    with torch.no_grad():
        first, second = model(mel, speaker), model(mel, speaker)
    assert torch.equal(first.loss, second.loss)
    decoded = model.decode(model.encode(mel).indices, speaker)
    assert torch.equal(first.reconstruction, decoded)


def test_bad_input():
    model = make_model()
    with pytest.raises(ValueError, match=r"mel must be \(B, 9, T\)"):
        model.encode(torch.zeros(2, 8, 30))
    with pytest.raises(ValueError, match=r"mel must be \(B, 9, T\)"):
        model.encode(torch.zeros(9, 30))
    with pytest.raises(ValueError, match="has 4 frames, got 3"):
        model.encode(torch.zeros(2, N_MELS, 3))
