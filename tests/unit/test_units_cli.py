"""The verbs encode, units, score and convert as a user types them."""

import json

import pytest
from units_world import make_model, make_world

from sqvae_speech.bin.main import main
from sqvae_speech.units.extract import encode_shards


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("cli"))


def test_encode_then_units(world, tmp_path, capsys):
    store = str(tmp_path / "units" / "test.parquet")
    common = ["--model", str(world.model), "--shards", str(world.shards), "--device", "cpu", "--quiet"]
    assert main(["encode", *common, "--output", store, "--formats", "km,gslm,kaldi"]) == 0
    out = capsys.readouterr().out
    assert "6 utterances" in out
    kinds = {"km": ["test.ids", "dict.km.txt"], "gslm": ["code_dict"], "kaldi": ["units.txt"]}
    exports = [name for kind, more in kinds.items() for name in (f"test.{kind}", *more, f"test.{kind}.json")]
    assert out.split()[-11:] == [str(tmp_path / "units" / name) for name in ("test.parquet", *exports)]
    other = tmp_path / "other"
    assert main(["units", "convert", str(tmp_path / "units" / "test.gslm"), str(other / "test.kaldi")]) == 0
    assert (other / "test.kaldi").read_bytes() == (tmp_path / "units" / "test.kaldi").read_bytes()
    capsys.readouterr()
    plot, numbers = tmp_path / "codes.png", tmp_path / "stats.json"
    assert main(["units", "stats", store, "--output", str(numbers), "--plot", str(plot)]) == 0
    assert "bit/s" in capsys.readouterr().out
    assert json.loads(numbers.read_text())["utterances"] == 6
    assert plot.read_bytes()[1:4] == b"PNG"
    assert main(["units", "show", store, "--utterance", "bob-1"]) == 0
    shown = capsys.readouterr().out
    kaldi = dict(line.split(" ", 1) for line in (other / "test.kaldi").read_text().splitlines())
    assert kaldi["bob-1"] in shown
    assert "ann-1" not in shown

    assert main(["units", "convert", store, str(tmp_path / "d.parquet"), "--deduplicate"]) == 0
    assert main(["units", "convert", str(tmp_path / "d.parquet"), str(other / "e.kaldi"), "--expand"]) == 0
    assert (other / "e.kaldi").read_bytes() == (other / "test.kaldi").read_bytes()


def test_score(world, tmp_path, capsys):
    argv = ["score", "--model", str(world.model), "--shards", str(world.shards), "--device", "cpu", "--quiet"]
    output = tmp_path / "scores.json"
    assert main([*argv, "--output", str(output), "--target-speaker", "eve", "--plots", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| test | own speaker |" in out
    assert "| test | eve |" in out
    assert {path.name for path in tmp_path.iterdir()} == {"scores.json", "scores.md", "codes_test.png"}
    assert json.loads(output.read_text())["splits"][0]["utterances"] == 6


def test_convert(world, tmp_path, capsys):
    argv = ["convert", "--model", str(world.model), "--device", "cpu", "--quiet", "--output", str(tmp_path / "out")]
    wav = str(world.root / "wavs" / "ann-2.wav")
    assert main([*argv, "--wav", wav, "--target-speaker", "bob"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"ann-2-to-bob.wav", "ann-2-to-bob.png", "log.jsonl"}
    assert main([*argv, "--shards", str(world.shards), "--all-pairs", "--max", "2", "--no-plots"]) == 0
    assert "2 wavs" in capsys.readouterr().out
    (tmp_path / "pairs").write_text("bob-1 bob\nann-1 eve\n")
    argv = [*argv, "--shards", str(world.shards), "--pairs", str(tmp_path / "pairs"), "--no-plots"]
    assert main(argv) == 0
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["wav"] for line in log] == ["ann-1-to-eve.wav", "bob-1-to-bob.wav"]
    assert {line["vocoder"] for line in log} == {"griffin_lim"}
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*argv, "--max", "3"])
    assert "--pairs says what to convert" in capsys.readouterr().err


def test_a_faulty_wav_is_an_error(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sqvae_speech.audio.faults.wav_faults", lambda *_: ["it is too beautiful"])
    argv = ["convert", "--model", str(world.model), "--device", "cpu", "--quiet", "--output", str(tmp_path / "out")]
    assert main([*argv, "--shards", str(world.shards), "--target-speaker", "bob", "--max", "1", "--no-plots"]) == 1
    errors = capsys.readouterr().err
    assert "error: 1 of 1 have faults: ann-1-to-bob.wav" in errors


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["encode", "--model", "nowhere", "--shards", "{shards}", "--output", "x.parquet"], "nowhere"),
        (["encode", "--model", "{model}", "--shards", "nowhere", "--output", "x.parquet"], "nowhere does not exist"),
        (
            ["score", "--model", "{model}", "--shards", "{shards}", "--output", "x.json", "--target-speaker", "ev"],
            "'eve'",
        ),
        (
            ["convert", "--model", "{model}", "--shards", "{shards}", "--output", "o", "--target-speaker", "x"],
            "seen target",
        ),
        (["convert", "--model", "{model}", "--wav", "no.wav", "--output", "o", "--target-speaker", "eve"], "no.wav"),
        (
            ["convert", "--model", "{model}", "--shards", "{shards}", "--output", "o", "--all-pairs", "--max", "0"],
            "--max 0",
        ),
        (["units", "stats", "nowhere.parquet"], "no such unit store"),
        (["units", "convert", "x.txt", "y.km"], "names no unit format"),
    ],
)
def test_errors_are_one_message_and_exit_1(world, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(model=world.model, shards=world.shards) for word in argv]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_units_of_another_codebook_are_not_decoded(world, tmp_path, capsys):
    other = make_model(tmp_path / "k16", codebook_size=16)
    store = str(tmp_path / "u" / "test.parquet")
    encode_shards(world.bundle, world.shards, store, formats=["km"], progress=False)
    argv = ["convert", "--model", other.path, "--target-speaker", "bob", "--output", str(tmp_path / "o"), "--quiet"]
    for suffix in ("parquet", "km"):
        assert main([*argv, "--units", store.replace("parquet", suffix)]) == 1
        assert "codebook_size of 32, not 16" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("verb", ["encode", "units", "score", "convert"])
def test_bad_options_print_the_help_and_exit_2(verb, capsys):
    with pytest.raises(SystemExit) as raised:
        main([verb, "--nonsense"])
    assert raised.value.code == 2
    assert f"usage: sqvae-speech {verb}" in capsys.readouterr().err


def test_a_truncated_shard_leaves_nothing(world, tmp_path):
    output = tmp_path / "u" / "test.parquet"
    argv = ["encode", "--model", str(world.model), "--shards", str(world.shards), "--output", str(output), "--quiet"]
    damaged = world.shards / "test-000001.tar"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1000])
    try:
        assert main(argv) == 1
        assert not output.parent.exists() or list(output.parent.iterdir()) == []
    finally:
        damaged.write_bytes(whole)
