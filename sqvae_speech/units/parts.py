"""Extraction in parts: by any number of processes, and going on where a killed run stopped.

The utterances are divided into parts in the order of the manifest, whatever the number of processes; process r of W
does parts r, r + W, ... Each part is a small unit store, written whole into a folder beside the output. When all are
there, the first process joins them in order. A part's units depend on the part alone, so the output is the same, byte
for byte, for any number of processes and of interruptions. Several machines need a common file system.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from sqvae_speech.data.files import read_text, write_text
from sqvae_speech.data.shard_folder import Bad
from sqvae_speech.errors import UserError
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStoreMeta, read_units, write_units

logger = logging.getLogger(__name__)
PART_FRAMES = 128_000  # mel frames of a part: 21 minutes at 100 frames a second
Item = TypeVar("Item")
_DESCRIPTION = "description.json"


@dataclass(frozen=True)
class Processes:
    """The processes that share the work.

    Attributes:
        rank: number of this one, from 0.
        count: how many there are.
        wait: returns when all have called it.
    """

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None

    @property
    def is_first(self) -> bool:
        """Whether this one prepares and joins."""
        return self.rank == 0


class PartUnits(NamedTuple):
    """What a part gives: its units in order, and the utterances that are left out."""

    units: Sequence[UtteranceUnits]
    bad: Sequence[Bad] = ()


def encode_in_parts(
    output: Path,
    meta: UnitStoreMeta,
    parts: Sequence[Sequence[Item]],
    encode: Callable[[Iterable[Item]], PartUnits],
    description: Callable[[], dict[str, Any]],
    *,
    processes: Processes | None = None,
    max_bad: int = 0,
    name: str = "",
    progress: bool = True,
) -> bool:
    """Write a unit store part by part.

    Args:
        output: the store, ``.parquet``.
        meta: what its codes mean.
        parts: the utterances of each.
        encode: gives the units of a part.
        description: gives everything that the parts depend on, for JSON. Parts of another one are thrown away.
        processes: who shares the work; by default this process does all.
        max_bad: utterances that may be left out, in all.
        name: for the progress bar.
        progress: show one, of the first process' share.

    Returns:
        Whether this process joined the parts, and may go on with the store.

    Raises:
        UserError: more than ``max_bad`` utterances are bad; the parts that have some are then to be done again.
    """
    processes = processes or Processes()
    folder = output.with_name(f".{output.name}.parts")
    if processes.is_first:
        identity = {"meta": asdict(meta), "parts": [len(part) for part in parts], **description()}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        _prepare(folder, digest, len(parts))
    processes.wait()
    mine = range(processes.rank, len(parts), processes.count)
    done = [number for number in mine if _is_done(folder, number)]
    with tqdm(
        total=sum(len(parts[number]) for number in mine),
        initial=sum(len(parts[number]) for number in done),
        desc=f"encode {name}" + (f", process 1 of {processes.count}" if processes.count > 1 else ""),
        disable=not (progress and processes.is_first),
    ) as bar:
        for number in sorted(set(mine) - set(done)):
            part = encode(_counted(parts[number], bar))
            write_text(_bad_path(folder, number), json.dumps([list(bad) for bad in part.bad]))
            write_units(_path(folder, number), part.units, meta)  # last: it says that the part is whole
    processes.wait()
    if not processes.is_first:
        return False
    _check_bad(folder, len(parts), max_bad)
    write_units(output, _joined(folder, len(parts)), meta)
    shutil.rmtree(folder)
    return True


def divide(items: Sequence[Item], size_of: Callable[[Item], float], size: float) -> list[list[Item]]:
    """Cut ``items`` in their order into parts of about ``size`` each, at least one item a part."""
    parts: list[list[Item]] = []
    filled = math.inf
    for item in items:
        if filled >= size:
            parts.append([])
            filled = 0.0
        parts[-1].append(item)
        filled += size_of(item)
    return parts


def _counted(items: Iterable[Item], bar: tqdm) -> Iterator[Item]:
    for item in items:
        yield item
        bar.update()


def _prepare(folder: Path, digest: str, num_parts: int) -> None:
    """Keep the parts that an interrupted run of the same work left, and nothing else."""
    description = folder / _DESCRIPTION
    if folder.is_dir():
        if not description.is_file() or read_text(description) != digest:
            logger.info("%s: parts of other units, thrown away", folder)
            shutil.rmtree(folder)
        else:
            done = sum(_is_done(folder, number) for number in range(num_parts))
            logger.info("%s: going on, %d of %d parts are there", folder, done, num_parts)
    write_text(description, digest)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.parquet"


def _bad_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def _is_done(folder: Path, number: int) -> bool:
    return _path(folder, number).is_file()


def _joined(folder: Path, num_parts: int) -> Iterator[UtteranceUnits]:
    for number in range(num_parts):
        yield from read_units(_path(folder, number))


def _check_bad(folder: Path, num_parts: int, max_bad: int) -> None:
    bad = {}
    for number in range(num_parts):
        if found := [Bad(*entry) for entry in json.loads(read_text(_bad_path(folder, number)))]:
            bad[number] = found
    entries = [entry for found in bad.values() for entry in found]
    for entry in entries:
        logger.warning("%s: left out: %s", entry.name, entry.reason)
    if len(entries) > max_bad:
        for number in bad:
            _path(folder, number).unlink()
        first = entries[0]
        raise UserError(
            f"{len(entries)} utterances cannot be encoded (--max-bad {max_bad}); the first is "
            f"{first.name!r}: {first.reason}"
        )
