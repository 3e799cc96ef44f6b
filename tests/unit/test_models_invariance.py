"""What keeps the speaker out of the units: random voices, agreement of posteriors, the adversary; and without."""

import math

import numpy as np
import pytest
import torch
from test_models_speech import KINDS, N_MELS, SPEAKERS, make_model, mels, settle
from torch.nn import functional as F

from sqvae_speech.config import from_dict
from sqvae_speech.errors import UserError
from sqvae_speech.models.invariance import (
    InvarianceConfig,
    SpeakerAdversary,
    posterior_divergence,
    reverse_gradient,
)
from sqvae_speech.models.perturbation import SpectralPerturbation, smooth_curves, warp_matrix
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig

ALL = InvarianceConfig(warp=0.2, equalizer=0.1, noise=0.3, consistency=2.0, adversary=3.0)


def model_with(invariance: InvarianceConfig, kind: str = "diagonal") -> SpeechModel:
    torch.manual_seed(0)
    config = SpeechModelConfig(
        channels=24, speaker_dim=5, decoder_hidden=7, jitter=0.0, quantizer=KINDS[kind], invariance=invariance
    )
    model = SpeechModel(config, N_MELS, SPEAKERS)
    settle(model)
    return model


# ---- the input


@pytest.mark.parametrize("bend", [-0.3, -0.05, 0.0, 0.1, 0.45])
def test_a_bent_axis_is_linear_interpolation(bend):
    mel = torch.randn(13, 5, dtype=torch.float64)
    got = warp_matrix(torch.tensor([bend], dtype=torch.float64), 13)[0] @ mel
    angle = np.pi * (np.arange(13) + 0.5) / 13
    # the all-pass transform as the phase of its transfer function, not by its arc tangent
    z = np.exp(1j * angle)
    bent = np.unwrap(np.angle((z - bend) / (1 - bend * z)))
    place = np.clip(bent * 13 / np.pi - 0.5, 0, 12)
    expected = np.stack([np.interp(place, np.arange(13), column) for column in mel.T.numpy()], axis=1)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


def test_a_spectrum_moves_down_when_the_bend_is_positive():
    peak = torch.zeros(40, 1)
    peak[20] = 1.0
    up, same, down = (int((warp_matrix(torch.tensor([b]), 40)[0] @ peak).argmax()) for b in (-0.1, 0.0, 0.1))
    assert (up, same, down) == (23, 20, 17)  # 40 · (2 / π) atan 0.1 = 2.5 bands


def test_curves_are_smooth_and_of_the_variance_asked_for():
    generator = torch.Generator().manual_seed(0)
    gains = 0.3 * torch.randn(20_000, 5, generator=generator, dtype=torch.float64)
    curves = smooth_curves(gains, 16)
    band = (np.arange(16) + 0.5) / 16
    expected = sum(gains[0, c].item() * np.cos(np.pi * c * band) for c in range(5)) / math.sqrt(3)
    np.testing.assert_allclose(curves[0].numpy(), expected, atol=1e-12)
    assert curves.square().mean().item() == pytest.approx(0.09, rel=0.02)


def test_every_example_is_perturbed_in_another_way_and_padding_stays_where_it_is():
    mel, _ = mels(9, 5)
    mel = mel[:1].expand(3, -1, -1).clone()
    mel[:, :, 7:] = torch.nan
    torch.manual_seed(3)
    heard = SpectralPerturbation(0.2, 0.1)(mel)
    assert heard.shape == mel.shape
    assert torch.equal(heard.isnan(), mel.isnan())
    assert not torch.allclose(heard[0, :, :7], heard[1, :, :7], atol=1e-3)
    difference = SpectralPerturbation(0.0, 0.1)(mel)[..., :7] - mel[..., :7]
    torch.testing.assert_close(difference, difference[..., :1].expand_as(difference))  # the same in all frames
    assert SpectralPerturbation(0.2, 0.1).eval()(mel) is mel
    assert SpectralPerturbation()(mel) is mel


