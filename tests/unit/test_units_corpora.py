"""Corpora for ESPnet and fairseq: every file speaks of the same utterances, dictionaries have all of the units."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sqvae_speech.bin._cli import run
from sqvae_speech.bin.units import main
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.units.formats import read_format
from sqvae_speech.units.sequences import UtteranceUnits, run_lengths
from sqvae_speech.units.store import UnitStoreMeta, deduplicated, store_of, write_units

SIZE = 40
TAG = "sqvae40"
TEXTS = {"train": ("say it", "No, you."), "test": ("zoo",)}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """``units/<split>.parquet`` in another order than that of ids, and ``data/<split>`` with recordings."""
    rng = np.random.default_rng(0)
    for split, texts in TEXTS.items():
        rows, utterances = [], []
        for number, text in enumerate(texts):
            name, wav = f"ann-{split}{number}", tmp_path / "wavs" / split / f"{number}.wav"
            rows.append(
                UtteranceUnits(name, np.repeat(rng.integers(0, SIZE, 20), rng.integers(1, 4, 20)), "ann", text=text)
            )
            wav.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(wav, np.zeros(1600), 16_000)
            utterances.append(Utterance(name, "ann", str(wav), text=text))
        write_units(tmp_path / "units" / f"{split}.parquet", rows[::-1], UnitStoreMeta(SIZE, frame_rate=50.0))
        DataDir(utterances).write(tmp_path / "data" / split)
    return tmp_path


def corpus(world: Path, form: str, *options: str) -> Path:
    stores = [str(world / "units" / f"{split}.parquet") for split in TEXTS]
    assert main(["corpus", *stores, "--to", form, "--output", str(world / form), *options]) == 0
    return world / form


def columns(path: Path) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in path.read_text().splitlines()}


def expected(world: Path, split: str) -> dict[str, list[int]]:
    return {
        units.utterance_id: units.codes[0].tolist() for units in read_format(world / "units" / f"{split}.parquet")
    }


def test_espnet(world):
    folder = corpus(world, "espnet", "--data", str(world / "data"))
    for split, texts in TEXTS.items():
        target, codes = folder / split, expected(world, split)
        units = [f"{kind}.{TAG}" for kind in ("text.km", "text.ts", "text.rm", "durations.rm")]
        tables = [columns(target / name) for name in (*units, "text", "utt2spk", "wav.scp")]
        km, characters, collapsed, durations, text, _, recordings = tables
        names = sorted(codes)
        for table in tables:
            assert list(table) == names, "the same utterances, in Kaldi's order"
        numbers = (target / "tokens.txt").read_text().split()
        symbols = (target / "tokens.cjk.txt").read_text().split()
        assert numbers == list(map(str, range(SIZE)))
        assert len(symbols) == SIZE
        for number, name in enumerate(names):
            assert list(map(int, km[name])) == codes[name]
            assert [symbols.index(symbol) for symbol in characters[name][0]] == codes[name]
            runs, lengths = run_lengths(np.array([codes[name]]))
            assert [symbols.index(symbol) for symbol in collapsed[name][0]] == runs[0].tolist()
            assert list(map(int, durations[name])) == lengths.tolist()
            assert " ".join(text[name]) == texts[number]
            assert Path(recordings[name][0]).is_file()
        assert columns(target / "spk2utt") == {"ann": names}


def test_fairseq(world):
    folder = corpus(world, "fairseq", "--data", str(world / "data"))
    letters = [line.split()[0] for line in (folder / "dict.ltr.txt").read_text().splitlines()]
    assert letters[0] == "|"
    dictionary = [line.split()[0] for line in (folder / "dict.km.txt").read_text().splitlines()]
    assert dictionary == list(map(str, range(SIZE)))
    for split in TEXTS:
        codes = expected(world, split)
        lines = {
            suffix: (folder / f"{split}.{suffix}").read_text().splitlines() for suffix in ("km", "ids", "wrd", "ltr")
        }
        manifest = (folder / f"{split}.tsv").read_text().splitlines()
        assert {len(value) for value in lines.values()} == {len(codes)} == {len(manifest) - 1}
        assert len((folder / f"{split}.speakers").read_text().splitlines()) == len(codes)
        assert lines["ids"] == list(codes), "the order of the store"
        assert [list(map(int, line.split())) for line in lines["km"]] == list(codes.values())
        assert all(Path(manifest[0], line.split("\t")[0]).is_file() for line in manifest[1:])
        units = read_format(folder / f"{split}.units")
        store = read_format(world / "units" / f"{split}.parquet")
        for one, other in zip(units, deduplicated(store), strict=True):
            assert one.utterance_id == other.utterance_id
            assert np.array_equal(one.codes, other.codes)
            assert np.array_equal(one.durations, other.durations)
        if split == "train":
            assert set(" ".join(lines["ltr"]).split()) == set(letters)
            assert "N O , | Y O U . |" in lines["ltr"]


def test_without_recordings_texts_and_speakers(world):
    bare = store_of([UtteranceUnits("a", np.array([1, 1, 2]))], UnitStoreMeta(SIZE, frame_rate=50.0))
    write_units(world / "units" / "train.parquet", bare, bare.meta)
    write_units(world / "units" / "test.parquet", bare, bare.meta)
    espnet = {path.name for path in (corpus(world, "espnet") / "train").iterdir() if path.suffix != ".json"}
    assert espnet == {
        "text.km.sqvae40",
        "text.ts.sqvae40",
        "text.rm.sqvae40",
        "durations.rm.sqvae40",
        "tokens.txt",
        "tokens.cjk.txt",
    }
    fairseq = {path.name for path in corpus(world, "fairseq").iterdir() if path.suffix != ".json"}
    assert {name.rpartition(".")[2] for name in fairseq} == {"km", "ids", "units", "durations", "txt"}


def test_what_is_refused(world, capsys):
    arguments = ["corpus", str(world / "units" / "train.parquet"), "--output", str(world / "out"), "--to"]
    assert run(main, [*arguments, "espnett"]) == 1
    assert "no corpus form 'espnett', did you mean 'espnet'?" in capsys.readouterr().err
    several = store_of([UtteranceUnits("a", np.array([[1, 1], [2, 3]]))], UnitStoreMeta(SIZE, 2))
    write_units(world / "units" / "train.parquet", several, several.meta)
    assert run(main, [*arguments, "fairseq"]) == 1
    assert "2 codebooks" in capsys.readouterr().err
    assert not (world / "out").exists()


def test_parts_of_recordings(world):
    """``segments`` for ESPnet; fairseq's manifest has no place for them."""
    for split in TEXTS:
        whole = DataDir.read(world / "data" / split).utterances
        parts = [
            Utterance(
                one.utterance_id, one.speaker, whole[0].wav, 0.01 * number, 0.05, text=one.text, recording="rec"
            )
            for number, one in enumerate(whole)
        ]
        DataDir(parts).write(world / "data" / split)
    espnet = corpus(world, "espnet", "--data", str(world / "data")) / "train"
    assert list(columns(espnet / "wav.scp")) == ["rec"]
    assert columns(espnet / "segments") == {
        "ann-train0": ["rec", "0.0", "0.05"],
        "ann-train1": ["rec", "0.01", "0.05"],
    }
    assert not list(corpus(world, "fairseq", "--data", str(world / "data")).glob("*.tsv"))
