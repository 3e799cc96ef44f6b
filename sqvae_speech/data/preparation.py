"""What corpora of any kind share: where they lie, what became of every file, and the report of it."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from sqvae_speech.data.files import write_text
from sqvae_speech.data.tables import format_table
from sqvae_speech.errors import UserError

Split = TypeVar("Split")


@dataclass(frozen=True)
class LeftOut:
    """A file of a corpus that is not in any split.

    Attributes:
        name: path inside the corpus.
        reason: why.
        damaged: True for a file that should be usable and is not (counts against ``max_bad``), False for one that
            the corpus' rules leave out.
    """

    name: str
    reason: str
    damaged: bool = False


@dataclass
class BasePreparation(ABC, Generic[Split]):
    """What a corpus gave: its splits, and everything it left out with the reason."""

    noun: ClassVar[str]
    """What is left out, in messages."""
    headings: ClassVar[Sequence[str]]
    """Of the table of the splits."""

    splits: dict[str, Split]
    left_out: list[LeftOut] = field(default_factory=list)

    @abstractmethod
    def rows(self) -> list[list[str]]:
        """Rows of the table of the splits."""

    def summary(self) -> str:
        """Return a table of the splits, and what was left out: how many files for each reason."""
        lines = [format_table(self.headings, self.rows())]
        ruled = Counter(item.reason for item in self.left_out if not item.damaged)
        damaged = [item for item in self.left_out if item.damaged]
        if self.left_out:
            lines += ["", f"left out: {len(self.left_out)} {self.noun}{'s' if len(self.left_out) > 1 else ''}"]
        width = len(str(max([*ruled.values(), 1])))
        for reason, count in sorted(ruled.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"  {count:>{width}}  {reason}")
        lines += [f"  {1:>{width}}  damaged: {item.reason}" for item in damaged]
        return "\n".join(lines)


class Corpus(NamedTuple):
    """A corpus that the project knows.

    Attributes:
        prepare: writes its data directories: ``prepare(corpus, output, **options)``.
        what: what ``corpus`` has to be.
        embedded: whether it comes with a package, and ``corpus`` is nothing.
    """

    prepare: Callable[..., BasePreparation[Any]]
    what: str
    embedded: bool = False


def existing_corpus(corpus: str | Path, what: str, folder_only: bool = True) -> Path:
    """Return the corpus' path, or raise :class:`UserError` naming it and what should be there."""
    path = Path(corpus).expanduser()
    if not path.exists():
        raise UserError(f"corpus {path} does not exist; --corpus takes {what}")
    if folder_only and not path.is_dir():
        raise UserError(f"corpus {path} is a file; --corpus takes {what}")
    return path


def entries_of(path: Path) -> str:
    """Return the first names in a folder, for a message that says what was found instead."""
    return ", ".join(sorted(child.name for child in path.iterdir())[:6]) or "nothing"


def refuse_damage(left_out: list[LeftOut], max_bad: int, noun: str = "recording") -> None:
    """Raise :class:`UserError` with the first reasons when more than ``max_bad`` files are damaged."""
    if max_bad < 0:
        raise UserError(f"max_bad {max_bad}; legal is 0 or more (--max-bad)")
    damaged = [item for item in left_out if item.damaged]
    if len(damaged) > max_bad:
        reasons = "\n".join(f"  {item.reason}" for item in damaged[:10])
        more = f"\n  ... and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        raise UserError(
            f"{noun}s that cannot be used: {len(damaged)}, at most {max_bad} may be (--max-bad):\n{reasons}{more}"
            f"\nRepair or remove them, or pass --max-bad {len(damaged)} to go on without them"
        )


def write_left_out(output: Path, left_out: list[LeftOut]) -> None:
    """Write ``left_out.txt``, the names in order with their reasons."""
    write_text(output / "left_out.txt", "".join(f"{item.name}\t{item.reason}\n" for item in _sorted(left_out)))


def examples(left_out: list[LeftOut]) -> str:
    """Return some of what was left out, for a message that says why there is nothing."""
    some = "; ".join(f"{item.name}: {item.reason}" for item in _sorted(left_out)[:3])
    return f" ({len(left_out)} left out: {some})" if some else ""


def _sorted(left_out: list[LeftOut]) -> list[LeftOut]:
    return sorted(left_out, key=lambda item: item.name)
