#!/usr/bin/env python3
"""Time and memory of a training step of every quantizer, against the plain formulation and other people's code.

    OMP_NUM_THREADS=2 python tools/bench_quantizer.py --official DIR --output benchmarks/results/cpu

writes cpu.md, cpu.json and cpu.png. DIR is a checkout of the published code (github.com/sony/sqvae).

Times are medians of steps (forward and backward). Every peer has a process with ours alone, in which the two take
turns: glibc's allocator learns from what is freed, so a third contender would change how long these two take. Each is
timed with glibc as it is and with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ raised ("pinned"), which keeps
freed memory. Memory is the peak of resident memory above what was there before the first step, in a process of its
own; on a GPU, what torch counts.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_common import machine_facts, peak, reset_peak, synchronizer, write_results

PINNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 33), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}


def main() -> int:
    args = parse_args()
    if args.child:
        print(json.dumps(in_forks(json.loads(args.child))))
        return 0
    cases = measure(args)
    document = {"machine": machine(args), "settings": settings_of(args), "cases": cases}
    if args.large:
        large = {"task": "memory", "name": "ours", "problem": problem_of(args, "diagonal", 65536, rows=32768)}
        document["large"] = results([large])[0]
    write_results(args.output, document, report(document))
    plot(document, args.output.with_suffix(".png"))
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="checkout of the published code")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/quantizer"), help="without suffix")
    parser.add_argument("--kinds", default="global,position,diagonal,vmf,vq")
    parser.add_argument("--sizes", default="512,1024,2048,4096", help="codebook sizes K")
    parser.add_argument("--rows", type=int, default=4096, help="N, a multiple of 64")
    parser.add_argument("--dim", type=int, default=64, help="D")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=4.0, help="for the steps of one pair")
    parser.add_argument("--memory-limit", type=float, default=12.0, help="GB; contenders that need more are left out")
    parser.add_argument("--no-large", dest="large", action="store_false", help="leave out N = 32,768, K = 65,536")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out memory")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options, without places on this machine."""
    return {**vars(args), "official": args.official is not None, "output": args.output.name, "child": None}


def problem_of(args: argparse.Namespace, kind: str, size: int, rows: int | None = None) -> dict[str, Any]:
    official = None if args.official is None else str(args.official.resolve())
    rows = rows or args.rows
    return {"kind": kind, "rows": rows, "dim": args.dim, "size": size, "device": args.device, "official": official}


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    from bench_contenders import Problem, contenders, needed_bytes

    cases = []
    allocations = {"default": {}, "pinned": PINNED} if args.device == "cpu" else {"default": {}}
    for kind in args.kinds.split(","):
        for size in map(int, args.sizes.split(",")):
            problem = problem_of(args, kind, size)
            own = [{"kind": kind, "size": size, "name": name} for name in contenders(Problem(**problem))]
            for case in own:
                case["fits"] = needed_bytes(case["name"], Problem(**problem)) <= args.memory_limit * 1e9
            fitting = [case for case in own if case["fits"]]
            pairs = [list(dict.fromkeys(("ours", case["name"]))) for case in fitting]
            requests = [
                {"task": "times", "names": pair, "problem": problem, "seconds": args.seconds} for pair in pairs
            ]
            for allocation, environment in allocations.items():
                for case, times in zip(fitting, results(requests, environment), strict=True):
                    case[allocation] = {**times[case["name"]], "ours_ms": times["ours"]["median_ms"]}
            if args.memory:
                requests = [{"task": "memory", "name": case["name"], "problem": problem} for case in fitting]
                for case, used in zip(fitting, results(requests), strict=True):
                    case["memory_mb"] = used["memory_mb"]
            for case in own:
                print(case, file=sys.stderr, flush=True)
            cases += own
    return cases


