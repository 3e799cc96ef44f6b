"""Writing folders of shards, whatever is in them: a Dask task a shard, each whole or absent.

Beside ``<split>-000000.tar`` stands ``<split>-000000.json``, written after it: what it was made from, what is in it
and where, and the examples that could not be used.
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from tqdm import tqdm

from sqvae_speech.allocation import keep_freed_memory
from sqvae_speech.data.cluster import ClusterConfig, run_tasks
from sqvae_speech.data.files import whole_file, write_text
from sqvae_speech.data.shard_folder import INDEX_NAME, Bad, ShardFile, ShardFolder, file_sha256, read_json
from sqvae_speech.errors import UserError

Item = TypeVar("Item")
Index = TypeVar("Index", bound=ShardFolder)


class ShardSummary(NamedTuple):
    """What became of a shard's examples, for a progress bar: numbers of them, and seconds of speech written."""

    examples: int
    bad: int
    seconds: float = 0.0


class Sample(NamedTuple):
    """An example as webdataset writes it, and what its list says about it.

    Attributes:
        name: its id.
        listed: columns of the list between the id and the places.
        members: suffix -> contents: the numbers, and ``json``.
        facts: what else :meth:`ShardTask.shard_file` wants to know of it.
    """

    name: str
    listed: tuple[Any, ...]
    members: dict[str, bytes]
    facts: Any = None


@dataclass(frozen=True, kw_only=True)
class ShardTask(ABC):
    """One shard to write: everything that its bytes depend on, and where it goes.

    Attributes:
        path: of the shard.
    """

    index_class: ClassVar[type[ShardFolder]]

    path: Path

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Ids of the examples."""

    @abstractmethod
    def inputs(self) -> str:
        """SHA-256 of the settings, the examples and the state (size and time) of the files that they come from."""

    @abstractmethod
    def samples(self) -> Iterator[Sample | Bad]:
        """Yield a sample, or the reason why there is none, for every example in its order."""

    @abstractmethod
    def shard_file(self, samples: Sequence[Sample], **common: Any) -> ShardFile:
        """Describe the shard. Its samples are without members; ``common`` is what all shards have."""

    def seconds(self, shard: dict[str, Any]) -> float:
        """Of speech in a shard, for the progress bar."""
        return 0.0

    @property
    def sidecar(self) -> Path:
        """The file that says what is in the shard."""
        return self.path.with_suffix(".json")

    def summary(self) -> ShardSummary | None:
        """Return what the shard on disk holds if it is whole and made of just these inputs, else None."""
        if not self.sidecar.is_file():
            return None
        try:
            state = read_json(self.sidecar)
        except UserError:
            return None
        shard = state.get("shard") or {}
        size = self.path.stat().st_size if self.path.is_file() else None
        if state.get("inputs") != self.inputs() or shard.get("bytes") != size:
            return None
        return self._summary(state)

    def _summary(self, state: dict[str, Any]) -> ShardSummary:
        return ShardSummary(len(self.names), len(state["bad"]), self.seconds(state["shard"]))


def write_shard(task: ShardTask) -> ShardSummary:
    """Write a shard and its sidecar. Runs in a worker; examples that cannot be used are listed, not raised."""
    import torch

    keep_freed_memory(whatever_is_set=True)
    # one thread, whatever the number of workers: the order of sums, and so the bytes, must not depend on it
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return task._summary(_write(task))
    finally:
        torch.set_num_threads(threads)


def _write(task: ShardTask) -> dict[str, Any]:
    import webdataset

    inputs = task.inputs()  # before reading: a file that changes while we read is then found changed
    samples = task.samples()
    task.sidecar.unlink(missing_ok=True)
    bad: list[Bad] = []
    written: list[Sample] = []
    with whole_file(task.path) as temporary:
        with temporary.open("wb") as file:
            with webdataset.TarWriter(
                file, encoder=False, user="", group="", mtime=0, compress=False, format="PAX_FORMAT"
            ) as writer:
                for sample in samples:
                    if isinstance(sample, Bad):
                        bad.append(sample)
                        continue
                    writer.write({"__key__": sample.name, **sample.members})
                    written.append(sample._replace(members={}))
            file.flush()
            os.fsync(file.fileno())
        places = _places(temporary)
        shard = task.shard_file(
            written, name=task.path.name, bytes=temporary.stat().st_size, sha256=file_sha256(temporary)
        )
    index = task.index_class
    state = {
        "version": index.version,
        "inputs": inputs,
        "shard": vars(shard),
        index.list_name: [
            [sample.name, *sample.listed, places[f"{sample.name}.{index.member}"], places[f"{sample.name}.json"]]
            for sample in written
        ],
        "bad": [tuple(item) for item in bad],
    }
    write_text(task.sidecar, json.dumps(state, ensure_ascii=False) + "\n")
    return state


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of every member, read back from the finished tar."""
    with tarfile.open(path, "r:") as archive:
        return {member.name: (member.offset_data, member.size) for member in archive}


