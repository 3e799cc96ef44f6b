#!/usr/bin/env python3
"""Steps and frames per second of training the published speech model, against plain loops of the same network.

    OMP_NUM_THREADS=2 python tools/bench_train.py --official DIR --processes 2 --output benchmarks/results/train_cpu

writes train_cpu.md and train_cpu.json. DIR is a checkout of the published code (github.com/sony/sqvae). On a GPU:
`--device cuda --batch-sizes 52,1024 --output benchmarks/results/train_gpu`.

Every way of training has a process in which it takes turns, step by step, with the plain loop (tools/plain_speech.py)
and the official model; ratios are medians over rounds, so that other load on the machine touches both sides. On a
CPU each is timed with glibc as it is and with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ raised ("pinned"),
which keeps freed memory; the package does that itself when it trains, and is kept from it here. Ratios of processor
time are given beside those of time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_common import machine_facts, synchronizer, write_results

PINNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 33), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
PEERS = ("plain loop", "official")
PHASES = ("data", "forward", "backward", "optimiser")
TYPES = {"global": "I", "diagonal": "IV"}


def main() -> int:
    args = parse_args()
    if args.child:
        print(json.dumps(TASKS[args.task](json.loads(args.child))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder))
        document = {"machine": None, "settings": settings_of(args), "cases": measure(args, folder)}
        if args.processes > 1:
            document["processes"] = measure_processes(args, folder)
    document["machine"] = machine_facts(args.device)
    write_results(args.output, document, report(document))
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="checkout of the published code")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/train"), help="without suffix")
    parser.add_argument("--covariances", default="diagonal,global", help="of the quantizer: types IV and I")
    parser.add_argument("--batch-sizes", default="52")
    parser.add_argument("--channels", type=int, default=768)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=12, help="steps of each")
    parser.add_argument("--contenders", help="names, by commas; default: all")
    parser.add_argument("--allocations", default="default,pinned", help="of a CPU")
    parser.add_argument(
        "--processes", type=int, default=1, help="also so many of one thread each, against one of one"
    )
    parser.add_argument("--task", default="times", help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options, without places on this machine."""
    return {**vars(args), "official": args.official is not None, "output": args.output.name, "child": None}


def write_shards(folder: Path) -> None:
    """Random mels of the length of sentences: 2,000 of them, so that every step has others."""
    import numpy as np
    from synthetic_shards import write_synthetic_shards

    lengths = np.random.default_rng(0).integers(100, 400, size=(4, 500)).tolist()
    write_synthetic_shards(folder / "shards", lengths, num_speakers=100)


def problem_of(args: argparse.Namespace, folder: str, covariance: str, batch_size: int) -> dict[str, Any]:
    return {
        "shards": f"{folder}/shards",
        "exp_dir": f"{folder}/exp",
        "official": None if args.official is None else str(args.official.resolve()),
        "covariance": covariance,
        "batch_size": batch_size,
        "channels": args.channels,
        "device": args.device,
    }


