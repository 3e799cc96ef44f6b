"""The utterances to evaluate on: log-mels of shards, with the labels of their data directories."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.kaldi import DataDir, Utterance, clip_intervals
from sqvae_speech.data.reader import UtteranceMel, iterate_utterances
from sqvae_speech.errors import UserError


@dataclass(frozen=True)
class EvaluationSet:
    """Folders of shards, and where their labels come from.

    Attributes:
        shards: folders with ``index.json``, of one MelSpec.
        data: data directories whose ``ali`` and ``text`` replace those in the shards; none: the shards' own.
        every: only every so-many-th utterance counts.
    """

    shards: tuple[Path, ...]
    data: tuple[Path, ...] = ()
    every: int = 1

    @classmethod
    def of(cls, shards: Sequence[str | os.PathLike], data: Sequence[str | os.PathLike] = ()) -> "EvaluationSet":
        """Of paths."""
        return cls(tuple(map(Path, shards)), tuple(map(Path, data)))

    def at_most(self, count: int) -> "EvaluationSet":
        """So many utterances or fewer, spread evenly over the set."""
        total = sum(ShardIndex.load(folder).num_utterances for folder in self.shards)
        return replace(self, every=max(1, -(-total // count)))

    @property
    def mel_spec(self) -> MelSpec:
        """Of all shards.

        Raises:
            UserError: they differ.
        """
        specs = [ShardIndex.load(folder).mel_spec for folder in self.shards]
        for folder, spec in zip(self.shards, specs, strict=True):
            specs[0].require_same(spec, f"the shards of {self.shards[0]}", f"those of {folder}")
        return specs[0]

    @property
    def speakers(self) -> set[str]:
        """Of all shards."""
        return {speaker for folder in self.shards for speaker in ShardIndex.load(folder).speakers}

    def __iter__(self) -> Iterator[UtteranceMel]:
        """All utterances, one in memory at a time.

        Raises:
            UserError: an utterance without a line in ``data``, or that is in two of the shards.
        """
        # only labels are read, so commands in wav.scp are not run
        directories = [DataDir.read(folder, allow_pipes=True) for folder in self.data]
        labels = {utterance.utterance_id: utterance for directory in directories for utterance in directory}
        seen: set[str] = set()
        for folder in self.shards:
            for utterance in iterate_utterances(folder):
                if utterance.utterance_id in seen:
                    raise UserError(f"utterance {utterance.utterance_id!r} of {folder} comes twice; give a set once")
                seen.add(utterance.utterance_id)
                if (len(seen) - 1) % self.every:
                    continue
                if not self.data:
                    yield utterance
                elif utterance.utterance_id in labels:
                    yield _relabelled(utterance, labels[utterance.utterance_id])
                else:
                    raise UserError(
                        f"utterance {utterance.utterance_id!r} of {folder} is not in "
                        f"{', '.join(map(str, self.data))}; give the data directory that the shards were made "
                        "from, or none"
                    )


def _relabelled(utterance: UtteranceMel, labels: Utterance) -> UtteranceMel:
    meta = {name: value for name, value in utterance.meta.items() if name not in ("ali", "text")}
    if labels.text is not None:
        meta["text"] = labels.text
    if labels.ali:
        # times in a data directory count from the beginning of the utterance, of which trimmed shards hold a part
        meta["ali"] = clip_intervals(labels.ali, *meta["part"]) if "part" in meta else list(labels.ali)
    return replace(utterance, meta=meta)
