#!/usr/bin/env python3
"""Training crops a second that loaders give, and the memory they take: ours, webdataset's, a folder of .npy files.

    OMP_NUM_THREADS=1 python tools/bench_data_loading.py --output benchmarks/results/data_loading

writes data_loading.md and data_loading.json. Everything is read from the same utterances: those of ``--shards DIR``,
or random ones that the tool makes (``--utterances``, 1 to 5 s, seeded). Every number is of a process of its own,
after all files have been read once, so that none waits for the disk, and after a warm-up of some batches.

- *npy*: a file an utterance, loaded whole and cropped, by torch's DataLoader with worker processes;
- *webdataset, 1 crop* and *8 crops* of a decoded utterance: its usual pipeline (shuffled shards, a buffer of 1,000,
  decoding, batches made in the workers); eight crops read less, and put crops of one utterance into one batch;
- *ours, shards* and *ours, cache*: SegmentLoader without and with the packed cache; workers are threads.

One crop of every utterance an epoch is the published policy, and that of all but *8 crops*. Memory is the
proportional set size (a shared page counts once) of the process and its workers, after the warm-up and at the end;
*private* is what of it is no file's.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
SEGMENT_FRAMES = 32
SPLIT_BUFFER = 1000  # samples of webdataset's shuffle
NAMES = ("npy", "webdataset, 1 crop", "webdataset, 8 crops", "ours, shards", "ours, cache")


def main() -> int:
    args = parse_args()
    if args.child:
        print(json.dumps(run(**json.loads(args.child))))
        return 0
    with tempfile.TemporaryDirectory(dir=args.work_dir) as work_dir:
        shards = args.shards or synthetic(Path(work_dir) / "shards", args.utterances, args.dtype)
        document = {
            "machine": machine(),
            "command": command_of(args),
            "data": describe(shards, made=args.shards is None),
            "cases": measure(
                shards,
                Path(work_dir),
                batch_sizes=numbers(args.batch_sizes),
                workers=numbers(args.workers),
                seconds=args.seconds,
                names=[name.strip() for name in args.names.split(";")],
            ),
        }
    from bench_common import write_results

    write_results(args.output, document, report(document))
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="folder of shards; without it synthetic ones are made")
    parser.add_argument("--utterances", type=int, default=8192, help="of the synthetic shards, 128 each")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"), help="of the synthetic shards")
    parser.add_argument("--batch-sizes", default="52,512")
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each number")
    parser.add_argument("--names", default="; ".join(NAMES), help="what to measure, with ; between")
    parser.add_argument("--work-dir", type=Path, help="for what is made on the way; by default the system's")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_loading"), help="without suffix")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def command_of(args: argparse.Namespace) -> str:
    """The command, without places on this machine."""
    words = [f"--batch-sizes {args.batch_sizes} --workers {args.workers} --seconds {args.seconds:g}"]
    words.append("--shards DIR" if args.shards else f"--utterances {args.utterances} --dtype {args.dtype}")
    threads = os.environ.get("OMP_NUM_THREADS")
    prefix = f"OMP_NUM_THREADS={threads} " if threads else ""
    return f"{prefix}python tools/bench_data_loading.py {' '.join(words)}"


def measure(
    shards: Path,
    work_dir: Path,
    *,
    batch_sizes: Sequence[int] = (52, 512),
    workers: Sequence[int] = (0, 1, 2),
    seconds: float = 5.0,
    names: Sequence[str] = NAMES,
) -> list[dict[str, Any]]:
    """Measure loaders, each case in a process of its own.

    Args:
        shards: a folder of shards; the packed cache is made beside them.
        work_dir: where a folder of .npy files is made.
        batch_sizes: with each of ``workers``.
        workers: with each of ``batch_sizes``.
        seconds: for each case.
        names: of ``NAMES``.

    Returns:
        For each case ``name``, ``batch_size``, ``workers``, ``crops_per_second``, and in MB ``memory_start``,
        ``memory_end``, ``private_start``, ``private_end``.
    """
    unknown = set(names) - set(NAMES)
    if unknown:
        raise SystemExit(f"unknown: {'; '.join(sorted(unknown))}; legal are {'; '.join(NAMES)}")
    folder = work_dir / "npy"
    if "npy" in names:
        write_npy(shards, folder)
    if "ours, cache" in names:
        make_cache(shards)
    cases = []
    for name, batch_size, number in itertools.product(names, batch_sizes, workers):
        place = folder if name == "npy" else shards
        warm(place)
        case = {"name": name, "folder": str(place), "batch_size": batch_size, "workers": number, "seconds": seconds}
        done = subprocess.run(
            [sys.executable, __file__, "--child", json.dumps(case)], stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            raise SystemExit(f"{case} failed")
        found = {
            "name": name,
            "batch_size": batch_size,
            "workers": number,
            **json.loads(done.stdout.splitlines()[-1]),
        }
        print(found, file=sys.stderr, flush=True)
        cases.append(found)
    return cases


# ---- the data


def synthetic(folder: Path, num_utterances: int, dtype: str) -> Path:
    import numpy as np
    from synthetic_shards import write_synthetic_shards

    lengths = np.random.default_rng(0).integers(100, 501, num_utterances).tolist()
    write_synthetic_shards(folder, [lengths[at : at + 128] for at in range(0, len(lengths), 128)], dtype=dtype)
    return folder


def describe(shards: Path, made: bool) -> dict[str, Any]:
    from sqvae_speech.data.index import ShardIndex

    index = ShardIndex.load(shards)
    return {
        "synthetic": made,
        "utterances": index.num_utterances,
        "hours": index.hours,
        "shards": len(index.shards),
        "dtype": index.dtype,
        "megabytes": sum(shard.bytes for shard in index.shards) / 1e6,
    }


def write_npy(shards: Path, folder: Path) -> None:
    import numpy as np

    from sqvae_speech.data.index import ShardIndex
    from sqvae_speech.data.reader import ShardReader

    folder.mkdir(parents=True, exist_ok=True)
    index = ShardIndex.load(shards)
    reader = ShardReader(index)
    for entry in index.entries():
        np.save(folder / f"{entry.utterance_id}.npy", reader.mel(entry))


def make_cache(shards: Path) -> None:
    from sqvae_speech.data.cache import open_packed
    from sqvae_speech.data.index import ShardIndex
    from sqvae_speech.data.packed import default_limit
    from sqvae_speech.data.reader import Utterances

    index = ShardIndex.load(shards)
    if open_packed(index, Utterances.of(index), default_limit()) is None:
        raise SystemExit(f"{shards}: no packed cache can be made there; leave 'ours, cache' out (--names)")


def warm(folder: Path) -> None:
    """Read every file once."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 22):
                    pass


