"""Listing and comparing runs, half-written ones among them."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from sqvae_speech.bin._cli import run as cli
from sqvae_speech.bin.runs import main
from sqvae_speech.config import flatten, to_dict
from sqvae_speech.experiments.comparison import differing_keys, names_of, sort_runs, table
from sqvae_speech.experiments.runs import find_runs, read_run
from sqvae_speech.experiments.tables import csv_table, markdown_table, number, text_table
from sqvae_speech.training.identity import FREE, identity
from sqvae_speech.training.speech_config import SpeechTrainConfig


def make_run(
    folder: Path, *, state="finished", step=20, num_steps=20, db2=(30.0, 20.0), seconds=60.0, **settings
) -> Path:
    folder.mkdir(parents=True)
    config = {
        "task": "speech",
        "data": {"train": f"dump/{folder.name}"},
        "model": {"channels": 64, "quantizer": {"covariance": "diagonal"}},
        "training": {"num_steps": num_steps, "learning_rate": 0.001, "milestones": [5]},
    }
    for key, value in settings.items():
        section, name = key.split("__")
        config[section][name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = []
    for index, value in enumerate(db2, start=1):
        rows.append({"step": 10 * index, "split": "train", "loss": 5.0 - index, "entropy": 0.5})
        rows.append({"step": 10 * index, "split": "valid", "loss": 1.0, "db2": value, "usage": 0.25})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    host = os.uname().nodename
    status = {"state": state, "step": step, "seconds": seconds, "host": host, "pid": os.getpid(), "message": ""}
    (folder / "status.json").write_text(json.dumps(status))
    start = {"step": 0, "processes": 2, "device": "cpu"}
    (folder / "starts.jsonl").write_text(json.dumps(start) + "\n")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best").write_text("step-00000010\n")
    (folder / "checkpoints" / "latest").write_text(f"step-{step:08d}\n")
    return folder


def test_a_run_is_read(tmp_path):
    run = read_run(make_run(tmp_path / "a", db2=(18.0, 20.0)))
    assert (run.status, run.step, run.num_steps, run.seconds) == ("finished", 20, 20, 60)
    assert run.scores == {"loss": 1.0, "db2": 20.0, "usage": 0.25}
    assert run.best == {"step": 10, "loss": 1.0, "db2": 18.0, "usage": 0.25}
    assert run.train == {"loss": 3.0, "entropy": 0.5}
    assert run.config["model.quantizer.covariance"] == "diagonal"
    assert (run.device, run.processes, run.starts) == ("cpu", 2, 1)


def test_a_run_whose_process_is_gone_is_not_running(tmp_path):
    folder = make_run(tmp_path / "a", state="running", step=7)
    assert read_run(folder).status == "running"
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "pid": 2**22 + 1}))  # beyond the largest
    assert read_run(folder).status == "interrupted"


def test_half_written_runs_are_read_as_far_as_they_go(tmp_path):
    folder = make_run(tmp_path / "a")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n{"step": 30, "split": "valid", "db2": 5.0}\n{"step": 40, "sp')
    assert read_run(folder).scores == {"db2": 5.0}
    for name in ("config.yaml", "status.json", "starts.jsonl", "metrics.jsonl", "checkpoints/best"):
        (folder / name).write_text("{]")
    run = read_run(folder)
    assert (run.status, run.step, run.scores, run.config) == ("interrupted", 20, {}, {})  # the checkpoint's step
    (tmp_path / "b" / "checkpoints").mkdir(parents=True)
    assert read_run(tmp_path / "b").step == 0


def test_runs_of_before_there_was_a_record(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "status.json").unlink()
    (folder / "starts.jsonl").unlink()
    run = read_run(folder)
    assert (run.status, run.step, run.seconds) == ("finished", 20, None)


def test_runs_are_found_below_folders(tmp_path):
    for name in ("vctk/exp/a", "vctk/exp/b", "fsdd/exp/a", ".hidden/c"):
        make_run(tmp_path / name)
    (tmp_path / "vctk" / "exp" / "a" / "checkpoints" / "step-00000010" / "checkpoints").mkdir(parents=True)
    found = find_runs([tmp_path])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["fsdd/exp/a", "vctk/exp/a", "vctk/exp/b"]
    assert find_runs([found[0], tmp_path / "fsdd"]) == [found[0]]
    assert names_of([read_run(path) for path in found[1:]]) == ["a", "b"]
    assert names_of([read_run(path) for path in found]) == ["fsdd/exp/a", "vctk/exp/a", "vctk/exp/b"]


def test_settings_that_differ(tmp_path):
    runs = [
        read_run(make_run(tmp_path / "a")),
        read_run(make_run(tmp_path / "b", training__learning_rate=0.1, training__num_steps=50, model__extra=3)),
    ]
    assert differing_keys(runs) == ["training.learning_rate", "model.extra"]  # not where the data lie, nor the length


def test_the_table(tmp_path, capsys):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", state="diverged", step=10, db2=(25.0,), training__learning_rate=0.1, seconds=90_000)
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "status", "step", "loss", "db2", "usage", "learning_rate", "time", "device"]
    assert lines[1].split() == ["a", "finished", "20/20", "1", "20", "0.25", "0.001", "0:01:00", "cpu"]
    assert lines[2].split() == ["b", "diverged", "10/20", "1", "25", "0.25", "0.1", "1", "day,", "1:00:00", "cpu"]


def test_columns_sorting_and_forms(tmp_path, capsys):
    for name, value in (("a", 20.0), ("b", 30.0), ("c", 10.0)):
        make_run(tmp_path / name, db2=(value + 5, value))
    (tmp_path / "c" / "metrics.jsonl").unlink()
    assert (
        main([str(tmp_path), "--sort", "db2", "--columns", "run", "best/db2", "train/entropy", "channels", "--csv"])
        == 0
    )
    assert capsys.readouterr().out == (
        "run,best/db2,train/entropy,channels\na,25,0.5,64\nb,35,0.5,64\nc,,,64\n"  # c has no score: last
    )
    assert main([str(tmp_path), "--sort=-db2", "--markdown", "--columns", "run", "db2"]) == 0
    assert capsys.readouterr().out == "| run | db2 |\n| --- | ---: |\n| b | 30 |\n| a | 20 |\n| c |  |\n"
    assert main([str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["run"], row["scores"].get("db2")) for row in rows] == [("a", 20), ("b", 30), ("c", None)]


def test_curves_of_several_runs(tmp_path, capsys):
    make_run(tmp_path / "exp" / "a")
    make_run(tmp_path / "exp" / "b", db2=())
    words = [str(tmp_path / "exp"), "--plots", str(tmp_path / "plots"), "--curves", "valid/db2", "valid/nothing"]
    assert main(words) == 0
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["valid_db2.png"]
    assert cli(main, [*words[:-2], "db2"]) == 1
    assert "such as valid/db2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["empty"], "no run in empty"),
        (["exp", "--columns", "db3"], "no run has a column 'db3', did you mean 'db2'?"),
        (["exp", "--sort", "learning_rat"], "no run has a column 'learning_rat'"),
    ],
)
def test_what_a_user_can_get_wrong(tmp_path, monkeypatch, capsys, words, message):
    make_run(tmp_path / "exp" / "a")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli(main, words) == 1
    assert message in capsys.readouterr().err


def test_sorting_keeps_what_has_no_value(tmp_path):
    runs = [read_run(make_run(tmp_path / name, db2=db2)) for name, db2 in (("a", ()), ("b", (2.0,)), ("c", (1.0,)))]
    assert [run.path.name for run in sort_runs(runs, "db2")] == ["c", "b", "a"]
    assert [run.path.name for run in sort_runs(runs, "-run")] == ["c", "b", "a"]
    assert table(runs, ["run", "db2"])[1] == [["a", ""], ["b", "2"], ["c", "1"]]


def test_tables():
    rows = [["a|b", "1.5"], ["c", "-20"]]
    assert text_table(["x", "value"], rows) == "x    value\na|b    1.5\nc      -20\n"
    assert markdown_table(["x", "y"], rows) == "| x | y |\n| --- | ---: |\n| a\\|b | 1.5 |\n| c | -20 |\n"
    assert csv_table(["x", "y"], [["a,b", "1"]]) == 'x,y\n"a,b",1\n'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00123456, "0.001235"),
        (20_000, "20000"),
        (-1697.98, "-1698"),
        (1e12, "1e+12"),
        (True, "true"),
        (0.25, "0.25"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_the_recipe_knows_the_same_settings_as_free():
    """`training_identity` of recipes/pipeline.sh, in awk, and the rule here keep the same settings."""
    script = (Path(__file__).parents[2] / "recipes" / "pipeline.sh").read_text()
    awk = re.search(r"keep = !/\^ \+(\(.*\)):/", script)
    assert awk is not None
    keys = [key.rpartition(".")[2] for key in identity(to_dict(SpeechTrainConfig()))]
    assert "learning_rate" in keys
    assert "num_steps" not in keys
    for key in flatten(to_dict(SpeechTrainConfig())):
        last = key.rpartition(".")[2]
        assert bool(re.fullmatch(awk[1], last)) == bool(FREE.fullmatch(last)), key
