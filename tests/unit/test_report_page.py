"""The page of a run: what is in it, what it says of what is missing, and that nothing in it is taken for HTML."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_world import PARTS, codebook, evaluation, make_run

from sqvae_speech.bin.main import main
from sqvae_speech.reporting.key_figures import telling_abx
from sqvae_speech.reporting.page import render
from sqvae_speech.reporting.run_folder import quantizer_name, read_run_folder
from sqvae_speech.reporting.run_page import run_page
from sqvae_speech.reporting.tables import different_sets, representation_table, voice_table

VOID = {"meta", "link", "img", "br", "hr"}


class Outline(HTMLParser):
    """Tags, attributes and texts of a page; complains of tags that are not closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script") and data.strip():
            self.texts.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def outline(folder: Path, baselines=()) -> Outline:
    return Outline(render(run_page(read_run_folder(folder), baselines)))


def test_a_whole_run(tmp_path):
    folder = make_run(tmp_path / "my-run")
    page = outline(folder, [evaluation("log-mel", ("mel",), shift=0.05)])
    sections = [section["id"] for section in page.all("section")]
    assert sections == ["listen", "scores", "training", "codebook", "run"]
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in sections]
    for said in (
        "my-run",
        "finished",
        "SQ-VAE IV with 8 codes, 50 units a second, at most 150 bit/s, sqvae16k log-mels of 16 kHz, 2 speakers, "
        "200 steps.",
        "49.25",  # dB² of the test split
        "15.0",  # ABX of codes across speakers
        "0.430",  # PNMI
        "of 8 codes",
        "Error (dB²)",
        "Units and phones",
        "Map of the codebook",
        "The codes used most",
        "0 · a",
        "converted to bob",
        f"{'c0ffee' * 6}, with changes (git-12345678.diff)",
        "python -m sqvae_speech.bin.train --config 'a file.yaml'",
        "All other metrics",
    ):
        assert said in page.texts or said in page.text, said
    assert len(page.all("audio")) == 2
    assert not [one for one in page.all("div") if one.get("class") == "missing"]
    assert "log-mel: mel" in page.texts, "a peer has its column"


