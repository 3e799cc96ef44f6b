"""From the symbols of a text to runs of discrete units with their durations, not autoregressive.

An encoder reads the text and says how many runs each symbol has (none, for a letter that is not heard); a decoder
fills in the runs' codes, in a few rounds, the surest first, as MaskGIT (arXiv 2202.04200) and SoundStorm (arXiv
2305.09636) do; then each run gets its duration. Alignment is given in training (:mod:`sqvae_speech.units.alignment`)
and by construction in speaking: nothing is left out, nothing said twice, which on an hour of speech or less attention
has to be lucky to learn.
"""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sqvae_speech.models.modules import length_mask
from sqvae_speech.models.transformer import BidirectionalTransformer, TransformerConfig
from sqvae_speech.models.unit_lm_sampling import code_probabilities

_PLACES = 12  # of a run in its symbol, from either end, that are told apart


@dataclass(frozen=True)
class TextToUnitsConfig(TransformerConfig):
    """Sizes; those of :class:`TransformerConfig` are the decoder's.

    Attributes:
        text_layers: of the encoder, otherwise like the decoder.
        max_runs: of a symbol. (What has more counts as this many.)
        max_duration: units of a run, likewise.
    """

    text_layers: int = 3
    max_runs: int = 24
    max_duration: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text_layers", "max_runs", "max_duration"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class TextToUnitsOutput(NamedTuple):
    """Of a training pass, each a scalar, nats, the mean over utterances.

    Attributes:
        loss: the sum of the others.
        counts: a symbol, of how many runs it has.
        times: a symbol, of how long it lasts, by a Poisson distribution, less what the model cannot change.
        codes: a hidden run, of its code (the mean over codebooks).
        durations: a run.
    """

    loss: Tensor
    counts: Tensor
    times: Tensor
    codes: Tensor
    durations: Tensor


class Spoken(NamedTuple):
    """What was said: ``codes`` (B, R, N) and ``durations`` (B, R) int64, 0 beyond ``lengths`` (B,) runs."""

    codes: Tensor
    durations: Tensor
    lengths: Tensor


