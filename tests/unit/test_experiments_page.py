"""Pages filled in with the results of sweeps."""

import json
from pathlib import Path

import pytest

from sqvae_speech.bin._cli import run as cli
from sqvae_speech.bin.sweep import main
from sqvae_speech.errors import UserError
from sqvae_speech.experiments.page import fill, table


def row(group: str, step: int, **values: list[float]) -> dict:
    mean = {name: sum(each) / len(each) for name, each in values.items()}
    std = {name: 0.5 if len(each) > 1 else None for name, each in values.items()}
    return {"group": group, "settings": {}, "step": step, "values": values, "mean": mean, "std": std}


RESULTS = {
    "columns": {"ABX": "codes.abx:.1%", "error (dB²)": "valid/db2"},
    "results": [row("log-mel", 0, ABX=[0.2]), row("ours", 10, ABX=[0.3]), row("ours", 20, ABX=[0.15])],
    "trials": [],
}
SEEDS = {"columns": {}, "results": [row("a", 5, loss=[1.0, 2.0]), row("b", 5, loss=[4.0])], "trials": []}


def test_places_are_filled_in_and_the_rest_is_left_alone():
    template = (
        "# {{fact title}}\n{{table mini}}\n\nOurs: {{value mini | ours | ABX}}, "
        "{{change mini | ours | ABX | log-mel}}. `{x}` {{ }}\n"
    )
    assert fill(template, {"mini": RESULTS}, {"title": "Results"}) == (
        "# Results\n| run | ABX | error (dB²) |\n| --- | ---: | --- |\n| log-mel | 20.0% |  |\n| ours | 30.0% |  |\n"
        "| ours | 15.0% |  |\n\nOurs: 15.0%, -25%. `{x}` {{ }}\n"
    )


def test_several_seeds():
    assert table(SEEDS) == ("| run | loss | seeds |\n| --- | ---: | ---: |\n| a | 1.5 ± 0.5 | 2 |\n| b | 4 | 1 |")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("{{tabel mini}}", "no kind 'tabel', did you mean 'table'"),
        ("{{table minni}}", "there is no 'minni', did you mean 'mini'"),
        ("{{value mini | our | ABX}}", "there is no 'our', did you mean 'ours'"),
        ("{{value mini | ours | ABC}}", "there is no 'ABC', did you mean 'ABX'"),
        ("{{value mini | ours}}", "value takes 3 words"),
        ("{{change mini | ours | error (dB²) | log-mel}}", "do not both have the column"),
        ("{{fact hours}}", "there is no 'hours'"),
    ],
)
def test_places_that_name_what_there_is_not(place, message):
    with pytest.raises(UserError, match=message):
        fill(f"text {place}", {"mini": RESULTS}, {"minutes": "3"})


def test_command(tmp_path: Path, capsys):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "results.json").write_text(json.dumps(RESULTS))
    template, page = tmp_path / "template.md", tmp_path / "page.md"
    template.write_text("{{value mini | ours | ABX}} in {{fact minutes}} minutes\n")
    words = ["page", str(template), "--output", str(page), "--facts", "minutes=3", "--results"]
    assert main([*words, f"mini={tmp_path / 'sweep'}"]) == 0
    assert page.read_text() == "15.0% in 3 minutes\n"
    assert main([*words, f"mini={tmp_path / 'sweep' / 'results.json'}"]) == 0
    (tmp_path / "other.json").write_text("{}")
    assert cli(main, [*words, f"mini={tmp_path / 'other.json'}"]) == 1
    assert "is not the results.json of a sweep" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        main([*words, "mini"])
    assert refused.value.code == 2
