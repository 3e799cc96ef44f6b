"""Runs side by side: their folders, their figure, their table."""

import json
from pathlib import Path

import pytest

from sqvae_speech.errors import UserError
from sqvae_speech.training.comparison import (
    Run,
    curve,
    draw_runs,
    markdown_table,
    replace_table,
    spread,
    train_all,
)


def test_a_run_has_a_folder_of_its_own():
    run = Run("SQ-VAE I, σ² fixed at 0.1", Path("a.yaml"), seed=2)
    assert run.folder(Path("exp")) == Path("exp/sq-vae-i-σ²-fixed-at-0-1-seed2")


def test_a_run_that_fails_stops_the_rest(tmp_path, capfd):
    with pytest.raises(UserError, match=r"training .*one-seed0 failed"):
        train_all([Run("one", tmp_path / "nothing.yaml"), Run("two", tmp_path / "nothing.yaml")], tmp_path)
    printed = capfd.readouterr().err
    assert "no configuration file" in printed
    assert "two" not in printed


def test_seeds_in_a_table():
    rows = [("a", spread([1.0, 2.0, 3.0], 1), "x"), ("b", spread([0.5], 0, "%"), "y")]
    assert markdown_table(("name", "score", "z"), rows) == (
        "| name | score | z |\n| --- | ---: | ---: |\n| a | 2.0 ± 1.0 | x |\n| b | 0% | y |\n"
    )


def test_a_finished_run_has_the_step_asked_for(tmp_path):
    run = Run("one", tmp_path / "a.yaml")
    checkpoint = tmp_path / "one-seed0" / "checkpoints" / "step-00000012"
    assert run.finished(tmp_path, 12) is None
    checkpoint.mkdir(parents=True)
    assert run.finished(tmp_path, 12) == checkpoint
    assert run.finished(tmp_path, 13) is None


def test_runs_are_drawn(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = [
            {"step": step, "split": split, "mse": 2.0 * step} for step in (1, 2, 3) for split in ("train", "valid")
        ]
        rows.append({"step": 4, "split": "train", "loss": 1.0})
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert curve(tmp_path / "a", "mse", "valid") == ([1, 2, 3], [2.0, 4.0, 6.0])
    assert curve(tmp_path / "a", "mse", "train", smooth=2) == ([1, 2, 3], [2.0, 3.0, 5.0])
    draw_runs({name: tmp_path / name for name in ("a", "b")}, "mse", tmp_path / "out" / "mse.png", "MSE")
    assert (tmp_path / "out" / "mse.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_takes_the_place_of_the_last(tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text("before\n<!-- results -->\n| old |\n<!-- end of results -->\nafter\n")
    for table in ("| new |\n", "| newer |\n"):
        replace_table(path, table)
        assert path.read_text() == f"before\n<!-- results -->\n{table}<!-- end of results -->\nafter\n"
    with pytest.raises(UserError, match="has no lines '<!-- other -->'"):
        replace_table(path, "x\n", "other")