def test_noise_covers_what_is_less_loud_than_itself():
    """And knows neither padding nor other examples."""
    torch.manual_seed(2)
    mel = torch.rand(400, 16, 6, dtype=torch.float64) * 4.0 - 3.0
    mel[0, :, 4:] = torch.nan
    lengths = torch.full((400,), 6)
    lengths[0] = 4
    cover = SpectralPerturbation(noise=0.6)
    torch.manual_seed(5)
    heard = cover(mel, lengths)
    assert torch.equal(heard.isnan(), mel.isnan())
    assert (heard >= mel)[1:].all()
    assert heard[1:].mean() > mel[1:].mean() + 0.2
    # where nothing is, the noise is heard itself: how loud, and of which colour
    quiet = torch.full((4000, 16, 6), -3.0, dtype=torch.float64)
    quiet[:, 0, 0] = 1.0
    noise = (cover(quiet)[:, :, 1:] + 3.0) / 4.0
    middle = noise[:, 8].mean(dim=1)  # of levels from 0 to 0.6, of colours and of a little fluctuation
    assert middle.mean().item() == pytest.approx(0.3, abs=0.02)
    assert 0.15 < middle.std().item() < 0.25  # 0.6 / sqrt(12) of the level, some 0.1 of the colour
    steady = (noise - noise.mean(dim=2, keepdim=True))[noise.amin(dim=(1, 2)) > 0.0]
    assert steady.std().item() == pytest.approx(0.05 * math.sqrt(0.8), rel=0.1)
    assert cover.eval()(mel, lengths) is mel


# ---- the losses


def test_divergence_of_posteriors():
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = (
        torch.randn(2, 3, 5, generator=generator, dtype=torch.float64).log_softmax(dim=-1) for _ in range(2)
    )
    p, q = log_p.exp().numpy(), log_q.exp().numpy()
    each = (p * np.log(p / q)).sum(axis=-1) + (q * np.log(q / p)).sum(axis=-1)
    assert posterior_divergence(log_p, log_q).item() == pytest.approx(each.sum() / 2)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert posterior_divergence(log_p, log_q, mask).item() == pytest.approx((each[0, :2].sum() + each[1, 0]) / 2)


def test_log_posterior_is_finite_where_the_posterior_underflows():
    quantizer = make_model("diagonal").quantizer
    z, log_var = torch.randn(2, 4, 6), torch.full((2, 4, 6), -12.0)
    log_posterior = quantizer.log_posterior(z, log_var)
    assert log_posterior.isfinite().all()
    assert quantizer.posterior(z, log_var).min() == 0
    moderate = torch.zeros_like(log_var)
    torch.testing.assert_close(quantizer.log_posterior(z, moderate).exp(), quantizer.posterior(z, moderate))


def test_the_adversary_pulls_the_encoder_the_other_way():
    torch.manual_seed(0)
    adversary = SpeakerAdversary(6, 3, weight=0.5).double()
    latents, speaker = torch.randn(4, 5, 6, dtype=torch.float64), torch.tensor([0, 2, 1, 2])
    ours = latents.clone().requires_grad_()
    loss = adversary(ours, speaker)
    loss.backward()
    learnt = [parameter.grad.clone() for parameter in adversary.parameters()]
    adversary.zero_grad()
    theirs = latents.clone().requires_grad_()
    hidden = (theirs @ adversary.hidden[0].weight.T + adversary.hidden[0].bias).clamp(min=0).mean(dim=1)
    expected = 5 * F.cross_entropy(hidden @ adversary.output.weight.T + adversary.output.bias, speaker)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, -0.5 * theirs.grad)
    for parameter, gradient in zip(adversary.parameters(), learnt, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)  # the classifier itself learns to tell speakers apart


def test_the_adversary_does_not_see_padding():
    torch.manual_seed(0)
    adversary = SpeakerAdversary(6, 3, weight=1.0)
    latents, speaker = torch.randn(2, 5, 6), torch.tensor([0, 2])
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    alone = [adversary(latents[:1], speaker[:1]), adversary(latents[1:, :2], speaker[1:])]
    latents[1, 2:] = torch.nan
    torch.testing.assert_close(adversary(latents, speaker, mask), sum(alone) / 2)


