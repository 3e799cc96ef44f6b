"""Several runs on one page: grouped by seed, with the mean and spread that a person would compute."""

import json
import statistics

import pytest
from report_world import evaluation, make_run, scores
from test_report_page import Outline

from sqvae_speech.bin.main import main
from sqvae_speech.experiments.groups import group_by_seed
from sqvae_speech.experiments.runs import read_run
from sqvae_speech.reporting.comparison_page import comparison_page
from sqvae_speech.reporting.page import render

ERRORS = {"iv-seed0": 48.0, "iv-seed1": 50.0, "iv-seed2": 49.5, "i-seed0": 60.25}


@pytest.fixture
def runs(tmp_path):
    """Three seeds of one configuration, one of another."""
    paths = []
    for name, error in ERRORS.items():
        kind = {"covariance": "global"} if name.startswith("i-") else {}
        path = make_run(tmp_path / "exp" / name, seed=int(name[-1]), **kind)
        values = scores()
        values["splits"][1]["error_db2"]["pooled"] = error
        (path / "scores" / "scores.json").write_text(json.dumps(values))
        (path / "evaluation.json").write_text(json.dumps(evaluation(name)))
        paths.append(path)
    return paths


def test_runs_are_grouped_by_their_seeds(runs):
    groups = group_by_seed([read_run(path) for path in runs])
    assert [(group.name, group.seeds) for group in groups] == [("iv", [0, 1, 2]), ("i", [0])]


def test_runs_that_are_not_seeds_of_one_stay_apart(tmp_path):
    twice = [make_run(tmp_path / name, seed=3) for name in ("first", "again")]
    bare = [make_run(tmp_path / name, without=("config",)) for name in ("bare", "naked")]
    groups = group_by_seed([read_run(path) for path in [*twice, *bare]])
    assert [group.name for group in groups] == ["first", "again", "bare", "naked"]


def test_means_and_spreads(runs):
    page = Outline(render(comparison_page(runs, "mine")))
    assert "4 runs of 2 configurations." in page.texts
    errors = list(ERRORS.values())
    said = f"{statistics.fmean(errors[:3]):.2f} ± {statistics.stdev(errors[:3]):.2f}"
    assert said == "49.17 ± 1.04"
    assert said in page.texts
    assert "60.25" in page.texts
    # of the two the first is better, and marked as such
    cells = [attributes.get("class") for attributes in page.all("td")]
    assert "best" in cells
    assert "iv-seed1: codes" in page.texts, "evaluations are side by side"
    assert "reconstruction error (dB²) ↓" in page.texts
    for section in ("overview", "curves", "evaluation", "runs"):
        assert section in [one["id"] for one in page.all("section")]


def test_what_does_not_compare_is_not_compared(runs):
    path = runs[3] / "config.yaml"
    path.write_text(path.read_text().replace("/nowhere/dev", "/elsewhere/dev"))
    page = Outline(render(comparison_page(runs, "mine")))
    assert "validated on different data" in page.text
    overview = comparison_page(runs, "mine").sections[0].tables[0]
    assert all(not row.best for row in overview.rows)

    (runs[3] / "scores" / "scores.json").unlink()
    overview = comparison_page(runs, "mine").sections[0].tables[0]
    validated = overview.header.index("reconstruction error (dB²), at the last validation ↓")
    assert [bool(row.cells[validated]) for row in overview.rows] == [False, True]


def test_curves_of_a_configuration_share_a_colour(runs):
    page = comparison_page(runs, "mine")
    curves = next(section for section in page.sections if section.id == "curves")
    assert curves.keys == {"iv": 0, "i": 1}
    error = next(figure for figure in curves.figures if figure.title == "Error (dB²)")
    assert str(error.picture).count('class="line c0"') == 3
    assert str(error.picture).count('class="line c1"') == 1


def test_what_is_not_evaluated_says_how(runs):
    (runs[0] / "evaluation.json").unlink()
    page = Outline(render(comparison_page(runs, "mine")))
    command = f"sqvae-speech evaluate --model {runs[0]} --shards DIR --output {runs[0] / 'evaluation.json'}"
    assert command in page.texts


def test_the_command(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "exp"]) == 0, "a folder with runs below"
    assert capsys.readouterr().out.startswith("comparison.html (")
    assert main(["report", *map(str, runs[:2]), "--output", "two.html", "--title", "A & B"]) == 0
    assert "A & B" in Outline((tmp_path / "two.html").read_text()).texts
    assert main(["report", str(runs[0]), "--compare", "--output", "one.html"]) == 0
    assert "1 run of 1 configuration." in Outline((tmp_path / "one.html").read_text()).texts
    with pytest.raises(SystemExit, match="2"):
        main(["report", *map(str, runs), "--baselines", "x.json"])
