#!/usr/bin/env python3
"""Speed and memory of data preparation: recordings to features against the published way, and corpora of any size.

    python tools/bench_data.py --corpus DIR --output benchmarks/results/data_cpu

writes data_cpu.md and data_cpu.json. DIR is a folder of recordings (wav, flac), used from copies: as many as it takes
for ``--minutes`` of speech.

*Features*: times the real time, reading and writing included, processes started and warm before the clock starts. The
published way is written here from its description (librosa, a file at a time: load, peak, pre-emphasis,
mel spectrogram, dB, ``numpy.save``; a pool of processes), without the waveforms that it also saves. It runs with one
process, with two, and with two that have one thread each for numerical libraries. Ours is ``write_shards``. All take
turns, ``--rounds`` times; figures are medians.

*Scale*: ``prepare folder`` and ``shards`` over corpora of a thousand to a hundred thousand synthetic utterances (0.25
s of noise at 16 kHz): utterances a second, and the largest resident memory of the process and of its workers.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_common import machine_facts, peak, resident, write_results

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# name -> (task, processes, environment)
FEATURES = {
    "published, 1 process": ("published", 1, {}),
    "published, 2 processes": ("published", 2, {}),
    "published, 2 processes, 1 thread each": ("published", 2, ONE_THREAD),
    "ours, 1 worker": ("ours", 1, {}),
    "ours, 2 workers": ("ours", 2, {}),
}


def main() -> int:
    args = parse_args()
    if args.child:
        options = json.loads(args.child)
        print(json.dumps(TASKS[options.pop("task")](**options)))
        return 0
    document: dict[str, Any] = {"machine": machine_facts("cpu"), "command": command_of(args)}
    with tempfile.TemporaryDirectory(dir=args.work_dir) as folder:
        if args.corpus:
            document["features"] = features(args, Path(folder) / "features")
        if args.sizes:
            document["scale"] = [scale(int(size), Path(folder) / f"scale{size}") for size in args.sizes.split(",")]
    write_results(args.output, document, report(document))
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="folder of recordings; without one, features are left out")
    parser.add_argument("--minutes", type=float, default=60.0, help="of speech")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="1000,10000,100000", help="utterances; empty leaves out scale")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data"), help="without suffix")
    parser.add_argument("--work-dir", type=Path, help="where recordings and shards go (default: a temporary folder)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def command_of(args: argparse.Namespace) -> str:
    """The options, without places on this machine."""
    corpus = " --corpus DIR" if args.corpus else ""
    return f"tools/bench_data.py{corpus} --minutes {args.minutes:g} --rounds {args.rounds} --sizes {args.sizes}"


def child(task: str, environment: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    """Run a task in a process of its own; the environment that numerical libraries read is given, not inherited."""
    inherited = {name: value for name, value in os.environ.items() if name not in ONE_THREAD}
    command = [sys.executable, __file__, "--child", json.dumps({"task": task, **options})]
    done = subprocess.run(command, env={**inherited, **(environment or {})}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# ---- features


def features(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure every way over the same recordings."""
    corpus, seconds = copies(args.corpus, args.minutes * 60, folder)
    times: dict[str, list[float]] = {name: [] for name in FEATURES}
    for number in range(args.rounds):
        for name, (task, processes, environment) in FEATURES.items():
            out = str(folder / f"out{number}-{len(times[name])}-{name.replace(' ', '_').replace(',', '')}")
            times[name].append(
                child(task, environment, corpus=str(corpus), output=out, processes=processes)["seconds"]
            )
            last = out
            if task == "published":
                published_out = out
    speed = {name: seconds / statistics.median(values) for name, values in times.items()}
    best = max(value for name, value in speed.items() if name.startswith("published"))
    return {
        "minutes": seconds / 60,
        "times_real_time": speed,
        "spread": {name: [seconds / max(values), seconds / min(values)] for name, values in times.items()},
        "ratio_to_best_published": {name: value / best for name, value in speed.items()},
        "largest_difference": largest_difference(Path(published_out), Path(last)),
    }


