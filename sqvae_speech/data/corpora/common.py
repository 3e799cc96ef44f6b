"""What the corpora share: the report of what became of every recording, and writing the splits."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqvae_speech.data.files import write_text
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.errors import UserError


@dataclass(frozen=True)
class LeftOut:
    """A recording that is not in any split.

    Attributes:
        name: path inside the corpus.
        reason: why.
        damaged: True for a recording that should be usable and is not (counts against ``max_bad``), False for one
            that the corpus' rules leave out.
    """

    name: str
    reason: str
    damaged: bool = False


@dataclass
class Preparation:
    """What a corpus gave: its splits, and everything it left out with the reason."""

    splits: dict[str, DataDir]
    left_out: list[LeftOut] = field(default_factory=list)

    def summary(self) -> str:
        """Return a table of the splits, and the numbers of recordings left out by reason."""
        lines = []
        for split, data in self.splits.items():
            hours = (data.duration or 0.0) / 3600
            lines.append(f"{split}: {len(data)} utterances, {len(data.speakers)} speakers, {hours:.3f} h")
        for reason, count in sorted(Counter(item.reason for item in self.left_out if not item.damaged).items()):
            lines.append(f"left out: {count} ({reason})")
        damaged = [item for item in self.left_out if item.damaged]
        lines += [f"left out, damaged: {item.reason}" for item in damaged]
        return "\n".join(lines)


def existing_corpus(corpus: str | Path, what: str, folder_only: bool = True) -> Path:
    """Return the corpus' path, or raise :class:`UserError` naming it and what should be there."""
    path = Path(corpus).expanduser()
    if not path.exists():
        raise UserError(f"corpus {path} does not exist; --corpus takes {what}")
    if folder_only and not path.is_dir():
        raise UserError(f"corpus {path} is a file; --corpus takes {what}")
    return path


def refuse_damage(left_out: list[LeftOut], max_bad: int) -> None:
    """Raise :class:`UserError` with the first reasons when more than ``max_bad`` recordings are damaged."""
    if max_bad < 0:
        raise UserError(f"max_bad {max_bad}; legal is 0 or more (--max-bad)")
    damaged = [item for item in left_out if item.damaged]
    if len(damaged) > max_bad:
        reasons = "\n".join(f"  {item.reason}" for item in damaged[:10])
        more = f"\n  ... and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        raise UserError(
            f"recordings that cannot be used: {len(damaged)}, at most {max_bad} may be (--max-bad):\n{reasons}{more}"
            f"\nRepair or remove them, or pass --max-bad {len(damaged)} to go on without them"
        )


def write_splits(
    utterances: Mapping[str, list[Utterance]], left_out: list[LeftOut], output: str | Path
) -> Preparation:
    """Write ``output/<split>`` for every split that has utterances, and ``output/left_out.txt``.

    Raises:
        UserError: there is nothing to train on.
    """
    output = Path(output)
    splits = {split: DataDir(items) for split, items in utterances.items() if items}
    if "train" not in splits:
        raise UserError("the corpus has no recording that can be trained on" + _examples(left_out))
    for split, data in splits.items():
        data.write(output / split)
    write_text(output / "left_out.txt", "".join(f"{item.name}\t{item.reason}\n" for item in sorted_left(left_out)))
    return Preparation(splits, left_out)


def sorted_left(left_out: list[LeftOut]) -> list[LeftOut]:
    """Return what was left out in the order of the names."""
    return sorted(left_out, key=lambda item: item.name)


def _examples(left_out: list[LeftOut]) -> str:
    examples = "; ".join(f"{item.name}: {item.reason}" for item in sorted_left(left_out)[:3])
    return f" ({len(left_out)} left out: {examples})" if examples else ""
