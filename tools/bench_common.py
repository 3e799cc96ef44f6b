"""What the benchmarks share: the machine they ran on, memory, files."""

import json
import os
import platform
import time
from pathlib import Path
from typing import Any


def synchronizer(device: str) -> Any:
    import torch

    return (lambda: None) if device == "cpu" else torch.cuda.synchronize


def reset_peak() -> float:
    """Forget the peak of resident memory so far; return what is resident now, in MB (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak() -> float:
    return resident("VmHWM")


def resident(field: str, process: int | str = "self") -> float:
    """Resident memory of a process in MB: now (VmRSS), or the peak since its program began (VmHWM; Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def product_rate(device: str) -> float:
    """Billions of float32 operations a second of a large matrix product, the best of some: what the device can do."""
    import torch

    size = 2048 if device == "cpu" else 8192
    a, b, out = (torch.randn(size, size, device=device) for _ in range(3))
    wait, best = synchronizer(device), float("inf")
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        wait()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best / 1e9


def write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_results(output: Path, document: dict[str, Any], report: str) -> None:
    """Write ``output``.json and ``output``.md, and print the report."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write(output.with_suffix(".json"), json.dumps(document, indent=1, default=str) + "\n")
    write(output.with_suffix(".md"), report)
    print(report)


def machine_facts(device: str) -> dict[str, Any]:
    """What figures depend on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "processor": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else processor,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "product_gflops": product_rate(device),
    }
