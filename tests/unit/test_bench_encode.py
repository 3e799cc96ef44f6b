"""The encoding benchmark and the check of company, on a small model: every contender gives the same units."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from units_world import make_model, voice

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import bench_encode
import check_company


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("bench_encode")
    make_model(root / "model")
    (root / "wavs" / "deep").mkdir(parents=True)
    for number, seconds in enumerate((0.5, 1.2, 0.3, 0.8)):
        path = root / "wavs" / ("deep" if number % 2 else ".") / f"{number}.wav"
        soundfile.write(path, voice(seconds, number), 16_000)
    return root


def test_the_table_has_every_way_and_no_unit_differs(world, monkeypatch):
    output = world / "results" / "encode"
    words = f"--model {world / 'model'} --wavs {world / 'wavs'} --rounds 1 --batch 3 --long 1.2 --output {output}"
    monkeypatch.setattr(sys, "argv", ["bench_encode.py", *words.split()])
    assert bench_encode.main() == 0
    document = json.loads(output.with_suffix(".json").read_text())
    cases = {(case["name"], case["features"]): case for case in document["cases"]}
    assert document["utterances"] == 4
    assert ("padded, masked batches of 3", False) in cases
    for features in (False, True):
        for name in ("plain loop", "one at a time, float32", "float32"):
            assert (cases[name, features]["different"], cases[name, features]["units"]) == (0, 136)
            assert cases[name, features]["xrt"] > 0
        assert cases["bfloat16", features]["different"] < 30
    assert document["long"]["units"] == round(1.2 * 60 * 50) - 1
    assert document["long"]["peak_mb"] >= document["long"]["before_mb"] > 50
    table = output.with_suffix(".md").read_text()
    assert str(world) not in table
    assert table.count("| plain loop |") == 2
    assert "| 77.5 |" in table
    assert "One file of 1.2 minutes: 3,599 units" in table


def test_recordings_are_from_all_of_a_folder(world):
    whole = bench_encode.recordings(world / "wavs", 16_000, 1e9)
    assert [len(wav) for wav in whole] == [8_000, 4_800, 19_200, 12_800]  # in the order of their paths
    assert len(bench_encode.recordings(world / "wavs", 16_000, 1.4)) == 2  # of 2.8 s
    with pytest.raises(SystemExit, match="no recordings"):
        bench_encode.recordings(world / "model", 16_000, 1.0)


def test_company_is_counted(world, monkeypatch, capsys):
    words = f"--model {world / 'model'} --wavs {world / 'wavs'} --batches 4"
    monkeypatch.setattr(sys, "argv", ["check_company.py", *words.split()])
    assert check_company.main() == 0
    said = capsys.readouterr().out
    assert said.startswith("4 batches: ")
    assert "0 other than alone, 0 other than in float64" in said
    wav, rng = np.arange(1_000.0), np.random.default_rng(0)
    parts = [check_company.cut(wav, rng) for _ in range(50)]
    assert {len(part) for part in parts} >= {1_000}
    assert all(len(part) and np.array_equal(part, np.arange(part[0], part[0] + len(part))) for part in parts)