# ---- a case, in its own process


def run(name: str, folder: str, batch_size: int, workers: int, seconds: float) -> dict[str, float]:
    """Take batches for so many seconds."""
    import torch

    torch.set_num_threads(1)  # the workers are the parallelism that is measured
    batches = iter(LOADERS[name](Path(folder), batch_size, workers))
    start = time.perf_counter()
    taken = 0
    while taken <= 2 * workers or time.perf_counter() - start < seconds / 4:
        check(next(batches), batch_size)
        taken += 1
    before = memory()
    taken, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        next(batches)
        taken += 1
    after = memory()
    return {
        "crops_per_second": taken * batch_size / passed,
        "memory_start": before["Pss"],
        "memory_end": after["Pss"],
        "private_start": before["Pss_Anon"],
        "private_end": after["Pss_Anon"],
    }


def check(batch: Any, batch_size: int) -> None:
    mel, speaker = batch
    if tuple(mel.shape) != (batch_size, 80, SEGMENT_FRAMES) or len(speaker) != batch_size:
        raise SystemExit(f"a batch of {tuple(mel.shape)}, {len(speaker)} speakers")


def crop(mel: Any) -> Any:
    """A random crop (n_mels, SEGMENT_FRAMES) float32, zero-padded if need be."""
    import numpy as np

    first = random.randint(0, max(0, mel.shape[1] - SEGMENT_FRAMES))  # which both libraries seed in their workers
    out = mel[:, first : first + SEGMENT_FRAMES].astype(np.float32)
    return out if out.shape[1] == SEGMENT_FRAMES else np.pad(out, ((0, 0), (0, SEGMENT_FRAMES - out.shape[1])))