def results(requests: list[dict[str, Any]], environment: dict[str, str] | None = None) -> list[Any]:
    """What tasks give, each in a process of its own that starts with ``environment``."""
    command = [sys.executable, __file__, "--child", json.dumps(requests)]
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{requests} failed")
    return json.loads(done.stdout.splitlines()[-1])


def in_forks(requests: list[dict[str, Any]]) -> list[Any]:
    """Do tasks one after the other in forks of this process, which has imported what takes long, and done nothing.

    Forked by the main thread: in the forks of another one, malloc would not use its main arena.
    """
    importlib.import_module("bench_contenders")
    context = multiprocessing.get_context("fork")
    found = []
    for request in requests:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=run_task, args=(theirs, request))
        process.start()
        theirs.close()
        found.append(ours.recv())
        process.join()
    return found


def run_task(pipe: Connection, request: dict[str, Any]) -> None:
    task = TASKS[request.pop("task")]
    pipe.send(task(**request))


def run_times(names: list[str], problem: dict[str, Any], seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of a step of each, taken in turn."""
    from bench_contenders import CONTENDERS, Problem

    steps = {name: CONTENDERS[name](Problem(**problem)) for name in names}
    wait = synchronizer(problem["device"])
    taken: dict[str, list[float]] = {name: [] for name in names}
    for step in steps.values():  # compile, autotune, warm caches
        start = time.perf_counter()
        step()
        wait()
        if time.perf_counter() - start < 2:
            step()
            wait()
    due = list(names)
    while due:
        for name in due:
            start = time.perf_counter()
            steps[name]()
            wait()
            taken[name].append(time.perf_counter() - start)
        due = [name for name in due if len(taken[name]) < 3 or sum(taken[name]) < seconds / len(names)]
    return {
        name: {"median_ms": 1e3 * statistics.median(values), "min_ms": 1e3 * min(values), "steps": len(values)}
        for name, values in taken.items()
    }


def run_memory(name: str, problem: dict[str, Any]) -> dict[str, float]:
    """The peak of memory above what is there before the step, in MB, and the seconds that a second step takes."""
    import torch
    from bench_contenders import CONTENDERS, Problem

    small = Problem(**problem).with_(rows=64, size=min(problem["size"], 64))
    CONTENDERS[name](small)()  # libraries, thread pools, compilers
    step, wait = CONTENDERS[name](Problem(**problem)), synchronizer(problem["device"])
    if problem["device"] == "cpu":
        before = reset_peak()
        step()
        memory = peak() - before
    else:
        wait()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        wait()
        memory = (torch.cuda.max_memory_allocated() - before) / 1e6
    start = time.perf_counter()
    step()
    wait()
    return {"memory_mb": memory, "seconds": time.perf_counter() - start, "total_mb": peak()}


TASKS = {"times": run_times, "memory": run_memory}


def machine(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from sqvae_speech.quantization.fused import choose_backend

    return {**machine_facts(args.device), "backend": choose_backend(torch.device(args.device))}


def report(document: dict[str, Any]) -> str:
    """The tables in Markdown."""
    facts, settings = document["machine"], document["settings"]
    lines = [
        "# Quantizers: time and memory of a training step",
        "",
        f"Forward and backward, N = {settings['rows']}, D = {settings['dim']}, float32. {facts['processor']}, "
        f"{facts['threads']} threads, PyTorch {facts['torch']}, backend `{facts['backend']}`; load at the end "
        f"{facts['load_average'][0]:.1f}. Medians in ms. Ratios are to ours, in turn in the same process: above 1, "
        "ours is better. *Pinned*: freed memory is kept by the allocator (see tools/bench_quantizer.py). *% of "
        "products*: what the matrix products of the step would take alone, at the rate of one large float32 product "
        f"({facts['product_gflops']:.0f} GFLOP/s).",
        "",
        f"Command: `OMP_NUM_THREADS={facts['threads']} python tools/bench_quantizer.py --device {settings['device']} "
        f"--kinds {settings['kinds']} --sizes {settings['sizes']} --seconds {settings['seconds']:g}"
        f"{' --official DIR' if settings['official'] else ''} --output benchmarks/results/{settings['output']}`",
        "",
        "| kind | K | | default, ms | ratio | pinned, ms | ratio | memory, MB | ratio | % of products |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    ours = {(case["kind"], case["size"]): case for case in document["cases"] if case["name"] == "ours"}
    for case in document["cases"]:
        base = ours[case["kind"], case["size"]]
        cells = [case["kind"], str(case["size"]), case["name"]]
        for allocation in ("default", "pinned"):
            if case["fits"]:
                cells += pair(median(case, allocation), case.get(allocation, {}).get("ours_ms"), 1)
            else:
                cells += ["does not fit", ""]
        cells += pair(case.get("memory_mb"), base.get("memory_mb"), 0)
        cells.append(share_of_products(case, document) if case["name"] == "ours" else "")
        lines.append(f"| {' | '.join(cells)} |")
    if "large" in document:
        large = document["large"]
        lines += [
            "",
            f"Diagonal, N = 32,768, K = 65,536 (an N x K array would be 8.6 GB): {large['seconds']:.1f} s a step, "
            f"{large['memory_mb']:.0f} MB above the inputs, {large['total_mb']:.0f} MB for the whole process.",
        ]
    return "\n".join(lines) + "\n"


def median(case: dict[str, Any], allocation: str) -> float | None:
    return case[allocation]["median_ms"] if allocation in case else None


def pair(value: float | None, base: float | None, digits: int) -> list[str]:
    if value is None or base is None:
        return ["", ""]
    return [f"{value:,.{digits}f}", f"{value / base:.2f}" if base > 0 else ""]


def share_of_products(case: dict[str, Any], document: dict[str, Any]) -> str:
    """How much of the step the matrix products alone would take at the rate of one large product."""
    settings = document["settings"]
    # of N x K x D: forward 2, backward 4 while logits are kept; a diagonal covariance doubles the width of three
    products = {"diagonal": 9, "vq": 1}.get(case["kind"], 6)
    operations = products * 2.0 * settings["rows"] * settings["dim"] * case["size"]
    seconds = (median(case, "pinned") or median(case, "default") or 0.0) / 1e3
    return f"{100 * operations / seconds / 1e9 / document['machine']['product_gflops']:.0f}"


def plot(document: dict[str, Any], path: Path) -> None:
    """Time (forward and backward) and memory against K, a column a kind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    cases = [case for case in document["cases"] if case["fits"]]
    kinds = list(dict.fromkeys(case["kind"] for case in cases))
    names = list(dict.fromkeys(case["name"] for case in cases))
    quantities = {
        "ms, default": lambda case: median(case, "default"),
        "ms, pinned": lambda case: median(case, "pinned"),
        "memory, MB": lambda case: case.get("memory_mb"),
    }
    quantities = {label: value for label, value in quantities.items() if value(cases[0]) is not None}
    figure = Figure(figsize=(3.2 * len(kinds), 3 * len(quantities)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(quantities), len(kinds), sharex=True, sharey="row", squeeze=False)
    for column, kind in enumerate(kinds):
        for axis, value in zip(axes[:, column], quantities.values(), strict=True):
            own = [case for case in cases if case["kind"] == kind]
            for number, name in enumerate(names):
                points = [(case["size"], value(case)) for case in own if case["name"] == name]
                if points:
                    axis.plot(*zip(*points, strict=True), f"C{number}", marker="o")
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
        axes[0, column].set_title(kind)
        axes[-1, column].set_xlabel("K")
    for axis, label in zip(axes[:, 0], quantities, strict=True):
        axis.set_ylabel(label)
    lines = [Line2D([], [], color=f"C{number}", marker="o") for number in range(len(names))]
    figure.legend(lines, names, loc="outside lower center", ncols=len(names))
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png", dpi=120)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
