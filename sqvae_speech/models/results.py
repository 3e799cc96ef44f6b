"""What a tokenizer gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sqvae_speech.models.inference import UnitTiming


@dataclass(frozen=True, eq=False)
class Units:
    """Discrete units of a batch of wavs.

    Attributes:
        codes: (B, N, T) int64, N codebooks; 0 beyond an utterance's length.
        lengths: (B,) int64 units of each wav; 0 for one that is too short for a unit.
        num_samples: (B,) int64 samples of each wav at the tokenizer's rate.
        peaks: (B,) float32 largest absolute sample of each; decoding brings that level back where features lose it.
        timing: which samples each unit is about.
    """

    codes: Tensor
    lengths: Tensor
    num_samples: Tensor
    peaks: Tensor
    timing: UnitTiming

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, number: int) -> Tensor:
        """The (N, T) codes of one wav, without padding."""
        return self.codes[number, :, : int(self.lengths[number])]

    @property
    def times(self) -> Tensor:
        """(T, 2) float64: seconds at which each unit's nominal span begins and ends, the same for all wavs.

        See :class:`~sqvae_speech.models.inference.UnitTiming` for the samples that a unit is computed from.
        """
        first, second = (torch.tensor(self.timing.span(unit), dtype=torch.float64) for unit in (0, 1))
        units = torch.arange(self.codes.shape[2], dtype=torch.float64)[:, None]
        return (first + units * (second - first)) / self.timing.mel_spec.sample_rate


class Posterior(NamedTuple):
    """``probabilities`` (B, N, T, K) float32, ``q(k | z)``, 0 beyond an utterance's end; ``lengths`` (B,) int64."""

    probabilities: Tensor
    lengths: Tensor


class Speech(NamedTuple):
    """``wav`` (B, samples) float32 in [-1, 1], ``lengths`` (B,) int64 samples, ``sample_rate`` Hz."""

    wav: Tensor
    lengths: Tensor
    sample_rate: int


class Mel(NamedTuple):
    """``mel`` (B, n_mels, frames) float32, as the tokenizer's ``mel_spec`` has it; ``lengths`` (B,) int64 frames."""

    mel: Tensor
    lengths: Tensor


def padded(values: Sequence[Tensor]) -> Tensor:
    """(N, u_i, ...) -> (B, N, U, ...), zeros beyond."""
    return pad_sequence([value.transpose(0, 1) for value in values], batch_first=True).transpose(1, 2).contiguous()