class TextToUnits(nn.Module):
    """Text encoder, decoder of runs.

    Args:
        config: sizes.
        num_symbols: that texts are made of.
        codebook_size: K.
        num_codebooks: N.
        num_speakers: it can speak as; 0 for a model that is not told.
    """

    def __init__(
        self,
        config: TextToUnitsConfig,
        num_symbols: int,
        codebook_size: int,
        num_codebooks: int = 1,
        num_speakers: int = 0,
    ):
        super().__init__()
        self.config = config
        self.codebook_size = codebook_size
        self.num_codebooks = num_codebooks
        dim = config.dim
        self.symbols = nn.Embedding(num_symbols, dim)
        self.speakers = nn.Embedding(num_speakers, dim) if num_speakers else None
        self.codes = nn.Embedding(num_codebooks * codebook_size + 1, dim)  # the last row is a hidden code
        self.places = nn.ModuleList(nn.Embedding(_PLACES, dim) for _ in range(2))
        for table in (self.symbols, self.speakers, self.codes, *self.places):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
        shared = {field.name: getattr(config, field.name) for field in fields(TransformerConfig)}
        self.encoder = BidirectionalTransformer(TransformerConfig(**{**shared, "num_layers": config.text_layers}))
        self.decoder = BidirectionalTransformer(TransformerConfig(**shared))
        self.count_head = nn.Linear(dim, config.max_runs + 1)
        self.time_head = nn.Linear(dim, 1)
        self.code_head = nn.Linear(dim, num_codebooks * codebook_size)
        self.duration_head = nn.Sequential(nn.Linear(2 * dim, dim), nn.SiLU(), nn.Linear(dim, config.max_duration))

    def forward(
        self,
        text: Tensor,
        text_lengths: Tensor,
        speaker: Tensor,
        counts: Tensor,
        codes: Tensor,
        durations: Tensor,
        hidden: Tensor | None = None,
    ) -> TextToUnitsOutput:
        """Score a batch.

        Args:
            text: (B, L) int64 symbols.
            text_lengths: (B,) int64.
            speaker: (B,) int64; not looked at by a model without speakers.
            counts: (B, L) int64, runs of each symbol, 0 beyond the text.
            codes: (B, R, N) int64.
            durations: (B, R) int64 units of each run, 0 beyond an utterance's last.
            hidden: (B, R) bool, the runs whose codes are to be told from the others'. None draws them, of each
                utterance as many as some round of speaking has before it.
        """
        config = self.config
        real_text, real = length_mask(text_lengths, text.shape[1]), durations > 0
        if hidden is None:
            share = torch.cos(torch.rand(len(text), 1, device=text.device) * (math.pi / 2))
            hidden = torch.rand(real.shape, device=text.device) < share
        hidden = hidden & real
        states = self.read(text, text_lengths, speaker)
        count_nats = _nats(self.count_head(states), counts.clamp(max=config.max_runs))
        times = _by_symbol(durations.float(), counts)
        time_nats = F.poisson_nll_loss(self._log_times(states), times, reduction="none")
        decoded = self.decode(states, counts, codes, hidden)
        code_nats = _nats(self.code_logits(decoded), codes).mean(-1)
        duration_nats = _nats(self.duration_logits(decoded, codes), durations.clamp(1, config.max_duration) - 1)
        parts = (
            _mean(count_nats, real_text).mean(),
            _mean(time_nats, real_text).mean(),
            _mean(code_nats, hidden).mean(),
            _mean(duration_nats, real).mean(),
        )
        return TextToUnitsOutput(sum(parts, torch.zeros_like(parts[0])), *parts)

    def read(self, text: Tensor, text_lengths: Tensor, speaker: Tensor) -> Tensor:
        """What the encoder makes of each symbol, (B, L, dim); arguments as ``forward``."""
        x = self.symbols(text)
        if self.speakers is not None:
            x = x + self.speakers(speaker)[:, None]
        return self.encoder(x, length_mask(text_lengths, text.shape[1]))

    def decode(self, states: Tensor, counts: Tensor, codes: Tensor, hidden: Tensor) -> Tensor:
        """The decoder's states (B, R, dim) of the runs of what :meth:`read` gave; arguments as ``forward``."""
        ends, owner = counts.cumsum(1), _owners(counts, codes.shape[1])
        runs = torch.arange(codes.shape[1], device=codes.device)
        end = ends.gather(1, owner)
        from_start = runs - (end - counts.gather(1, owner))
        x = states.gather(1, owner[..., None].expand(-1, -1, states.shape[-1]))
        for table, place in zip(self.places, (from_start, end - 1 - runs), strict=True):
            x = x + table(place.clamp(0, _PLACES - 1))
        told = self._embedded(codes)
        x = x + torch.where(hidden[..., None], self.codes.weight[-1], told)
        return self.decoder(x, runs < ends[:, -1:])

    def code_logits(self, decoded: Tensor) -> Tensor:
        """(B, R, dim) -> (B, R, N, K)."""
        return self.code_head(decoded).unflatten(-1, (self.num_codebooks, self.codebook_size))

    def duration_logits(self, decoded: Tensor, codes: Tensor) -> Tensor:
        """Of durations from 1 on, given the run's own codes: (B, R, dim), (B, R, N) -> (B, R, max_duration)."""
        return self.duration_head(torch.cat([decoded, self._embedded(codes)], dim=-1))

    def _log_times(self, states: Tensor) -> Tensor:
        """(B, L, dim) -> (B, L) float32, of the units that each symbol is expected to last."""
        return self.time_head(states)[..., 0].float()

    def _embedded(self, codes: Tensor) -> Tensor:
        offsets = torch.arange(self.num_codebooks, device=codes.device) * self.codebook_size
        return self.codes(codes + offsets).sum(-2)

    @torch.no_grad()
    def speak(
        self,
        text: Tensor,
        text_lengths: Tensor,
        speaker: Tensor,
        *,
        temperature: float = 0.0,
        rounds: int = 8,
        rate: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Spoken:
        """Say texts, in evaluation mode: how many runs, which codes, how long.

        Args:
            text: (B, L) int64 symbols.
            text_lengths: (B,) int64.
            speaker: (B,) int64.
            temperature: logits are divided by it before a draw; 0 takes what is most probable of counts and codes,
                and of durations the mean, stretched to the time that each symbol is expected to last (what is most
                probable are steady codes, which last longer than others), rounded so that no rounding adds up.
            rounds: in which the codes are filled in.
            rate: durations are divided by it.
            generator: of the draws, on the model's device; None for torch's own.
        """
        states = self.read(text, text_lengths, speaker)
        counts = _drawn(self.count_head(states), temperature, generator)
        counts = counts.masked_fill(~length_mask(text_lengths, text.shape[1]), 0)
        # a text of which nothing would be heard: one run, of its first symbol
        counts[:, 0] = torch.where(counts.sum(1) == 0, 1, counts[:, 0])
        lengths = counts.sum(1)
        real = length_mask(lengths, int(lengths.max()))
        codes = torch.zeros(*real.shape, self.num_codebooks, dtype=torch.int64, device=text.device)
        hidden = real.clone()
        for number in range(1, rounds + 1):
            logits = self.code_logits(self.decode(states, counts, codes, hidden))
            drawn = _drawn(logits, temperature, generator)
            sure = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0].sum(-1)
            sure = sure.masked_fill(~hidden, -torch.inf)
            left = (math.cos(math.pi / 2 * number / rounds) * lengths).floor().long()
            rank = sure.argsort(dim=1, descending=True).argsort(dim=1)
            told = hidden & (rank < (hidden.sum(1) - left)[:, None])
            codes = torch.where(told[..., None], drawn, codes)
            hidden = hidden & ~told
        logits = self.duration_logits(self.decode(states, counts, codes, hidden), codes)
        if temperature == 0:
            wanted = logits.float().softmax(-1) @ torch.arange(1, logits.shape[-1] + 1, device=text.device).float()
            stretch = self._log_times(states).exp() / _by_symbol(wanted.masked_fill(~real, 0.0), counts).clamp(
                min=1.0
            )
            wanted = wanted * stretch.gather(1, _owners(counts, wanted.shape[1]))
        else:
            wanted = 1.0 + _drawn(logits, temperature, generator)
        times = (wanted.masked_fill(~real, 0.0) / rate).cumsum(1).round().long()
        durations = times.diff(dim=1, prepend=torch.zeros_like(times[:, :1])).clamp(min=1)
        return Spoken(codes.masked_fill(~real[..., None], 0), durations.masked_fill(~real, 0), lengths)


def _owners(counts: Tensor, runs: int) -> Tensor:
    """(B, L) runs of each symbol -> (B, runs) int64, the symbol of each run; beyond the last, the last symbol."""
    places = torch.arange(runs, device=counts.device).expand(len(counts), -1).contiguous()
    return torch.searchsorted(counts.cumsum(1), places, right=True).clamp(max=counts.shape[1] - 1)


def _by_symbol(values: Tensor, counts: Tensor) -> Tensor:
    """Sums of the runs' values, 0 beyond the last run, over each symbol: (B, R), (B, L) -> (B, L)."""
    sums = values.new_zeros(counts.shape)
    return sums.scatter_add(1, _owners(counts, values.shape[1]), values)


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Of targets (...) by logits (..., V), float32."""
    nats = F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), reduction="none")
    return nats.view(targets.shape)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Of each row's marked values: (B, T) -> (B,), 0 of a row without any."""
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def _drawn(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """One of the last axis, (...) int64."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = code_probabilities(logits, temperature).flatten(0, -2)
    return torch.multinomial(probabilities, 1, generator=generator).view(logits.shape[:-1])
