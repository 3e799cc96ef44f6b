"""What a posterior says besides its most probable code: how sure it is, what else it could be, what it would draw."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.errors import UserError

if TYPE_CHECKING:
    from sqvae_speech.models.speech import SpeechModel

_BLOCK = 2048  # units whose posterior is held at a time


@dataclass(frozen=True)
class SoftUnits:
    """Which optional columns of the posterior to extract.

    Attributes:
        entropy: of each unit's posterior, nats.
        top_k: so many most probable codes and their probabilities; 0 for none.
        sample_seeds: one sequence is drawn from the posterior for each seed, 0 or more. A draw depends on seed,
            utterance id and posterior alone, not on the company an utterance is in, nor on the device.
    """

    entropy: bool = False
    top_k: int = 0
    sample_seeds: tuple[int, ...] = ()

    @property
    def wanted(self) -> bool:
        """Whether any is."""
        return self.entropy or self.top_k > 0 or bool(self.sample_seeds)

    def check(self, codebook_size: int, deduplicated: bool) -> None:
        """Raise :class:`UserError` when they cannot be had."""
        if not 0 <= self.top_k <= codebook_size:
            raise UserError(f"--top-k {self.top_k}; legal is 0 to the {codebook_size} codes of the model")
        if any(seed < 0 for seed in self.sample_seeds) or len(set(self.sample_seeds)) != len(self.sample_seeds):
            shown = ",".join(map(str, self.sample_seeds))
            raise UserError(f"--sample-units {shown}; legal are whole numbers from 0, each once")
        if deduplicated and (self.top_k or self.sample_seeds):
            raise UserError(
                "--top-k and --sample-units are of single steps, which --deduplicate collapses; leave it out, and "
                "deduplicate a copy with `sqvae-speech units convert --deduplicate`"
            )


def read_codes_and_latents(
    model: "SpeechModel", z: Tensor, log_var: Tensor | None, mel: Tensor, lengths: Tensor | None, first: int
) -> Tensor:
    """A reader (:data:`sqvae_speech.models.streaming.Reader`) of all that :func:`soft_columns` needs.

    Returns:
        (B, U, N + D + C) float32: codes, exact up to 2^24, latents, and the head's log-variance in its C channels.
    """
    indices = model.choose(z, log_var, mel, lengths, first)
    columns = [indices.reshape(*z.shape[:2], -1), z]
    if log_var is not None:
        columns.append(log_var.expand(*z.shape[:2], log_var.shape[-1]))
    return torch.cat([column.float() for column in columns], dim=-1)


def split_codes_and_latents(model: "SpeechModel", values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """What :func:`read_codes_and_latents` gave of one utterance, (U, N + D + C), apart.

    Returns:
        Codes (N, U) int64, latents (U, D), log-variance (U, C), or (1, C) of one value an utterance, or None.
    """
    quantizer = model.quantizer
    sizes = [quantizer.num_codebooks, quantizer.dim, quantizer.log_var_channels]
    codes, z, log_var = values.split(sizes, dim=-1)
    if not sizes[2]:
        return codes.long().T, z, None
    return codes.long().T, z, log_var[:1] if quantizer.log_var_per_example else log_var


@torch.no_grad()
def soft_columns(
    model: "SpeechModel", z: Tensor, log_var: Tensor | None, utterance_id: str, wanted: SoftUnits
) -> dict[str, np.ndarray]:
    """The optional columns of one utterance, in memory that grows with its latents only.

    Args:
        model: the posterior is its quantizer's.
        z: (U, D) latents.
        log_var: (U, C), (1, C) or None.
        utterance_id: part of what draws depend on.
        wanted: which columns.

    Returns:
        Of ``entropy`` (N, U), ``top_codes`` and ``top_probabilities`` (N, U, k), ``samples`` (S, N, U), those wanted.
    """
    quantizer = model.quantizer
    books, size = quantizer.num_codebooks, quantizer.codebook_size
    found: dict[str, list[np.ndarray]] = {}
    for number, (part, spread) in enumerate(_blocks(z, log_var)):
        one = (part[None], None if spread is None else spread[None])
        if wanted.entropy or wanted.top_k:
            posterior = quantizer.posterior(*one)[0].reshape(-1, books, size).transpose(0, 1)
            if wanted.entropy:
                entropy = torch.special.entr(posterior).sum(dim=-1)
                found.setdefault("entropy", []).append(entropy.cpu().numpy())
            if wanted.top_k:
                top = posterior.topk(wanted.top_k, dim=-1)
                found.setdefault("top_codes", []).append(top.indices.cpu().numpy())
                found.setdefault("top_probabilities", []).append(top.values.cpu().numpy())
        if wanted.sample_seeds:
            seeds = [_seed(seed, utterance_id, number) for seed in wanted.sample_seeds]
            drawn = [quantizer.sample(*one, seed=seed)[0].reshape(len(part), books).T for seed in seeds]
            found.setdefault("samples", []).append(torch.stack(drawn).cpu().numpy())
    axes = {"samples": -1, "entropy": -1}
    return {name: np.concatenate(parts, axis=axes.get(name, 1)) for name, parts in found.items()}


def _blocks(z: Tensor, log_var: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    for start in range(0, max(len(z), 1), _BLOCK):
        part = slice(start, start + _BLOCK)
        yield z[part], log_var if log_var is None or len(log_var) == 1 != len(z) else log_var[part]


def _seed(seed: int, utterance_id: str, block: int) -> int:
    """63 bits for a block of an utterance."""
    digest = hashlib.sha256(f"{seed}:{block}:{utterance_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
