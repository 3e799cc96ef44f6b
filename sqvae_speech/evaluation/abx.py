"""ABX discriminability of representations (Schatz et al., 2013), computed by fastabx (arXiv 2505.02692).

Of A and X, two intervals with the same label, and B, one with another label: how often is X nearer to B than to A?
Intervals are aligned by dynamic time warping, whose cost is divided by the length of its path. The error, 0 to 1 with
chance at 0.5, is a mean over contexts, then over speakers, then over ordered pairs of labels, so that frequent phones
and talkative speakers weigh no more than others. Speaker ``within``: all three by one; ``across``: A and B by one, X
by another. Context ``within``: all three between the same neighbours; ``any``: between any.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.frames import FrameSequence
from sqvae_speech.evaluation.items import Item
from sqvae_speech.evaluation.optional import require

MAX_SIZE_GROUP = 10  # as the ZeroSpeech and Libri-Light evaluations have it
MAX_X_ACROSS = 5


def hamming_distance(a: Tensor, b: Tensor) -> Tensor:
    """In how many codebooks units differ: (n, S, N) and (m, T, N) -> (n, m, S, T) float32.

    With one codebook ABX is what the angle between one-hot vectors gives, without making them. Counts, not shares:
    sums of whole numbers are exact, and the many distances that are equal stay so.
    """
    differs = torch.zeros(a.shape[0], b.shape[0], a.shape[1], b.shape[1], device=a.device)
    for book in range(a.shape[2]):  # one at a time: memory does not grow with the number of codebooks
        differs += a[:, None, :, None, book] != b[None, :, None, :, book]
    return differs


# of frames, by kind of representation; names are fastabx's
DISTANCES: dict[str, str | Callable[[Tensor, Tensor], Tensor]] = {
    "latents": "angular",
    "quantized": "angular",
    "mel": "angular",
    "codes": hamming_distance,
    "posterior": "kl_symmetric",
}


@dataclass(frozen=True)
class AbxCondition:
    """Whether A, B and X share speaker and context: ``within``, or ``across`` speakers and ``any`` context."""

    speaker: str = "within"
    context: str = "within"

    @property
    def name(self) -> str:
        return f"{self.speaker}_{self.context}"

    @property
    def by(self) -> list[str]:
        """What A, B and X have in common."""
        return (["previous", "next"] if self.context == "within" else []) + (
            ["speaker"] if self.speaker == "within" else []
        )


CONDITIONS = tuple(
    AbxCondition(speaker, context) for context in ("within", "any") for speaker in ("within", "across")
)


@dataclass(frozen=True)
class AbxScore:
    """Of one condition.

    Attributes:
        error: 0 to 1, chance is 0.5.
        pairs: ordered pairs of labels that it is a mean over.
        cells: groups of triplets that share labels, speakers and context.
        triplets: that were compared.
    """

    error: float
    pairs: int
    cells: int
    triplets: int


def require_fastabx() -> Any:
    """Import fastabx.

    Raises:
        UserError: it is not installed, or this Python is too old for it.
    """
    return require("fastabx", "abx", "ABX", since=(3, 12))


class AbxData:
    """The items of a set with their frames, on which any condition can be scored.

    Args:
        sequences: utterance id -> its frames.
        items: the intervals; frames are those whose middle lies within, see :meth:`FrameSequence.within`.
        kind: of representation.
        distance: of frames, a name of fastabx's or a function; by default that of the kind.
        device: to compute distances on.

    Raises:
        UserError: no fastabx; an item of an utterance that has no frames; no items at all; values not finite.
    """

    def __init__(
        self,
        sequences: Mapping[str, FrameSequence],
        items: Sequence[Item],
        kind: str,
        *,
        distance: str | Callable[[Tensor, Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
    ):
        require_fastabx()
        if not items:
            raise UserError(
                "ABX: no items; the set needs an alignment (`ali`), one-word transcripts, or an item file"
            )
        if missing := {item.utterance_id for item in items} - set(sequences):
            raise UserError(
                f"ABX: items of {len(missing)} utterances that have no frames, such as {min(missing)!r}; names in an "
                "item file have to be utterance ids of the shards, and the utterances long enough for a unit"
            )
        self.kind = kind
        self.distance = DISTANCES[kind] if distance is None else distance
        arrays = {name: sequence.kind(kind) for name, sequence in sequences.items()}
        self._items = list(items)
        self._frames = [
            arrays[item.utterance_id][sequences[item.utterance_id].within(item.onset, item.offset)] for item in items
        ]
        if not all(np.isfinite(frames).all() for frames in self._frames):
            raise UserError(f"ABX: the {kind} hold values that are not finite; did training diverge?")
        self._device = torch.device(device)

    def score(
        self,
        condition: AbxCondition,
        *,
        max_size_group: int | None = MAX_SIZE_GROUP,
        max_x_across: int | None = MAX_X_ACROSS,
        seed: int = 0,
        progress: bool = False,
    ) -> AbxScore | None:
        """The error of a condition, None when the items hold no triplet for it.

        Args:
            condition: of speaker and context.
            max_size_group: of each label, speaker (and context) at most so many items are drawn; None takes all.
            max_x_across: at most so many speakers of X are drawn for an A and B; None takes all.
            seed: of both draws; one seed gives one result.
            progress: show a progress bar.
        """
        fastabx = require_fastabx()
        import polars

        rng = np.random.default_rng(seed)
        dataset = self._dataset(_sampled(self._items, condition, max_size_group, rng))
        across = ["speaker"] if condition.speaker == "across" else []
        try:
            task = fastabx.Task(dataset, on="label", by=condition.by, across=across)
        except (fastabx.EmptyTaskError, fastabx.EmptyDatasetError):
            return None
        # fastabx draws speakers by polars' order of rows, which its threads change from one run to the next
        group = ["label", "label_b", *condition.by, *across]
        cells = task.cells.sort([*group, *(f"{name}_x" for name in across)])
        if across and max_x_across is not None:
            drawn = polars.col("place").rank("ordinal").over(group) <= max_x_across
            cells = cells.with_columns(place=polars.Series(rng.random(len(cells)))).filter(drawn).drop("place")
        task = fastabx.Task.from_cells(dataset, cells, is_symmetric=not across)
        score = fastabx.Score(task, self.distance, progress=progress)
        levels: list[tuple[str, ...] | str] = [("next", "previous")] if condition.context == "within" else []
        levels.append("speaker")
        return AbxScore(
            error=score.collapse(levels=levels),
            pairs=len(score.details(levels=levels)),
            cells=len(score.cells),
            triplets=int(score.cells["size"].sum()),
        )

    def _dataset(self, chosen: list[int]) -> Any:
        """Some of the items as fastabx takes them."""
        fastabx = require_fastabx()
        import polars

        ends = np.cumsum([0, *(len(self._frames[number]) for number in chosen)]).tolist()
        places = {row: (ends[row], ends[row + 1]) for row in range(len(chosen))}
        frames = torch.from_numpy(np.concatenate([self._frames[number] for number in chosen]))
        labels = polars.DataFrame(
            {
                name: [getattr(self._items[number], name) for number in chosen]
                for name in ("label", "previous", "next", "speaker")
            }
        )
        return fastabx.Dataset(labels=labels, accessor=fastabx.InMemoryAccessor(places, frames, self._device))


def _sampled(items: Sequence[Item], condition: AbxCondition, size: int | None, rng: np.random.Generator) -> list[int]:
    """At most ``size`` items of each label and speaker (and context), drawn at random: (numbers of items, rising)."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, item in enumerate(items):
        context = (item.previous, item.next) if condition.context == "within" else ()
        groups.setdefault((item.label, item.speaker, *context), []).append(number)
    if size is None:
        return list(range(len(items)))
    drawn = (
        members if len(members) <= size else rng.choice(members, size, replace=False).tolist()
        for members in groups.values()
    )
    return sorted(number for members in drawn for number in members)