def copies(source: Path, seconds: float, folder: Path) -> tuple[Path, float]:
    """Copy recordings, over and over, as speakers ``0000``, ``0001``, ... until they last so long."""
    import soundfile

    paths = sorted(path for path in source.rglob("*") if path.suffix in (".wav", ".flac"))
    if not paths:
        sys.exit(f"error: {source} has no .wav or .flac; --corpus takes a folder of recordings")
    durations = [soundfile.info(path).duration for path in paths]
    total, turn = 0.0, 0
    while total < seconds:
        for path, duration in zip(paths, durations, strict=True):
            copy = folder / "corpus" / f"{turn:04d}" / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
            total += duration
        turn += 1
    return folder / "corpus", total


def published_features(path: str, output: str) -> None:
    """One recording the published way; reflected edges as its librosa had them by default."""
    import librosa
    import scipy.signal

    wav, _ = librosa.load(path, sr=16000)
    wav = wav / np.abs(wav).max() * 0.999
    mel = librosa.feature.melspectrogram(
        y=scipy.signal.lfilter([1, -0.97], [1], wav),
        sr=16000,
        n_fft=2048,
        n_mels=80,
        hop_length=160,
        win_length=400,
        fmin=50,
        power=1,
        pad_mode="reflect",
    )
    np.save(output, librosa.amplitude_to_db(mel, top_db=80) / 80 + 1)


def published(corpus: str, output: str, processes: int) -> dict[str, float]:
    """All recordings in a pool; its processes have computed one each before the clock starts."""
    paths = sorted(Path(corpus).rglob("*.*"))
    Path(output).mkdir()
    names = [str(Path(output) / f"{path.parent.name}-{path.stem}.npy") for path in paths]
    if processes == 1:
        published_features(str(paths[0]), names[0])
        start = time.perf_counter()
        for path, name in zip(paths, names, strict=True):
            published_features(str(path), name)
        return {"seconds": time.perf_counter() - start}
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(warm, [(str(paths[0]), str(Path(output) / f"warm{n}.npy")) for n in range(processes)]))
        start = time.perf_counter()
        list(pool.map(published_features, map(str, paths), names))
        return {"seconds": time.perf_counter() - start}


def warm(task: tuple[str, str]) -> None:
    published_features(*task)
    time.sleep(1.0)  # so that every process gets one


def ours(corpus: str, output: str, processes: int) -> dict[str, float]:
    """``write_shards`` on a cluster whose workers have written one shard before the clock starts."""
    from distributed import LocalCluster

    from sqvae_speech.audio.front_end import FrontEnd
    from sqvae_speech.audio.melspec import MelSpec
    from sqvae_speech.data.cluster import ClusterConfig
    from sqvae_speech.data.kaldi import DataDir
    from sqvae_speech.data.shards import write_shards

    data = data_dir(Path(corpus), Path(output) / "data")
    few = DataDir(data.utterances[: 8 * processes])
    few.write(Path(output) / "few")
    settings: dict[str, Any] = {"front_end": FrontEnd(resample="soxr"), "progress": False}
    spec = MelSpec.preset("sqvae16k")
    with LocalCluster(n_workers=processes, threads_per_worker=1, memory_limit=0, dashboard_address=None) as local:
        cluster = ClusterConfig(scheduler=local.scheduler_address)
        for number in range(3):  # every worker has a turn
            folder = Path(output) / f"warm{number}"
            write_shards(Path(output) / "few", folder, spec, utterances_per_shard=2, cluster=cluster, **settings)
        start = time.perf_counter()
        write_shards(Path(output) / "data", Path(output) / "dump", spec, cluster=cluster, **settings)
        return {"seconds": time.perf_counter() - start}


def data_dir(corpus: Path, folder: Path) -> Any:
    """Write a data directory of ``corpus/<speaker>/<name>.*``."""
    from sqvae_speech.data.ids import escape_id
    from sqvae_speech.data.kaldi import DataDir, Utterance

    data = DataDir(
        Utterance(f"{path.parent.name}-{escape_id(path.stem)}", path.parent.name, str(path))
        for path in sorted(corpus.rglob("*.*"))
    )
    data.write(folder)
    return data


def largest_difference(published_folder: Path, our_folder: Path) -> float:
    """Between the two ways' features, over all utterances."""
    from sqvae_speech.data.reader import iterate_utterances

    worst = 0.0
    for utterance in iterate_utterances(our_folder / "dump"):
        expected = np.load(published_folder / f"{utterance.utterance_id}.npy")
        worst = max(worst, float(np.abs(utterance.mel - expected).max()))
    return worst


