"""The training benchmark of images: it runs, and has a row for the package and for the plain loop."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_runs(tmp_path):
    command = [sys.executable, ROOT / "tools/bench_train_image.py", "--rounds=2", "--batch-size=4", "--images=30"]
    done = subprocess.run([*command, f"--output={tmp_path}/t"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "t.json").read_text())
    assert str(tmp_path) not in json.dumps(document)
    for name in ("package", "plain loop"):
        assert [len(values) for values in document["seconds"][name].values()] == [2, 2]
        assert min(document["seconds"][name]["time"]) > 0
    rows = [line.split(" | ")[0] for line in (tmp_path / "t.md").read_text().splitlines() if line.startswith("| p")]
    assert rows == ["| package", "| plain loop", "| plain loop / package"]
