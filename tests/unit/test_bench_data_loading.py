"""The loading benchmark: every contender gives batches of the same form."""

import os

import pytest
from loader_fixtures import write_synthetic_shards  # also puts tools/ on the path

import bench_data_loading as bench  # isort: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    lengths = [[40, 20, 90, 33], [60, 50, 31, 32], [70, 80, 45, 99]]  # some shorter than a crop
    return write_synthetic_shards(tmp_path_factory.mktemp("bench") / "shards", lengths).folder


@pytest.mark.parametrize("name", bench.NAMES)
def test_contenders_give_the_same_form_of_batches(shards, tmp_path, name):
    folder = shards
    if name == "npy":
        folder = tmp_path / "npy"
        bench.write_npy(shards, folder)
        assert len(list(folder.iterdir())) == 12
    batches = iter(bench.LOADERS[name](folder, 4, 0))
    for _ in range(7):  # across the ends of epochs
        bench.check(next(batches), 4)


def test_memory_counts_what_is_taken():
    before = bench.memory()
    block = bytearray(os.urandom(1 << 20) * 50)
    after = bench.memory()
    assert 40 < after["Pss_Anon"] - before["Pss_Anon"] < 80
    assert len(block) == 50 << 20


def test_the_report_has_a_line_a_case(shards):
    sizes = {"memory_start": 300.0, "memory_end": 301.0, "private_start": 200.0, "private_end": 200.4}
    case = {"name": "npy", "batch_size": 52, "workers": 2, "crops_per_second": 14500.4, **sizes}
    document = {
        "machine": bench.machine(),
        "command": "python tools/bench_data_loading.py",
        "data": bench.describe(shards, made=True),
        "cases": [case, {**case, "workers": 0}],
    }
    text = bench.report(document)
    assert "| npy | 52 | 2 | 14,500 | 300 | 301 | 200 | 200 |" in text
    assert text.count("| npy |") == 2
    assert "12 utterances" in text


def test_unknown_names_are_refused(shards, tmp_path):
    with pytest.raises(SystemExit, match="unknown: nothing; legal are npy"):
        bench.measure(shards, tmp_path, names=["nothing"])