# ---- scale


def scale(size: int, folder: Path) -> dict[str, Any]:
    """Both stages over a synthetic corpus of so many utterances."""
    noise(size, folder / "corpus")
    row: dict[str, Any] = {"utterances": size}
    for task in ("prepare", "shards"):
        row[task] = child(task, folder=str(folder))
        row[task]["utterances_per_second"] = size / row[task]["seconds"]
    return row


def noise(size: int, folder: Path) -> None:
    """Write recordings of 0.25 s, a hundred a speaker."""
    import io

    import soundfile

    rng = np.random.default_rng(0)
    wavs = []
    for _ in range(16):
        file = io.BytesIO()
        soundfile.write(file, 0.1 * rng.standard_normal(4000), 16000, format="WAV")
        wavs.append(file.getvalue())
    for number in range(size):
        path = folder / f"s{number // 100:05d}" / f"{number % 100:02d}.wav"
        if number % 100 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(wavs[number % 16])


def prepare(folder: str) -> dict[str, float]:
    from sqvae_speech.data.corpora.folder import prepare_folder

    start = time.perf_counter()
    prepare_folder(Path(folder) / "corpus", Path(folder) / "data", fraction=0.0, progress=False)
    return {"seconds": time.perf_counter() - start, "resident_mb": peak()}


def shards(folder: str) -> dict[str, float]:
    from sqvae_speech.audio.melspec import MelSpec
    from sqvae_speech.data.cluster import ClusterConfig
    from sqvae_speech.data.shards import write_shards

    start = time.perf_counter()
    with largest_child() as largest:
        write_shards(
            Path(folder) / "data" / "train",
            Path(folder) / "dump",
            MelSpec.preset("sqvae16k"),
            cluster=ClusterConfig(num_workers=2),
            progress=False,
        )
    return {"seconds": time.perf_counter() - start, "resident_mb": peak(), "worker_mb": largest[0]}


@contextlib.contextmanager
def largest_child() -> Iterator[list[float]]:
    """Give a list whose number is, at the end, the largest peak of memory of this process' children, in MB.

    Looked at while they live: what the system counts for children that have ended begins at their parent's own.
    """
    import psutil

    largest, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for child_process in psutil.Process().children(recursive=True):
                with contextlib.suppress(OSError, StopIteration):
                    largest[0] = max(largest[0], resident("VmHWM", child_process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield largest
    finally:
        done.set()
        watcher.join()


TASKS = {"published": published, "ours": ours, "prepare": prepare, "shards": shards}


# ---- the report


def report(document: dict[str, Any]) -> str:
    return "\n".join(lines_of(document)) + "\n"


def lines_of(document: dict[str, Any]) -> Iterator[str]:
    machine = document["machine"]
    yield "# Data preparation"
    yield ""
    yield f"{machine['processor']}, {machine['cores']} cores; torch {machine['torch']}, Python {machine['python']}."
    yield f"Command: `{document['command']}`."
    if "features" in document:
        found = document["features"]
        yield ""
        yield f"## Features of {found['minutes']:.0f} minutes of recordings"
        yield ""
        yield "| | times real time | lowest to highest | to the best published |"
        yield "|---|---:|---:|---:|"
        for name, value in found["times_real_time"].items():
            low, high = found["spread"][name]
            ratio = found["ratio_to_best_published"][name]
            yield f"| {name} | {value:,.0f} | {low:,.0f} to {high:,.0f} | {ratio:.2f} |"
        yield ""
        yield f"Largest difference between the features of the two: {found['largest_difference']:.1e}."
    if "scale" in document:
        yield ""
        yield "## Corpora of any size"
        yield ""
        yield "| utterances | prepare, a second | memory, MB | shards, a second | memory, MB | of a worker, MB |"
        yield "|---:|---:|---:|---:|---:|---:|"
        for row in document["scale"]:
            one, two = row["prepare"], row["shards"]
            yield (
                f"| {row['utterances']:,} | {one['utterances_per_second']:,.0f} | {one['resident_mb']:.0f} "
                f"| {two['utterances_per_second']:,.0f} | {two['resident_mb']:.0f} | {two['worker_mb']:.0f} |"
            )


if __name__ == "__main__":
    sys.exit(main())
