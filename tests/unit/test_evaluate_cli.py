"""`sqvae-speech evaluate`, from shards and a data directory to files."""

import json
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from units_world import make_world

from sqvae_speech.bin.main import main
from sqvae_speech.data.kaldi import DataDir, Interval
from sqvae_speech.data.shards import write_shards
from sqvae_speech.evaluation import optional
from sqvae_speech.evaluation.items import COLUMNS

with_abx = pytest.mark.skipif(sys.version_info < (3, 12), reason="fastabx needs Python 3.12")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """With an alignment: phones of 30 ms that go round."""
    world = make_world(tmp_path_factory.mktemp("evaluate"))
    data = DataDir.read(world.root / "data" / "test")
    for utterance in data:
        edges = np.arange(0, utterance.duration, 0.03).round(6).tolist()
        ali = tuple(Interval(a, b, "xyz"[n % 3]) for n, (a, b) in enumerate(pairwise(edges)))
        object.__setattr__(utterance, "ali", ali)
        object.__setattr__(utterance, "text", utterance.utterance_id[-1])
    data.write(world.root / "aligned")
    world.args = ["--shards", str(world.shards), "--data", str(world.root / "aligned"), "--quiet"]
    world.model = ["--model", str(world.model)]
    return world


@with_abx
def test_everything_of_a_model(world, tmp_path, capsys):
    output = tmp_path / "out" / "evaluation.json"
    options = [
        *world.model,
        *world.args,
        "--name",
        "mine",
        "--output",
        str(output),
        "--plots",
        str(tmp_path / "plots"),
    ]
    assert main(["evaluate", *options]) == 0
    values = json.loads(output.read_text())
    assert set(values["representations"]) == {"latents", "quantized", "codes", "posterior"}
    for scores in values["representations"].values():
        assert set(scores["abx"]) == {"phone", "triphone", "word"}
        assert 0 <= scores["abx"]["phone"]["across_any"]["error"] <= 1
        assert scores["probes"]["phone"]["examples"] > 30
    # the same codes, so the same bitrate, by vectors and by indices
    assert values["representations"]["codes"]["bitrate"] == pytest.approx(values["units"]["bitrate"])
    assert values["representations"]["quantized"]["bitrate"] == pytest.approx(values["units"]["bitrate"])
    assert 0 < values["units"]["unit_phone"]["pnmi"] <= 1
    assert values["units"]["boundaries"]["true"] > 20
    assert values["error_db2"] > 0
    assert (tmp_path / "plots" / "evaluation_unit_phone.png").is_file()
    text = output.with_suffix(".md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert text.count("| mine |") == 4 + 1

    assert main(["evaluate", *options]) == 0
    assert json.loads(output.read_text()) == values


@with_abx
def test_baselines_and_a_table_of_all(world, tmp_path, capsys):
    files = []
    train = ["--train-shards", str(world.shards)]
    for name, options in {
        "mel": ["--features", "mel", "--stack", "2"],
        "kmeans": ["--features", "kmeans-mel", "--clusters", "6", *train],
        "kmeans2": ["--features", "kmeans-latents", "--clusters", "6", *world.model, *train],
    }.items():
        files.append(str(tmp_path / f"{name}.json"))
        code = main(["evaluate", *world.args, *options, "--output", files[-1]])
        if name == "mel":
            assert code == 0
        else:  # probes would be tested on what they are trained on
            assert code == 1
            assert "to be trained on and tested on" in capsys.readouterr().err
    values = json.loads((tmp_path / "mel.json").read_text())
    assert (values["units"], values["error_db2"]) == (None, None)
    assert list(values["representations"]) == ["mel"]
    capsys.readouterr()
    assert main(["evaluate", "table", files[0], files[0], "--output", str(tmp_path / "all.md")]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "all.md").read_text().strip()
    assert printed.count("| log-mel, 2 stacked |") == 2
    assert "## Units" not in printed
    (tmp_path / "other.json").write_text("[]")
    assert main(["evaluate", "table", str(tmp_path / "other.json")]) == 1


def test_kmeans_without_abx(world, tmp_path, monkeypatch):
    """Also on a Python without fastabx; here the set to train on has the same recordings under other names."""
    data = DataDir.read(world.root / "aligned")
    renamed = [replace(u, utterance_id=f"{u.utterance_id}x", recording=None, text=None) for u in data]
    DataDir(renamed).write(tmp_path / "train")
    write_shards(tmp_path / "train", tmp_path / "dump", world.bundle.mel_spec, progress=False)
    monkeypatch.setitem(sys.modules, "fastabx", None)
    output = tmp_path / "kmeans.json"
    options = [*world.args, "--features", "kmeans-latents", *world.model, "--clusters", "6"]
    options += ["--train-shards", str(tmp_path / "dump"), "--output", str(output)]
    assert main(["evaluate", *options, "--no-abx"]) == 0
    values = json.loads(output.read_text())
    assert values["units"]["codebook_size"] == 6
    assert values["representations"]["codes"]["abx"] is None
    assert values["representations"]["codes"]["probes"]["speaker"]["folds"] == 1
    assert values["source"]["features"] == "kmeans-latents"


def test_missing_fastabx_is_said_with_the_remedy(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastabx", None)
    options = ["evaluate", *world.model, *world.args, "--output", str(tmp_path / "x.json")]
    for version, remedy in (
        ((3, 11), "needs Python 3.12 or newer, and this is 3.11"),
        ((3, 13), "sqvae_speech[abx]"),
    ):
        monkeypatch.setattr(optional.sys, "version_info", version)
        assert main(options) == 1
        message = capsys.readouterr().err
        assert remedy in message
        assert "--no-abx" in message
    assert list(tmp_path.iterdir()) == []


@with_abx
def test_item_file(world, tmp_path, capsys):
    lines = [
        f"{u.utterance_id} {p.onset} {p.offset} {p.label} a b {u.speaker}"
        for u in DataDir.read(world.root / "aligned")
        for p in u.ali
    ]
    (tmp_path / "x.item").write_text("\n".join([COLUMNS, *lines]) + "\n")
    options = [*world.model, "--shards", str(world.shards), "--quiet", "--item", str(tmp_path / "x.item")]
    options += ["--representations", "codes", "--output", str(tmp_path / "x.json")]
    assert main(["evaluate", *options]) == 0
    values = json.loads((tmp_path / "x.json").read_text())
    assert set(values["representations"]["codes"]["abx"]) == {"item"}
    assert set(values["representations"]["codes"]["abx"]["item"]) == {"within_within", "across_within"}
    assert values["units"]["unit_phone"] is None  # the shards have no alignment
    assert main(["evaluate", *options, "--any-context"]) == 0
    assert len(json.loads((tmp_path / "x.json").read_text())["representations"]["codes"]["abx"]["item"]) == 4


def test_features_and_codebook(world, tmp_path, capsys):
    features = ["evaluate", "features", *world.model, *world.args, "--output", str(tmp_path / "f")]
    assert main([*features, "--representation", "codes", "--form", "zs2019"]) == 0
    assert "6 files, 32 numbers a frame" in capsys.readouterr().out
    assert main([*features[:-1], str(tmp_path / "g"), "--form", "npy"]) == 0
    assert np.load(tmp_path / "g" / "ann-1.npy").shape == (31, 6)
    assert "50 Hz (--feature_size 0.02)" in capsys.readouterr().out
    assert (
        main(["evaluate", "codebook", *world.model, *world.args, "--output", str(tmp_path / "c"), "--most-used", "1"])
        == 0
    )
    assert "of 32 codes used" in capsys.readouterr().out
    assert (tmp_path / "c" / "codebook.json").is_file()


def test_mistakes(world, tmp_path, capsys):
    out = ["--output", str(tmp_path / "x"), "--no-abx"]
    for options, message in (
        ([*world.args, *out], "needs --model"),
        ([*world.args, *out, "--features", "kmean-mel"], "did you mean 'kmeans-mel'"),
        ([*world.args, *out, "--features", "kmeans-mel"], "needs --train-shards"),
        ([*world.args, *out, "--features", "mel", "--train-data", "x"], "--train-data without --train-shards"),
        ([*world.args, *out, *world.model, "--representations", "mel"], "no representation 'mel'"),
    ):
        assert main(["evaluate", *options]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", *world.args, *out, "--any-context"])
    with pytest.raises(SystemExit):
        main(["evaluate", "codebook", *world.args, "--output", "x", "--features", "mel"])
