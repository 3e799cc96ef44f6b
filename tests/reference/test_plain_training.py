"""Training against a plain loop of the published design with the same noise: the first 100 steps.

In float64 the losses of two loops stay together. In float32 they cannot: Adam's first steps are of one size whatever
the gradient's, so rounding turns the smallest ones round, and within 100 steps the losses of the plain loop itself
are 2e-3 from those it has in float64. There, the two are compared step by step at the same weights.
"""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig
from sqvae_speech.quantization import QuantizerConfig, noise
from sqvae_speech.training.config import AutoencoderTrainingConfig
from sqvae_speech.training.optimization import build_optimizer
from sqvae_speech.training.schedules import temperature_at

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from plain_speech import PlainSpeech

CHANNELS, N_MELS, SPEAKERS, SIZE, DIM, HIDDEN = 64, 64, 3, 24, 6, 8
STEPS = 100


def models(covariance: str, dtype: torch.dtype) -> tuple[SpeechModel, PlainSpeech]:
    torch.manual_seed(0)
    quantizer = QuantizerConfig("gaussian", SIZE, DIM, covariance)
    config = SpeechModelConfig(channels=CHANNELS, speaker_dim=5, decoder_hidden=HIDDEN, quantizer=quantizer)
    ours = SpeechModel(config, N_MELS, SPEAKERS)
    plain = PlainSpeech(covariance, N_MELS, SPEAKERS, CHANNELS, SIZE, DIM, 5, HIDDEN)
    plain.copy_from(ours.state_dict())
    return ours.to(dtype).train(), plain.to(dtype).train()


def batch(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Smooth random features, like log-mels in [0, 1]."""
    generator = torch.Generator().manual_seed(1000 + step)
    mel = torch.rand(4, N_MELS // 4, 9, generator=generator)[:, None]
    mel = torch.nn.functional.interpolate(mel, (N_MELS, 34), mode="bilinear").squeeze(1)
    return mel.to(dtype), torch.randint(SPEAKERS, (4,), generator=generator)


def plain_loss(model: PlainSpeech, mel: Tensor, speaker: Tensor, temperature: float) -> Tensor:
    def uniform(rows: int, codes: int) -> Tensor:
        return noise.uniform(noise.draw_seed(mel.device), 0, rows, codes, mel.dtype)

    return model(mel, speaker, temperature, uniform)


def take(optimizer: torch.optim.Optimizer, model: torch.nn.Module, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@pytest.mark.parametrize("covariance", ["diagonal", "global"])
def test_losses_follow_the_plain_loops(covariance):
    settings = AutoencoderTrainingConfig()
    ours, plain = models(covariance, torch.float64)
    optimizer = build_optimizer(ours, settings, {})
    plain_optimizer = torch.optim.Adam(plain.parameters(), lr=4e-4, foreach=False, fused=False)
    losses = []
    for step in range(STEPS):
        mel, speaker = batch(step, torch.float64)
        temperature = temperature_at(settings, step)
        torch.manual_seed(step)
        loss = ours(mel, speaker, temperature=temperature).loss
        torch.manual_seed(step)
        expected = plain_loss(plain, mel, speaker, temperature)
        assert abs(loss.item() / expected.item() - 1) < 1e-8, step
        losses.append(loss.item())
        take(optimizer, ours, loss)
        take(plain_optimizer, plain, expected)
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("covariance", ["diagonal", "global"])
def test_losses_and_gradients_in_float32_at_the_weights_of_the_plain_loop(covariance):
    settings = AutoencoderTrainingConfig()
    ours, plain = models(covariance, torch.float32)
    twin = models(covariance, torch.float32)[1]  # takes the gradients of ours by the plain loop's names
    optimizer = build_optimizer(ours, settings, {})
    for step in range(STEPS):
        mel, speaker = batch(step, torch.float32)
        plain.copy_from(ours.state_dict())
        temperature = temperature_at(settings, step)
        torch.manual_seed(step)
        loss = ours(mel, speaker, temperature=temperature).loss
        torch.manual_seed(step)
        expected = plain_loss(plain, mel, speaker, temperature)
        assert abs(loss.item() / expected.item() - 1) < 1e-4, step
        plain.zero_grad()
        expected.backward()
        take(optimizer, ours, loss)
        twin.copy_from({**ours.state_dict(), **{name: p.grad for name, p in ours.named_parameters()}})
        got = torch.cat([p.detach().flatten() for p in twin.parameters()])
        clipped = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        want = torch.cat([p.grad.flatten() for p in plain.parameters()])
        assert clipped > 1
        assert (got - want).norm() < 1e-2 * want.norm(), step
