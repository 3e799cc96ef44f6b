"""``egs/mini/evidence.sh`` on a few utterances and steps: everything is trained, scored and written into a page."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "egs" / "mini"


def run(*command: str) -> subprocess.CompletedProcess:
    environment = dict(os.environ, VIRTUAL_ENV=sys.prefix, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_from_the_corpus_to_the_page(tmp_path):
    corpus = tmp_path / "corpus"
    make = [sys.executable, str(MINI / "local" / "make_corpus.py"), str(corpus), "--max-utterances", "5"]
    made = run(*make, "--speakers", "p301", "p302", "p307", "p308")
    assert made.returncode == 0, made.stderr
    evidence = yaml.safe_load((MINI / "conf" / "evidence.yaml").read_text())
    sweep = {
        "configs": [str(MINI / "conf" / "train_phonetic.yaml")],
        "settings": {**evidence["settings"], "model.channels": 16, "model.quantizer.codebook_size": 8},
        "score": {
            "command": [*evidence["score"]["command"], "--no-abx", "--representations", "codes"],
            "references": {"k-means": ["--features", "kmeans-mel", "--clusters", "8", "--stack", "2"]},
        },
        "columns": {name: what for name, what in evidence["columns"].items() if "ABX" not in name},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    (tmp_path / "page.template.md").write_text("{{fact voices}}\n{{table evidence}}\n")
    options = ["--corpus", str(corpus), "--work-dir", str(tmp_path / "work"), "--sweep", str(tmp_path / "tiny.yaml")]
    options += ["--template", str(tmp_path / "page.template.md"), "--output", str(tmp_path / "page.md")]
    options += ["--voices", "p307 p308", "--jobs", "1", "--training.num_steps", "4"]
    done = run("bash", str(MINI / "evidence.sh"), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    voices, heading, _, kmeans, model = (tmp_path / "page.md").read_text().splitlines()
    assert voices == "p307 p308"
    cells = {
        row.split(" | ")[0].strip("| "): dict(zip(heading.split(" | "), row.split(" | "), strict=True))
        for row in (kmeans, model)
    }
    assert list(cells) == ["k-means", "train_phonetic"]
    for scores in cells.values():
        assert 0 <= float(scores["bit/s"]) <= 150  # 50 units a second of 3 bits
        assert 0 <= float(scores["PNMI"]) < 1
        assert scores["speaker probe"].endswith("%")
    # after four steps the model may still give one code for everything; k-means is ready
    assert float(cells["k-means"]["bit/s"]) > 50
    assert float(cells["k-means"]["PNMI"]) > 0.1
    assert float(cells["train_phonetic"]["error (dB²)"]) > 0
    assert "dev" in (tmp_path / "work" / "data" / "splits.tsv").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--jobs", "none"], "--jobs takes a number from 1"), (["--voice", "p301"], "unknown option --voice")],
)
def test_bad_options(options, message):
    refused = run("bash", str(MINI / "evidence.sh"), *options)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "usage: " in refused.stderr