def test_reversal_leaves_the_value():
    x = torch.randn(3, requires_grad=True)
    y = reverse_gradient(x, 2.0)
    assert torch.equal(y, x)
    y.sum().backward()
    assert torch.equal(x.grad, torch.full((3,), -2.0))


# ---- the model


def test_without_it_the_model_is_the_published_one_bit_for_bit():
    """Same weights drawn, same random numbers used in training, nothing added to the loss."""
    plain, with_all = model_with(InvarianceConfig()), model_with(ALL)
    theirs = with_all.state_dict()
    assert {name for name in theirs if name not in plain.state_dict()} == {
        f"adversary.{name}" for name in with_all.adversary.state_dict()
    }
    assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())
    mel, speaker = torch.rand(3, N_MELS, 12), torch.tensor([0, 3, 1])
    torch.manual_seed(5)
    out = plain(mel, speaker)
    assert out.invariance == {}
    torch.manual_seed(5)
    z, log_var = plain.latents(mel)
    quantization = plain.quantizer(z, log_var)
    assert torch.equal(out.quantization.quantized, quantization.quantized)
    assert torch.equal(out.loss.detach(), out.reconstruction_loss + quantization.loss.detach())


def test_inference_is_that_of_the_same_weights_without_it():
    plain, with_all = model_with(InvarianceConfig()).eval(), model_with(ALL).eval()
    mel, lengths = mels(20, 13)
    assert torch.equal(plain.encode(mel, lengths).indices, with_all.encode(mel, lengths).indices)
    speaker = torch.tensor([0, 1])
    assert torch.equal(plain(mel, speaker, lengths).loss, with_all(mel, speaker, lengths).loss)


def test_all_parts_are_in_the_loss_and_everything_learns():
    model = model_with(ALL)
    mel, lengths = mels(20, 13)
    out = model(mel, torch.tensor([0, 1]), lengths)
    assert set(out.invariance) == {"consistency", "adversary"}
    torch.testing.assert_close(
        out.loss.detach(),
        out.reconstruction_loss + out.quantization.loss.detach() + sum(out.invariance.values()),
    )
    assert torch.equal(out.target.isnan(), mel[..., 1:19].isnan())  # the target is what was said, unchanged
    torch.testing.assert_close(out.target[1, :, :10], mel[1, :, 1:11], rtol=0, atol=0)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", ["vq", "residual", "grouped"])
def test_quantizers_without_a_posterior_to_compare(kind):
    with pytest.raises(ValueError, match=r"invariance\.consistency compares posteriors"):
        model_with(ALL, kind)
    model_with(InvarianceConfig(warp=0.1, adversary=1.0), kind)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"consistency": 1.0}, "there are no two versions to compare"),
        ({"adversary": -1.0}, r"adversary must be at least 0, got -1\.0"),
        ({"wrap": 0.1}, "warp"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(UserError, match=message):
        from_dict(SpeechModelConfig, {"invariance": values})


def test_an_adversary_needs_to_know_who_speaks():
    with pytest.raises(
        UserError, match=r"adversary tells the speakers of a table apart, but model\.speaker is 'vector'"
    ):
        from_dict(SpeechModelConfig, {"speaker": "vector", "invariance": {"adversary": 1.0}})
    assert from_dict(SpeechModelConfig, {"speaker": "vector", "invariance": {"warp": 0.1}}).invariance.warp == 0.1


def test_settings_that_a_model_cannot_have():
    for values in ({"warp": 1.0}, {"warp": -0.1}, {"equalizer": -1.0}, {"noise": 1.0}):
        with pytest.raises(ValueError, match="must be at least 0"):
            model_with(InvarianceConfig(**values))
    with pytest.raises(ValueError, match="at least two speakers"):
        SpeakerAdversary(4, 1, 1.0)