def test_a_page_is_whole_and_can_be_read_by_everybody(tmp_path):
    html = render(run_page(read_run_folder(make_run(tmp_path / "run")), [evaluation("log-mel", ("mel",))]))
    page = Outline(html)
    assert len(html) < 200_000
    addresses = [
        attributes.get(name) for _, attributes in page.tags for name in ("src", "href") if name in attributes
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses), "nothing comes from elsewhere"
    assert not re.search(r"@import|url\(", html)
    assert page.all("script") == []
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.all("meta"))
    assert page.all("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in page.all("img"))
    assert all(sound["aria-label"] and "controls" in sound for sound in page.all("audio"))
    assert len(page.all("svg")) > 8
    assert html.count('role="img"><title>') == len(page.all("svg"))
    assert all("scope" in cell for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("part", "section", "said"),
    [
        ("wav", "listen", "sqvae-speech convert --model {run} --shards DIR --all-pairs --max 12 --output {run}/wav"),
        ("scores", "scores", "sqvae-speech score --model {run} --shards DIR --output {run}/scores/scores.json"),
        ("evaluation", "scores", "sqvae-speech evaluate --model {run} --shards DIR --output {run}/evaluation.json"),
        ("codebook", "codebook", "sqvae-speech evaluate codebook --model {run} --shards DIR --output {run}/codebook"),
        ("metrics", "training", "No metrics yet: training writes metrics.jsonl into the folder of the run."),
        ("record", "run", "No environment.json: this run was made by a version that did not write one yet."),
        ("config", "run", None),
        ("checkpoint", "run", None),
    ],
)
def test_what_is_missing_says_how_it_is_made(tmp_path, part, section, said):
    folder = make_run(tmp_path / "run", without=(part,))
    page = outline(folder)
    assert section in [one["id"] for one in page.all("section")]
    whole = outline(make_run(tmp_path / "whole"))
    if said is not None:
        assert said.format(run=folder) in page.texts
        assert said.format(run=tmp_path / "whole") not in whole.texts
    assert page.text != whole.text.replace("whole", "run")


def test_nearly_nothing_is_enough(tmp_path):
    page = outline(make_run(tmp_path / "run", without=tuple(part for part in PARTS if part != "metrics")))
    assert page.texts.count("Scores") == 2, "in the list of sections, and above its own"
    assert "Error (dB²)" in page.texts


@pytest.mark.parametrize(
    "name", ["config.yaml", "status.json", "environment.json", "metrics.jsonl", "starts.jsonl", "scores/scores.json",
             "evaluation.json", "codebook/codebook.json", "wav/log.jsonl", "wav/ann-1-to-bob.wav",
             "codebook/wav/code-0.wav", "checkpoints/latest", "checkpoints/step-00000200/config.json"],
)  # fmt: skip
@pytest.mark.parametrize(
    "text", ["", "[1, 2", "[]", "{}", '{"splits": [1], "codes": [{}], "representations": {"a": 1}}', "\x00\xff"]
)
def test_damaged_files_do_not_fail_a_report(tmp_path, name, text):
    folder = make_run(tmp_path / "run")
    (folder / name).write_text(text, encoding="latin-1")
    assert [section["id"] for section in outline(folder).all("section")][-1] == "run"


def test_nothing_is_taken_for_html(tmp_path):
    nasty = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"
    folder = make_run(tmp_path / "<b>run<i onclick=x>")
    for name in ("evaluation.json", "scores/scores.json", "environment.json", "status.json", "starts.jsonl"):
        path = folder / name
        values = json.loads(path.read_text())
        for key, value in values.items():
            if isinstance(value, str):
                values[key] = nasty
        path.write_text(json.dumps(values))
    (folder / "codebook" / "codebook.json").write_text(json.dumps(codebook((nasty, "b", "c"))))
    line = {"utterance_id": nasty, "target_speaker": nasty, "wav": "ann-1-to-bob.wav"}
    (folder / "wav" / "log.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "split": nasty, nasty: 1.0}) + "\n")
    for task in ("speech", nasty):
        config = {"task": task, "model": {nasty: nasty, "quantizer": {"kind": nasty}}, "data": {"train": nasty}}
        (folder / "config.yaml").write_text(json.dumps(config))
        page = outline(folder, [evaluation(nasty)])
        assert page.all("script") == page.all("i") == []
        assert {image["src"].partition(":")[0] for image in page.all("img")} <= {"data"}
        assert {name for _, attributes in page.tags for name in attributes if name.startswith("on")} == set()
        assert nasty in page.text


def test_a_log_cannot_name_files_elsewhere(tmp_path):
    folder = make_run(tmp_path / "run")
    (tmp_path / "secret.wav").write_bytes((folder / "wav" / "ann-1-to-bob.wav").read_bytes())
    line = {"utterance_id": "x", "target_speaker": "y", "wav": "../../secret.wav"}
    (folder / "wav" / "log.jsonl").write_text(json.dumps(line) + "\n")
    assert len(outline(folder).all("audio")) == 1, "only that of the code"


def test_the_best_of_a_row():
    own, other = evaluation("own"), evaluation("other", ("mel",), shift=-0.05)
    table = representation_table([own, other])
    assert table.header == ("own: latents", "own: codes", "other: mel")
    assert table.own == {0, 1}
    rows = {(row.group, row.name): row for row in table.rows}
    across = rows["ABX phone, error in % (triplets, where few)", "across speakers, same context"]
    assert across.cells == ("12.00", "15.00", "7.00")
    assert across.best == {2}, "the least error"
    probes = "Linear probes, accuracy in % (of the most frequent label)"
    assert rows[probes, "phone"].best == {2}, "the highest accuracy"
    assert rows[probes, "speaker"].best == set(), "neither is better"
    assert rows["", "bit/s"].best == set()


def test_a_large_codebook_stays_a_small_page(tmp_path):
    folder = make_run(tmp_path / "run")
    values = codebook()
    values["codes"] = [{**values["codes"][n % 8], "code": n, "neighbours": [0]} for n in range(10_000)]
    (folder / "codebook" / "codebook.json").write_text(json.dumps(values))
    html = render(run_page(read_run_folder(folder)))
    assert "Of each, 2,000 are drawn." in html
    assert len(html) < 1_200_000


def test_voices():
    groups = {"converted": {"recordings": 12, "in_voice": 0.75, "similarity": 0.5, "words_recognised": None}}
    truth = {"pairs": 4, "factor": 1.5, "converted": {"mcd": 6.25, "cents": 120.0, "voicing_error": None}}
    folder = {"groups": groups, "truth": truth, "copies": None}
    table = voice_table({"folders": {"wav": folder}})
    assert table.header == ("wav, converted", "wav, against the target")
    rows = {row.name: row.cells for row in table.rows}
    assert rows["recordings"] == ("12", "")
    assert rows["in the right voice"] == ("75.0%", "")
    assert rows["MCD (dB)"] == ("", "6.25")
    assert rows["MCD of the source over it"] == ("", "1.50")
    assert "words recognised" not in rows, "nothing has one"


def test_the_abx_to_show():
    few = evaluation("few")["representations"]["codes"]["abx"]
    assert telling_abx([few]) == ("phone", "within")
    few["phone"]["across_any"] = {"error": 0.2, "triplets": 2000}
    assert telling_abx([few]) == ("phone", "within"), "the same context says more"
    few["phone"]["across_within"]["triplets"] = 170
    assert telling_abx([few]) == ("phone", "any"), "but not by a handful of triplets"
    few["phone"]["across_any"]["triplets"] = 3
    assert telling_abx([few]) == ("phone", "within")
    assert telling_abx([few, {}]) is None, "all have to have it"
    assert telling_abx([]) is None


def test_sets_that_do_not_compare():
    own, same, other = evaluation("own"), evaluation("same"), evaluation("other")
    same["shards"] = ["somewhere/else/test"]
    other["utterances"] = 22
    assert different_sets([own, same, other]) == ["other"]


@pytest.mark.parametrize(
    ("quantizer", "name"),
    [
        ({"kind": "gaussian", "covariance": "global"}, "SQ-VAE I"),
        ({"kind": "gaussian", "covariance": "position", "num_quantizers": 4}, "SQ-VAE III, 4 residual stages"),
        ({"kind": "vmf"}, "SQ-VAE vMF"),
        ({"kind": "lattice"}, "lattice"),
        ({"kind": "vq", "codebook_update": "ema"}, "VQ-VAE (EMA)"),
        ({"kind": "vq", "codebook_update": "gradient", "num_groups": 2}, "VQ-VAE (gradient), 2 groups"),
    ],
)
def test_names_of_quantizers(quantizer, name):
    assert quantizer_name(quantizer) == name


def test_the_command(tmp_path, capsys):
    folder = make_run(tmp_path / "run")
    peer = tmp_path / "peer.json"
    peer.write_text(json.dumps(evaluation("peer", ("mel",))))
    assert main(["report", str(folder), "--baselines", str(peer)]) == 0
    assert capsys.readouterr().out.startswith(f"{folder / 'report.html'} (")
    assert "peer: mel" in Outline((folder / "report.html").read_text()).texts
    assert main(["report", str(folder), "--output", str(tmp_path / "new" / "page.html"), "--examples", "0"]) == 0
    assert (tmp_path / "new" / "page.html").is_file()

    assert main(["report", str(folder), "--baselines", str(folder / "status.json")]) == 1
    assert "is not of `sqvae-speech evaluate`" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(folder), "--examples", "-1"])


def test_runs_of_other_tasks(tmp_path):
    folder = make_run(tmp_path / "run", without=("evaluation", "codebook", "wav", "scores"))
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("task: speech", "task: unit_lm"))
    values = {"split": "test", "scores": {"uniform": {"bits_per_unit": 3.0}, "transformer": {"bits_per_unit": 2.25}}}
    (folder / "scores.json").write_text(json.dumps({"splits": [values]}))
    page = outline(folder)
    assert [section["id"] for section in page.all("section")] == ["scores", "training", "run"]
    assert "2.250" in page.texts

    (folder / "config.yaml").write_text(config.replace("task: speech", "task: image"))
    assert any("sqvae-speech score" in text and "--plots" in text for text in outline(folder).texts)
    from sqvae_speech.plots import plot_curves

    for name in ("samples", "losses"):
        plot_curves(folder / "plots" / f"{name}.png", {"a": ([1, 2], [1, 2])})
    page = outline(folder)
    assert "plots/samples" in page.texts
    assert "plots/losses" not in page.texts, "curves are drawn from the metrics"
    assert len(page.all("img")) == 1