def measure(args: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    from bench_steps import CONTENDERS

    names = args.contenders.split(",") if args.contenders else [name for name in CONTENDERS if name not in PEERS]
    allocations = args.allocations.split(",") if args.device == "cpu" else ["default"]
    peers = PEERS if args.official else PEERS[:1]
    cases = []
    for covariance in args.covariances.split(","):
        for batch_size in map(int, args.batch_sizes.split(",")):
            for allocation in allocations:
                for name in names:
                    request = {
                        "names": [name, *peers],
                        "problem": problem_of(args, folder, covariance, batch_size),
                        "rounds": args.rounds,
                    }
                    environment = PINNED if allocation == "pinned" else {}
                    found = in_process("times", request, environment)
                    case = {"covariance": covariance, "batch_size": batch_size, "allocation": allocation, **found}
                    print(case["name"], allocation, case["ratios"], file=sys.stderr, flush=True)
                    cases.append(case)
    return cases


def in_process(
    task: str, request: dict[str, Any], environment: dict[str, str], processes: int = 1, threads: int | None = None
) -> Any:
    """What a task gives, run in a process of its own, or in several that train together, of which the first tells."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [__file__, "--task", task, "--child", json.dumps(request)]
    own = {**os.environ, "ACCELERATE_USE_CPU": "true" if request["problem"]["device"] == "cpu" else "false"}
    if threads is not None:
        own["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, env={**own, **environment}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"a benchmark process ended with {done.returncode}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def run_times(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the steps of some contenders that take turns, the first of which is the case."""
    from bench_steps import CONTENDERS, Problem, Stopwatch

    from sqvae_speech.training import trainer

    trainer.keep_freed_memory = lambda: False  # the environment says which allocation is timed
    problem = Problem(**request["problem"])
    contenders = {name: CONTENDERS[name](problem) for name in request["names"]}
    wait = synchronizer(problem.device)
    steps_a_turn = 1 if problem.device == "cpu" else 10
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for round_number in range(2 + request["rounds"]):
        for name, contender in contenders.items():
            wait()
            start, processor = time.perf_counter(), time.process_time()
            watch = Stopwatch(lambda: None)
            for _ in range(steps_a_turn):
                contender.step(watch)
            wait()
            total, processor = time.perf_counter() - start, time.process_time() - processor
            if problem.device != "cpu":  # phases end when the device is done, so they need steps of their own
                watch = Stopwatch(wait)
                contender.step(watch)
            if round_number >= 2:  # the first compile, autotune, warm caches
                turn = {"total": total / steps_a_turn, "processor": processor / steps_a_turn, **watch.seconds}
                taken[name].append(turn)
    name, *peers = request["names"]
    ratios = {
        peer: {
            unit: statistics.median(a[unit] / b[unit] for a, b in zip(taken[peer], taken[name], strict=True))
            for unit in ("total", "processor")
        }
        for peer in peers
    }
    result = {"name": name, "frames": problem.frames, "ratios": ratios, "seconds": {}}
    for contender_name, turns in taken.items():
        result["seconds"][contender_name] = {
            key: {"median": statistics.median(turn[key] for turn in turns), "min": min(turn[key] for turn in turns)}
            for key in turns[0]
        }
    if problem.device != "cpu":
        result["busy"] = {name: busy_share(contender) for name, contender in contenders.items()}
    for contender in contenders.values():
        contender.close()
    return result


def busy_share(contender: Any, steps: int = 10) -> float:
    """The share of the time of some steps in which the GPU has a kernel running."""
    import torch
    from bench_steps import Stopwatch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        start = time.perf_counter()
        for _ in range(steps):
            contender.step(Stopwatch(lambda: None))
        torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    busy, end = 0.0, 0.0
    for first, last in spans:
        busy += max(last - max(first, end), 0.0)
        end = max(end, last)
    return busy / 1e6 / elapsed


def measure_processes(args: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    """Frames a second of several processes of a thread each, over those of one, in turn; the best of three."""
    found = []
    batch_size = int(args.batch_sizes.split(",")[0])
    for half in (False, True):
        for share in ("batch shared out", "batch each"):
            runs: dict[int, list[dict[str, float]]] = {1: [], args.processes: []}
            for _ in range(3):
                for processes, own in runs.items():
                    size = batch_size * (processes if share == "batch each" else 1)
                    request = {
                        "problem": problem_of(args, folder, args.covariances.split(",")[0], size),
                        "half": half,
                        "rounds": args.rounds,
                    }
                    own.append(in_process("rate", request, PINNED, processes, threads=1))
            one, several = (
                {unit: max(run[unit] for run in own) for unit in ("total", "processor")} for own in runs.values()
            )
            ratio = {unit: several[unit] / one[unit] for unit in one}
            found.append({"half": half, "share": share, "one": one, "several": several, "ratio": ratio})
            print(found[-1], file=sys.stderr, flush=True)
    return found


def run_rate(request: dict[str, Any]) -> dict[str, float]:
    """Frames a second of the package's trainer over some steps, all processes together; and what it would be if
    nothing but the work of a process took time.
    """
    from bench_steps import Ours, Problem, Stopwatch

    problem = Problem(**request["problem"])
    ours = Ours(problem, half=request["half"])
    seconds: dict[str, list[float]] = {"total": [], "processor": []}
    for _ in range(2 + request["rounds"]):
        start, processor = time.perf_counter(), time.process_time()
        ours.step(Stopwatch(lambda: None))
        seconds["total"].append(time.perf_counter() - start)
        seconds["processor"].append(time.process_time() - processor)
    first = ours.trainer.accelerator.is_main_process
    ours.close()
    if not first:
        sys.exit(0)
    return {unit: problem.frames / statistics.median(values[2:]) for unit, values in seconds.items()}


TASKS = {"times": run_times, "rate": run_rate}


def report(document: dict[str, Any]) -> str:
    """The tables in Markdown."""
    facts, settings = document["machine"], document["settings"]
    threads = "" if settings["device"] == "cuda" else f"{facts['threads']} threads, "
    options = [f"--device {settings['device']}", f"--batch-sizes {settings['batch_sizes']}"]
    options += [f"--rounds {settings['rounds']}"]
    options += ["--official DIR"] if settings["official"] else []
    options += [f"--processes {settings['processes']}"] if settings["processes"] > 1 else []
    options += [f"--output benchmarks/results/{settings['output']}"]
    command = f"OMP_NUM_THREADS={facts['threads']} python tools/bench_train.py {' '.join(options)}"
    lines = [
        "# Training: time of a step",
        "",
        f"The published speech network ({settings['channels']} channels, K 512, D 64), crops of 32 frames. "
        f"{facts['processor']}, {threads}PyTorch {facts['torch']}; load at the end {facts['load_average'][0]:.1f}. "
        "Times are medians in ms. Ratios are of the time, and in brackets of the processor time, of the plain loop "
        "and of the official model to that of the row, step by step in turn in the same process.",
        "",
        f"Command: `{command}`",
        "",
        "| type | batch | allocation | | step | data | forward | backward | optimiser | steps/s | frames/s | "
        "plain loop | official |" + (" busy |" if settings["device"] == "cuda" else ""),
        "|---" * (14 if settings["device"] == "cuda" else 13) + "|",
    ]
    for group in grouped(document["cases"]):
        for peer in group[0]["ratios"]:  # as they were beside the first of the group
            lines.append(row(group[0], peer, {}))
        lines += [row(case, case["name"], case["ratios"]) for case in group]
    if "processes" in document:
        lines += [
            "",
            f"{settings['processes']} processes of one thread (gloo) against one process of one thread, frames a "
            "second, the best of three runs each, in turn; in brackets as if only a process' own work took time:",
            "",
            "| | batch | one | together | ratio |",
            "|---|---|---|---|---|",
        ]
        for found in document["processes"]:
            precision = "bf16" if found["half"] else "float32"
            rates = f"{found['one']['total']:,.0f} | {found['several']['total']:,.0f}"
            ratio = f"{found['ratio']['total']:.2f} ({found['ratio']['processor']:.2f})"
            lines.append(f"| {precision} | {found['share']} | {rates} | {ratio} |")
    return "\n".join(lines) + "\n"


def grouped(cases: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault((case["covariance"], case["batch_size"], case["allocation"]), []).append(case)
    return list(groups.values())


def row(case: dict[str, Any], name: str, ratios: dict[str, dict[str, float]]) -> str:
    seconds = case["seconds"][name]
    total = seconds["total"]["median"]
    cells = [TYPES[case["covariance"]], str(case["batch_size"]), case["allocation"], name]
    cells += [f"{1e3 * seconds[key]['median']:,.1f}" for key in ("total", *PHASES)]
    cells += [f"{1 / total:.2f}", f"{case['frames'] / total:,.0f}"]
    for peer in PEERS:
        ratio = ratios.get(peer)
        cells.append("" if ratio is None else f"{ratio['total']:.2f} ({ratio['processor']:.2f})")
    if "busy" in case:
        cells.append(f"{100 * case['busy'][name]:.0f}%")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
