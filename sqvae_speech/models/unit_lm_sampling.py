"""Drawing units from a language model, one code at a time, with the keys and values of those before it kept."""

import torch
from torch import Tensor

from sqvae_speech.models.transformer import KeyValueCache
from sqvae_speech.models.unit_lm import UnitLm


def code_probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """What to draw from.

    Args:
        logits: (..., V).
        temperature: they are divided by it; 0 takes the most probable.
        top_k: only so many of the most probable (those as probable as the last of them too).
        top_p: only the most probable that together have this probability, after the others; at least one.

    Returns:
        (..., V) probabilities, float32.
    """
    logits = logits.float()
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p is not None:
        ordered, order = probabilities.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        probabilities = torch.zeros_like(logits).scatter_(-1, order, ordered.masked_fill(before >= top_p, 0.0))
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


@torch.no_grad()
def sample_units(
    model: UnitLm,
    number: int,
    *,
    max_units: int,
    conditions: Tensor | None = None,
    prompt: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Draw sequences of units.

    Args:
        model: in evaluation mode.
        number: B, how many, drawn side by side.
        max_units: units of a sequence at most, the prompt's counted; image codes have as many as they have.
        conditions: (B,) int64, see :class:`UnitLm`; None for unknown.
        prompt: (B, N, u) int64 codes that the sequences begin with.
        temperature: see :func:`code_probabilities`.
        top_k: see there.
        top_p: see there.
        generator: of the draws, on the model's device; None for torch's own.

    Returns:
        B tensors (N, U) int64, U up to ``max_units``, the prompt among them.
    """
    vocabulary = model.vocabulary
    books, size = vocabulary.num_codebooks, vocabulary.codebook_size
    max_units = vocabulary.num_units or max_units
    device = model.embedding.weight.device
    codes = torch.zeros(number, max_units, books, dtype=torch.int64, device=device)
    given = 0 if prompt is None else min(prompt.shape[2], max_units)
    if prompt is not None:
        codes[:, :given] = prompt[:, :, :given].transpose(1, 2).to(device)
    lengths = torch.full((number,), max_units, device=device)
    reader = _Reader(model, codes, conditions)
    for unit in range(given, max_units):
        for book in range(books):
            logits = reader.next_logits(unit, book)
            probabilities = code_probabilities(logits, temperature, top_k, top_p)
            drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            ended = drawn == size
            lengths = torch.where(ended & (lengths == max_units), unit, lengths)
            codes[:, unit, book] = drawn.masked_fill(ended, 0)  # what follows an end is drawn too, and thrown away
        if int(lengths.max()) <= unit:
            break
    return [row[:length].T.contiguous() for row, length in zip(codes, lengths.tolist(), strict=True)]


class _Reader:
    """The model's logits for the next code of sequences that grow.

    Args:
        codes: (B, U, N), which the caller fills; read up to the code that is asked for.
    """

    def __init__(self, model: UnitLm, codes: Tensor, conditions: Tensor | None):
        self.model = model
        self.codes = codes
        self.conditions = None if conditions is None else conditions.to(codes.device)
        self.cache: KeyValueCache | None = None
        self.start = -1

    def next_logits(self, unit: int, book: int) -> Tensor:
        """(B, K + 1) for the code of one codebook of one unit; called in order."""
        vocabulary, model = self.model.vocabulary, self.model
        books = vocabulary.num_codebooks
        start, last = model.window_start(unit), unit * books + book  # last: the symbol to be read last
        if self.cache is None or start != self.start:
            self.start = start
            capacity = model.config.context * books
            self.cache = KeyValueCache(model.config, len(self.codes), capacity, model.embedding.weight)
        places = torch.arange(start * books + self.cache.length, last + 1, device=self.codes.device)
        conditions = None
        if self.conditions is not None:
            conditions = self.conditions[:, None].expand(-1, len(places))
        hidden = model.hidden(
            self._symbols(places),
            positions=(places // books).expand(len(self.codes), -1),
            conditions=conditions,
            cache=self.cache,
        )[:, -1]
        # the other codebooks' logits cost little, and the rule which may end the sequence stays in one place
        return model.logits(hidden[:, None].expand(-1, books, -1))[:, book]

    def _symbols(self, places: Tensor) -> Tensor:
        """(B, T): symbol i is the code before number i of the flattened codes, and before the first the beginning."""
        vocabulary = self.model.vocabulary
        before = (places - 1).clamp(min=0)
        offsets = before % vocabulary.num_codebooks * vocabulary.codebook_size
        symbols = self.codes.flatten(1)[:, before] + offsets
        return symbols.masked_fill(places == 0, vocabulary.begin)