class NpyFolder:
    """A map-style dataset of a folder of .npy files."""

    def __init__(self, folder: Path):
        self.paths = sorted(str(path) for path in folder.glob("*.npy"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        import numpy as np

        return crop(np.load(self.paths[number])), number % 100


def npy_batches(folder: Path, batch_size: int, workers: int) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    data: Any = NpyFolder(folder)
    loader = DataLoader(
        data, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        yield from loader


def crops_of(count: int, speakers: dict[str, int]) -> Callable[[Iterable[Any]], Iterator[Any]]:
    def cut(samples: Iterable[Any]) -> Iterator[Any]:
        for mel, meta in samples:
            for _ in range(count):
                yield crop(mel), speakers[meta["speaker"]]

    return cut


def webdataset_batches(folder: Path, batch_size: int, workers: int, crops: int) -> Iterator[Any]:
    import numpy as np
    import torch
    import webdataset

    from sqvae_speech.data.index import ShardIndex

    def collate(samples: list[Any]) -> tuple[Any, Any]:
        mels, speakers = zip(*samples, strict=True)
        return torch.from_numpy(np.stack(mels)), torch.tensor(speakers)

    index = ShardIndex.load(folder)
    speakers = {speaker: number for number, speaker in enumerate(index.speakers)}
    urls = [str(path) for path in index.shard_paths()]
    data = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
        .shuffle(SPLIT_BUFFER)
        .decode()
        .to_tuple("mel.npy", "json")
        .compose(crops_of(crops, speakers))
        .batched(batch_size, collation_fn=collate, partial=False)
        .repeat()
    )
    return iter(webdataset.WebLoader(data, batch_size=None, num_workers=workers))


def our_batches(folder: Path, batch_size: int, workers: int, cache_bytes: int | None) -> Iterator[Any]:
    from sqvae_speech.data.loader import SegmentLoader

    loader = SegmentLoader(
        folder,
        batch_size=batch_size,
        segment_frames=SEGMENT_FRAMES,
        seed=0,
        num_workers=workers,
        cache_bytes=cache_bytes,
    )
    for batch in loader:
        yield batch["mel"], batch["speaker"]


LOADERS: dict[str, Callable[[Path, int, int], Iterator[Any]]] = {
    "npy": npy_batches,
    "webdataset, 1 crop": lambda *case: webdataset_batches(*case, crops=1),
    "webdataset, 8 crops": lambda *case: webdataset_batches(*case, crops=8),
    "ours, shards": lambda *case: our_batches(*case, cache_bytes=0),
    "ours, cache": lambda *case: our_batches(*case, cache_bytes=None),
}


def memory() -> dict[str, float]:
    """Proportional set size of this process and its children, MB: all of it, and what is no file's (Linux)."""
    sizes = {"Pss": 0.0, "Pss_Anon": 0.0}
    processes = [os.getpid()]
    while processes:
        process = Path("/proc") / str(processes.pop())
        for children in process.glob("task/*/children"):
            processes += map(int, children.read_text().split())
        for line in (process / "smaps_rollup").read_text().splitlines():
            field, _, value = line.partition(":")
            if field in sizes:
                sizes[field] += int(value.split()[0]) * 1024 / 1e6
    return sizes


# ---- the report


def machine() -> dict[str, Any]:
    import numpy
    import webdataset
    from bench_common import machine_facts

    return {**machine_facts("cpu"), "numpy": numpy.__version__, "webdataset": webdataset.__version__}


def report(document: dict[str, Any]) -> str:
    """The tables in Markdown."""
    facts, data = document["machine"], document["data"]
    kind = "synthetic" if data["synthetic"] else "given"
    lines = [
        "# Loading: training crops a second",
        "",
        f"Crops of {SEGMENT_FRAMES} frames of 80 values; {kind} shards, {data['utterances']:,} utterances, "
        f"{data['hours']:.1f} h, {data['dtype']}, {data['megabytes']:,.0f} MB in {data['shards']} shards, all in the "
        f"page cache. {facts['processor']}, {facts['cores']} cores, load before {facts['load_average'][0]:.1f}; "
        f"Python {facts['python']}, PyTorch {facts['torch']}, NumPy {facts['numpy']}, "
        f"webdataset {facts['webdataset']}.",
        "",
        f"Command: `{document['command']}`",
        "",
        *table(document["cases"]),
    ]
    return "\n".join(lines) + "\n"


def table(cases: Sequence[dict[str, Any]]) -> list[str]:
    """Rows of Markdown, one a case."""
    lines = [
        "| loader | batch | workers | crops/s | memory, MB: start | end | private: start | end |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        sizes = [f"{case[key]:,.0f}" for key in ("memory_start", "memory_end", "private_start", "private_end")]
        cells = [case["name"], case["batch_size"], case["workers"], f"{case['crops_per_second']:,.0f}", *sizes]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
