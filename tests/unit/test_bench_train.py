"""The training benchmark: it runs, and its tables have a row for each way of training."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_runs(tmp_path):
    options = {"channels": 8, "rounds": 2, "covariances": "global", "batch-sizes": 3, "allocations": "pinned"}
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [
        sys.executable,
        ROOT / "tools/bench_train.py",
        *words,
        "--contenders=ours",
        f"--output={tmp_path}/train",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "train.json").read_text())
    assert str(tmp_path) not in json.dumps(document)
    (case,) = document["cases"]
    assert case["frames"] == 96
    assert set(case["seconds"]) == {"ours", "plain loop"}
    for seconds in case["seconds"].values():
        phases = sum(seconds[phase]["min"] for phase in ("data", "forward", "backward", "optimiser"))
        assert 0 < phases <= seconds["total"]["median"] * 1.5
    assert case["ratios"]["plain loop"]["total"] > 0
    rows = [line for line in (tmp_path / "train.md").read_text().splitlines() if line.startswith("| I |")]
    assert [row.split(" | ")[3] for row in rows] == ["plain loop", "ours"]
