"""Whatever is wrong with units: one message, exit code 1, and nothing half-written."""

import numpy as np
import pytest

from sqvae_speech.bin.main import main
from sqvae_speech.units import store as store_module
from sqvae_speech.units.forms.table import FORMS, file_of
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import read_units, write_units

META = UnitStoreMeta(codebook_size=50, frame_rate=50.0)


def units(count: int, length: int = 40):
    rng = np.random.default_rng(0)
    return (UtteranceUnits(f"u{n:04d}", rng.integers(0, 50, (1, length))) for n in range(count))


def refused(argv, capsys, message: str) -> None:
    assert main(["units", *map(str, argv)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_damaged_stores(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(store_module, "_ROWS_PER_GROUP", 10)
    path = tmp_path / "a.parquet"
    write_units(path, units(40), META)
    whole = path.read_bytes()
    target = tmp_path / "out" / "a.km"
    for name, content in {
        "cut": whole[:-100],
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"hello",
        # a bit that flips in the midst of the codes would otherwise be another unit
        "flipped": whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
    }.items():
        damaged = tmp_path / f"{name}.parquet"
        damaged.write_bytes(content)
        refused(["convert", damaged, target], capsys, f"{damaged}: not a readable Parquet file")
    assert not target.parent.exists() or list(target.parent.iterdir()) == []


def test_a_store_without_utterances(tmp_path, capsys):
    write_units(tmp_path / "a.parquet", [], META)
    assert len(read_units(tmp_path / "a.parquet")) == 0
    before = set(tmp_path.iterdir())
    for name in FORMS:
        if FORMS[name].runs is not True:
            argv = ["convert", tmp_path / "a.parquet", file_of(tmp_path / "x", name), "--to", name]
            refused(argv, capsys, "no utterances; there is nothing to write")
    refused(["convert", tmp_path / "a.parquet", tmp_path / "b.parquet"], capsys, "no utterances")
    refused(["stats", tmp_path / "a.parquet"], capsys, "no units in 0 utterances")
    assert set(tmp_path.iterdir()) == before


def test_utterances_without_units_are_written(tmp_path):
    write_units(tmp_path / "a.parquet", [UtteranceUnits("a", np.zeros((1, 0), int))], META)
    assert main(["units", "convert", str(tmp_path / "a.parquet"), str(tmp_path / "a.gslm")]) == 0
    assert (tmp_path / "a.gslm").read_text() == "a|\n"


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.runs is not True])
def test_a_failure_midway_leaves_nothing(name, tmp_path, capsys):
    """The last line of the input is bad; by then most of the output has been written."""
    lines = [f"u{n}|1 2 2" for n in range(50)] + ["bad|1 50"]
    source = tmp_path / "in" / "a.gslm"
    source.parent.mkdir()
    source.write_text("\n".join(lines) + "\n")
    argv = ["convert", source, file_of(tmp_path / "x", name), "--to", name, "--codebook-size", "50"]
    refused([*argv, "--frame-rate", "50"], capsys, "a.gslm:51: bad: code 50 is outside a codebook of 50")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_companions_of_units_that_stay_are_not_removed(tmp_path, capsys):
    row = UtteranceUnits("a", np.array([[1, 2]]), durations=np.array([1, 2]))
    write_units(tmp_path / "a.parquet", [row], UnitStoreMeta(4, deduplicated=True))
    write_units(tmp_path / "b.parquet", [UtteranceUnits("a", np.array([[1]]))], UnitStoreMeta(5))
    for name in ("a", "other"):
        assert main(["units", "convert", str(tmp_path / "a.parquet"), str(tmp_path / "out" / f"{name}.units")]) == 0
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    refused(["convert", tmp_path / "b.parquet", tmp_path / "out" / "a.units"], capsys, "serves other.units")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_what_was_there_stays_when_writing_fails(tmp_path, capsys):
    good, bad = tmp_path / "good.gslm", tmp_path / "bad.gslm"
    good.write_text("a|1 2\nb|2 2\n")
    bad.write_text("a|1 1\nb|x\n")
    target = tmp_path / "out" / "t.km"
    assert main(["units", "convert", str(good), str(target), "--codebook-size", "4"]) == 0
    before = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    capsys.readouterr()
    refused(["convert", bad, target, "--codebook-size", "3"], capsys, "bad.gslm:2: 'x' is not a code")
    assert {path.name: path.read_bytes() for path in target.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["convert", "a.parquet", "b.xyz"], "the suffix '.xyz' names no unit format"),
        (["convert", "a.parquet", "b", "--to", "gsml"], "unknown unit format 'gsml', did you mean 'gslm'?"),
        (["stats", "a.parquet", "--from", "kmm"], "unknown unit format 'kmm', did you mean 'km'?"),
        (["stats", "a.parquet", "--frame-rate", "25"], "--frame-rate 25 given, but the units are at 50 Hz"),
        (["stats", "a.parquet", "--codebook-size", "51"], "has a codebook_size of 50, not 51"),
        (["stats", "a.gslm", "--codebook-size", "0"], "codebook size 0; legal: 1 to"),
        (["stats", "a.gslm", "--codebook-size", "4", "--frame-rate", "0"], "frame rate 0"),
        (["stats", "a.gslm"], "nothing says how large the codebook is"),
        (["convert", "a.gslm", "a.gslm", "--codebook-size", "4"], "a.gslm is also the input"),
        (
            ["convert", "a.gslm", "b.km", "--codebook-size", "4", "--expand", "--already-deduplicated"],
            "cannot be expanded",
        ),
        (["convert", "a.gslm", "b.km", "--codebook-size", "4", "--codebook", "1"], "no codebook 1; legal: 0 to 0"),
        (["convert", "a.gslm", "b.km", "--codebook-size", "4", "--num-codebooks", "2"], "the form holds one"),
        (["convert", "a.parquet", "b.km", "--data-dir", "nowhere"], "nowhere does not exist"),
        (["show", "a.parquet", "--max", "-1"], "--max -1"),
        (["stats", "a.scp", "--codebook-size", "4"], "expected `utt archive.ark:123`"),
        (["stats", "b.scp", "--codebook-size", "4"], "gone.ark does not exist, and is not beside b.scp"),
        (["stats", "cut.ark", "--codebook-size", "4"], "bytes too early; the archive is truncated"),
        (["stats", "folder", "--codebook-size", "4"], "no .npy files in this folder"),
        (["stats", "folder", "--from", "km", "--codebook-size", "4"], "is a folder, and the form km is not"),
        (["stats", "dots.gslm", "--codebook-size", "4"], "'a%2Eb' comes twice"),
    ],
)
def test_one_message(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_units(tmp_path / "a.parquet", units(3), META)
    (tmp_path / "a.gslm").write_text("a|1 2\n")
    (tmp_path / "a.scp").write_text("a x.ark\n")
    (tmp_path / "b.scp").write_text("a gone.ark:2\n")
    (tmp_path / "cut.ark").write_bytes(b"a \0B\4\3\0\0\0\4\1\0\0\0")
    (tmp_path / "dots.gslm").write_text("a.b|1\na%2Eb|1\n")
    (tmp_path / "folder").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    refused(argv, capsys, message)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_ids_that_are_not_legal_do_not_get_into_a_store(tmp_path):
    for name in ("a b", "a.b", "a/b", "", "a\tb", "x" * 201):
        with pytest.raises(ValueError, match="utterance id"):
            write_units(tmp_path / "a.parquet", [UtteranceUnits(name, np.array([[1]]))], META)
    assert list(tmp_path.iterdir()) == []
