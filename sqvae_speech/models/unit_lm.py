"""A language model over discrete units: of speech, or of images (the paper's second training phase, its prior).

A unit of N codebooks is N codes, and the model reads and predicts one code after another: time-major, all codes of a
unit before those of the next. That is the chain rule with nothing left out, so its bits are those of the units, can
be compared with any other model's, and its samples are drawn from the distribution that it was scored on. (Summed
embeddings with a head for each codebook make sequences N times shorter, but take the codes of a unit to be
independent given the past, which those of a residual quantizer are not.) Which codebook comes next is always known,
so the softmax is over that codebook alone: no probability is lost on codes that cannot come.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sqvae_speech.models.transformer import CausalTransformer, KeyValueCache, TransformerConfig

IGNORE = -100  # a target that counts in nothing


@dataclass(frozen=True)
class UnitVocabulary:
    """What sequences of units are made of.

    Symbols, which the model reads, are ``n * K + code`` for a code of codebook n, and :attr:`begin`. Targets, which
    it predicts, are codes in [0, K) of the codebook that is next, and :attr:`end` in place of a unit's first code.

    Attributes:
        codebook_size: K.
        num_codebooks: N.
        shape: ``(rows, columns)`` of image codes, in raster order: such sequences have one length, and no end symbol.
            Empty for sequences of any length.
    """

    codebook_size: int
    num_codebooks: int = 1
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.codebook_size < 1 or self.num_codebooks < 1:
            raise ValueError(f"at least 1 codebook of 1 code, got {self.num_codebooks} of {self.codebook_size}")
        if len(self.shape) not in (0, 2) or any(size < 1 for size in self.shape):
            raise ValueError(f"shape is empty or (rows, columns), got {self.shape}")

    @property
    def begin(self) -> int:
        """The symbol before the first unit."""
        return self.num_codebooks * self.codebook_size

    @property
    def end(self) -> int:
        """The target after the last unit."""
        return self.codebook_size

    @property
    def num_units(self) -> int | None:
        """Units of every sequence; None when they end where they like."""
        return self.shape[0] * self.shape[1] if self.shape else None


@dataclass(frozen=True)
class UnitLmConfig(TransformerConfig):
    """Sizes of a unit language model.

    Attributes:
        context: units that it sees at most, the one to be predicted not counted. Longer sequences are read in windows
            that overlap by half. With image codes a multiple of the codes of an image.
        condition_dropout: how often training hides whose units (or of which class) they are, so that the model can
            also go without.
    """

    context: int = 256
    condition_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context < 2:
            raise ValueError(f"context must be at least 2, got {self.context}")
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError(f"condition_dropout must be a probability, got {self.condition_dropout}")


class UnitLmOutput(NamedTuple):
    """``loss``, scalar: nats a predicted unit, ends counted as units. ``nats`` (B, U, N): of each code, detached."""

    loss: Tensor
    nats: Tensor


class UnitLm(nn.Module):
    """Decoder-only transformer over units; symbols, targets and the softmax share one embedding.

    Args:
        config: sizes.
        vocabulary: what it models.
        num_conditions: speakers or classes that it can be told; 0 for a model without.

    Raises:
        ValueError: a context that does not hold whole images.
    """

    def __init__(self, config: UnitLmConfig, vocabulary: UnitVocabulary, num_conditions: int = 0):
        super().__init__()
        if vocabulary.num_units and config.context % vocabulary.num_units:
            raise ValueError(
                f"context must be a multiple of the {vocabulary.num_units} codes of an image, got {config.context}"
            )
        self.config = config
        self.vocabulary = vocabulary
        self.num_conditions = num_conditions
        self.embedding = nn.Embedding(vocabulary.begin + 2, config.dim)  # the last row is the end, only predicted
        self.condition = nn.Embedding(num_conditions + 1, config.dim) if num_conditions else None
        # of the place in the image that is predicted next; along the raster the rotary positions say enough
        self.places = nn.ModuleList(nn.Embedding(size, config.dim) for size in vocabulary.shape)
        for table in (self.embedding, self.condition, *self.places):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
        self.transformer = CausalTransformer(config)

    def forward(
        self,
        symbols: Tensor,
        targets: Tensor,
        *,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        conditions: Tensor | None = None,
    ) -> UnitLmOutput:
        """Score a batch of sequences, or of blocks in which several are packed.

        Args:
            symbols: (B, U, N) int64, what comes before each target.
            targets: (B, U, N) int64 codes. ``vocabulary.end`` is legal as the first code of a unit, ``IGNORE``
                everywhere: after an end, and as padding, which causal attention keeps from everything before it.
            segments: (B, U) int64 in [0, U), of which sequence each unit is; one does not see another. None: of one.
            positions: (B, U) int64, a unit's place in its sequence; needed with image codes.
            conditions: (B,) or (B, U) int64 in [0, num_conditions], the last for unknown. None: all unknown.
        """
        if conditions is not None and conditions.dim() == 1:
            conditions = conditions[:, None].expand(symbols.shape[:2])
        if self.condition is not None and conditions is not None and self.training:
            of_segment = torch.rand(symbols.shape[:2], device=symbols.device)
            drawn = of_segment[:, :1] if segments is None else of_segment.gather(1, segments)
            conditions = conditions.masked_fill(drawn < self.config.condition_dropout, self.num_conditions)
        books = self.vocabulary.num_codebooks
        of_symbols = [
            None if values is None else values.repeat_interleave(books, dim=1)
            for values in (segments, positions, conditions)
        ]
        hidden = self.hidden(symbols.flatten(1), of_symbols[0], of_symbols[1], of_symbols[2])
        logits = self.logits(hidden.view(*symbols.shape, -1))
        nats = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=IGNORE, reduction="none")
        nats = nats.view(targets.shape)
        predicted = (targets[..., 0] != IGNORE).sum().clamp(min=1)
        return UnitLmOutput(nats.sum() / predicted, nats.detach())

    def hidden(
        self,
        symbols: Tensor,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        conditions: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Hidden states after each symbol: all arguments (B, T), with the meanings of ``forward``; (B, T, dim)."""
        x = self.embedding(symbols)
        if self.condition is not None:
            unknown = torch.full_like(symbols, self.num_conditions)
            x = x + self.condition(unknown if conditions is None else conditions)
        if self.places:
            if positions is None:
                raise ValueError("a model of image codes needs the positions")
            columns = self.vocabulary.shape[1]
            rows_and_columns = (positions // columns, positions % columns)
            x = x + sum(table(place) for table, place in zip(self.places, rows_and_columns, strict=True))
        return self.transformer(x, segments, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """Of all codes of units: (..., N, dim) to (..., N, K + 1) float32, the last for the end of the sequence."""
        books, size = self.vocabulary.num_codebooks, self.vocabulary.codebook_size
        codes = self.embedding.weight[: books * size].view(books, size, -1)
        of_codes = torch.einsum("...nd,nkd->...nk", hidden, codes).float()
        of_end = (hidden @ self.embedding.weight[-1]).float()
        if self.vocabulary.num_units:
            of_end = torch.full_like(of_end, -torch.inf)
        elif books > 1:
            first = torch.arange(books, device=hidden.device) == 0
            of_end = of_end.masked_fill(~first, -torch.inf)
        return torch.cat([of_codes, of_end[..., None]], dim=-1)

    def window_start(self, unit: int) -> int:
        """The first unit that unit number ``unit`` is predicted from: 0, and later in steps of half a context.

        The rule of scoring and of sampling alike, so that what is scored is what is sampled.
        """
        context = self.config.context
        if unit < context:
            return 0
        stride = context // 2
        return ((unit - context) // stride + 1) * stride