def shard_paths(
    output: Path, split: str, items: Sequence[Item], per_shard: int
) -> Iterator[tuple[Path, Sequence[Item]]]:
    """Yield the shards' absolute paths and what goes into each: items in order, divided evenly."""
    num_shards = -(-len(items) // per_shard)
    ends = [len(items) * number // num_shards for number in range(num_shards + 1)]
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        yield output.absolute() / f"{split}-{number:06d}.tar", items[start:end]


def write_folder(
    output: Path,
    split: str,
    tasks: Sequence[ShardTask],
    index_of: Callable[[tuple[Any, ...], tuple[Bad, ...]], Index],
    *,
    cluster: ClusterConfig | None = None,
    max_bad: int = 0,
    progress: bool = True,
) -> Index:
    """Write the shards of a split, those that are not there whole and unchanged, and ``index.json``.

    Args:
        output: the folder.
        split: beginning of the shards' names.
        tasks: all shards, in order.
        index_of: makes the index, of the shards that have an example and of what could not be used.
        cluster: where the shards are made; by default in this process.
        max_bad: examples that may be unusable before the whole is refused.
        progress: show a progress bar.

    Raises:
        UserError: another run is writing to the folder; no example, or more than ``max_bad``, cannot be used: then
            there is no ``index.json``, and ``bad.txt`` lists all of them with their reasons.
    """
    if max_bad < 0:
        raise UserError(f"max_bad {max_bad}; legal is 0 or more (--max-bad)")
    output.mkdir(parents=True, exist_ok=True)
    with _alone(output):
        done = {task.path: summary for task in tasks if (summary := task.summary())}
        todo = [task for task in tasks if task.path not in done]
        stale = _stale(output, split, tasks)
        if todo or stale:
            (output / INDEX_NAME).unlink(missing_ok=True)  # it describes shards that are about to change
        for path in stale:
            path.unlink()
        total = sum(len(task.names) for task in tasks)
        noun = tasks[0].index_class.noun
        bar = _Progress(f"shards of {split}", noun, total, list(done.values()), shown=progress)
        cluster = cluster or ClusterConfig()
        cluster = dataclasses.replace(cluster, num_workers=max(1, min(cluster.num_workers, len(todo))))
        with bar, contextlib.closing(run_tasks(write_shard, todo, cluster)) as summaries:
            for summary in summaries:
                bar.add(summary)
        for path in _half_written(output, split):  # by workers that died; others have done their shards
            path.unlink(missing_ok=True)
        for task in todo:
            if not task.sidecar.is_file():
                raise UserError(
                    f"the workers have written {task.path.name}, but not to {output}: with workers on other machines "
                    "the folder has to be one that all of them share, under the same path"
                )
        return _write_index(output, tasks, index_of, max_bad)


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Hold the folder's lock: two runs at once would clear away each other's half-written files."""
    with (output / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run is writing shards to {output}; wait for it, or choose another folder"
            ) from None
        yield


def _stale(output: Path, split: str, tasks: Sequence[ShardTask]) -> list[Path]:
    """Shards of an earlier, larger division of this split, and what a killed run has left half-written."""
    wanted = {path.name for task in tasks for path in (task.path, task.sidecar)}
    number = "[0-9]" * 6
    found = [path for kind in ("tar", "json") for path in output.glob(f"{split}-{number}.{kind}")]
    return sorted([path for path in found if path.name not in wanted] + _half_written(output, split))


def _half_written(output: Path, split: str) -> list[Path]:
    return sorted(output.glob(f".{split}-{'[0-9]' * 6}.*.part"))


class _Progress:
    """A bar over examples that also counts the hours of speech, if there is any, and those per hour of work."""

    def __init__(self, title: str, noun: str, total: int, done: list[ShardSummary], *, shown: bool):
        self.seconds = sum(summary.seconds for summary in done)
        self.bad = sum(summary.bad for summary in done)
        self.earlier = self.seconds
        self.bar = tqdm(
            total=total,
            initial=sum(summary.examples for summary in done),
            desc=title,
            unit=f" {noun}s",
            disable=not shown,
            dynamic_ncols=True,
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, summary: ShardSummary) -> None:
        """Count a shard that has been written."""
        self.seconds += summary.seconds
        self.bad += summary.bad
        elapsed = self.bar.format_dict["elapsed"] or 1e-9
        said = []
        if self.seconds:
            speed = (self.seconds - self.earlier) / elapsed
            said.append(f"{self.seconds / 3600:.2f} h, {speed:.0f} x real time")
        if self.bad:
            said.append(f"{self.bad} bad")
        self.bar.set_postfix_str(", ".join(said), refresh=False)
        self.bar.update(summary.examples)


def _write_index(
    output: Path,
    tasks: Sequence[ShardTask],
    index_of: Callable[[tuple[Any, ...], tuple[Bad, ...]], Index],
    max_bad: int,
) -> Index:
    kind = tasks[0].index_class
    shards, bad = [], []
    for task in tasks:
        state = read_json(task.sidecar)
        bad += [Bad(*item) for item in state["bad"]]
        shard = kind.shard_class(**state["shard"])
        if shard.num_examples:
            shards.append(shard)
    listing = output / "bad.txt"
    if bad:
        write_text(listing, "".join(f"{item.name}\t{item.reason}\n" for item in bad))
    else:
        listing.unlink(missing_ok=True)
    if len(bad) > max_bad or not shards:
        (output / INDEX_NAME).unlink(missing_ok=True)
        raise UserError(_refusal(kind.noun, bad, max_bad, listing, nothing_left=not shards))
    index = index_of(tuple(shards), tuple(bad))
    index.save()
    return index


def _refusal(noun: str, bad: list[Bad], max_bad: int, listing: Path, nothing_left: bool) -> str:
    reasons = "\n".join(f"  {item.name}: {item.reason}" for item in bad[:5])
    more = f"\n  ... and {len(bad) - 5} more, all in {listing}" if len(bad) > 5 else ""
    if nothing_left:
        return f"no {noun} can be used:\n{reasons}{more}"
    return (
        f"{noun}s that cannot be used: {len(bad)}, at most {max_bad} may be (--max-bad):\n{reasons}{more}\n"
        f"Repair or remove them, or pass --max-bad {len(bad)} to go on without them"
    )
