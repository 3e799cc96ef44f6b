"""The record of a run: what it holds, that no secret gets into it, and that it never fails a run."""

import json
import logging
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import pytest
import torch

from sqvae_speech.training import environment, record
from sqvae_speech.training.record import RunRecord, is_alive, read_config, read_starts, read_status

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Section:
    num_steps: int = 10
    rates: tuple[float, ...] = (0.5,)


@dataclass(frozen=True)
class Config:
    data: str = "dump/train"
    training: Section = field(default_factory=Section)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pa55@host/x.tar", "https://***@host/x.tar"),
        ("https://host/x?token=abc&part=2", "https://host/x?token=***&part=2"),
        ("--api-key=abc", "--api-key=***"),
        (
            "pipe:curl -H 'Authorization: Bearer abc.def' https://host",
            "pipe:curl -H 'Authorization: ***' https://host",
        ),
        ("curl -H 'PRIVATE-TOKEN: abc'", "curl -H 'PRIVATE-TOKEN: ***'"),
        ("--training.num_steps=20", "--training.num_steps=20"),
        ("dump/tokenizer=1", "dump/tokenizer=1"),
    ],
)
def test_secrets_are_replaced(text, expected):
    assert environment.redact(text) == expected


def test_the_command_line_has_no_secret():
    words = ["python", "-m", "x", "--hub-token", "abc", "--data.train", "http://a:b@c/d"]
    assert environment.command_line(words) == [
        "python",
        "-m",
        "x",
        "--hub-token",
        "***",
        "--data.train",
        "http://***@c/d",
    ]


def test_only_variables_that_matter_are_recorded():
    found = environment.variables(
        {"OMP_NUM_THREADS": "2", "HF_TOKEN": "x", "CUDA_VISIBLE_DEVICES": "0", "HOME": "/a", "TORCH_API_KEY": "x"}
    )
    assert found == {"CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "2"}


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *identity, "-C", str(folder), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    (folder / "a.py").write_text("one\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_git_state_of_a_clean_and_a_dirty_checkout(checkout):
    clean = environment.git_state(checkout)
    assert clean.facts == {
        "commit": git(checkout, "rev-parse", "HEAD"),
        "branch": "trunk",
        "dirty": False,
        "untracked": [],
    }
    assert clean.diff == ""
    (checkout / "a.py").write_text("two\n")
    (checkout / "b.py").write_text("new\n")
    dirty = environment.git_state(checkout)
    assert dirty.facts["dirty"] is True
    assert dirty.facts["untracked"] == ["b.py"]
    assert "-one\n+two\n" in dirty.diff


def test_where_there_is_no_checkout_or_no_git_it_is_said(tmp_path, checkout, monkeypatch):
    assert "not a git repository" in environment.git_state(tmp_path).facts["none"]
    (checkout / "site-packages").mkdir()  # an environment inside somebody's checkout
    assert "not under version control" in environment.git_state(checkout / "site-packages").facts["none"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.git_state(checkout).facts == {"none": "git is not installed"}


def test_starts_and_what_changed_between_them(tmp_path):
    time = [1000.0]
    first = RunRecord(tmp_path, lambda: time[0])
    first.start(Config(), step=0, processes=2, device=CPU)
    time[0] += 60
    first.update("interrupted", 4, now=True)
    second = RunRecord(tmp_path, lambda: time[0] + 3600)
    second.start(Config(training=Section(num_steps=20)), step=4, processes=1, device=CPU)
    starts = read_starts(tmp_path)
    assert [(start["step"], start["processes"], start["device"]) for start in starts] == [
        (0, 2, "cpu"),
        (4, 1, "cpu"),
    ]
    assert starts[0]["time"] == "1970-01-01T00:16:40Z"
    assert [start["changed"] for start in starts] == [{}, {"training.num_steps": [10, 20]}]
    assert read_config(tmp_path) == {"data": "dump/train", "training": {"num_steps": 20, "rates": [0.5]}}
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["torch"]["version"] == torch.__version__
    assert facts["packages"]["numpy"] == numpy.__version__
    assert facts["torch"]["threads"] == torch.get_num_threads()
    assert {"commit", "none"} & facts["git"].keys()
    status = read_status(tmp_path)
    assert (status["state"], status["step"], status["seconds"]) == ("running", 4, 60.0)  # an hour's pause is no work


def test_the_status_is_renewed_now_and_then(tmp_path):
    time = [0.0]
    run = RunRecord(tmp_path, lambda: time[0])
    run.update("running", 1)
    time[0] += 10
    run.update("running", 2)
    assert read_status(tmp_path)["step"] == 1
    time[0] += 25
    run.update("running", 3)
    assert read_status(tmp_path)["step"] == 3


def test_nothing_that_goes_wrong_fails_a_run(tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(record, "write_text", fail)
    with caplog.at_level(logging.WARNING):
        RunRecord(tmp_path).start(Config(), step=0, processes=1, device=CPU)
    assert [message.count("No space left on device") for message in caplog.messages] == [1, 1]


def test_damaged_files_are_read_as_nothing(tmp_path):
    (tmp_path / "status.json").write_text('{"state": "runn')
    (tmp_path / "config.yaml").write_text("a: [")
    (tmp_path / "starts.jsonl").write_bytes(b'{"step": 3}\n[1]\n{"st')
    assert read_status(tmp_path) == {}
    assert read_config(tmp_path) == {}
    assert read_starts(tmp_path) == [{"step": 3}]
    assert read_status(tmp_path / "nowhere") == {}


def test_whether_a_run_lives(tmp_path):
    run = RunRecord(tmp_path)
    run.update("running", 1, now=True)
    assert is_alive(read_status(tmp_path))
    child = subprocess.Popen(["true"])
    child.wait()
    assert not is_alive({**read_status(tmp_path), "pid": child.pid})
    elsewhere = {"host": "elsewhere", "pid": os.getpid(), "time": "2026-01-01T00:00:00Z"}
    at = 1767225600
    assert is_alive(elsewhere, now=at + 60)
    assert not is_alive(elsewhere, now=at + 3600)
    assert not is_alive({})
