"""ZeroSpeech 2019 in the published layout: the kinds of test set, and the lists of published experiments."""

import json
from pathlib import Path

import pytest
from data_fixtures import voice, write

from sqvae_speech.bin.main import main
from sqvae_speech.data.corpora.zerospeech2019 import prepare_zerospeech2019
from sqvae_speech.errors import UserError

# the numbers are of recordings that the published lists name
LAYOUT = {
    "train/unit": [f"{speaker}_{n:010d}" for speaker in ("S015", "S133") for n in range(361841101, 361841107)],
    "train/voice": [f"{voice}_{n:010d}" for voice in ("V001", "V002") for n in range(2316864420, 2316864426)],
    "train/parallel/voice": ["V001_0598465739", "V002_0204997433", "V002_0799854662"],
    "train/parallel/source": ["S040_0598465739", "S056_0598465739", "S040_0204997433"],
    "test": ["S002_0379088085", "S002_3329644604", "S130_1798561430"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The folder 2019, as the archive of the 2020 challenge has it."""
    root = tmp_path_factory.mktemp("zerospeech") / "2019"
    for folder, stems in LAYOUT.items():
        for stem in stems:
            write(root / "english" / folder / f"{stem}.wav", voice(0.2))
    (root / "english" / "synthesis.txt").write_text("S002_0379088085 V002\nS130_1798561430 V001\n")
    return root


def ids(result, split: str) -> list[str]:
    return [utterance.utterance_id for utterance in result.splits[split]] if split in result.splits else []


def left_out(folder: Path) -> dict[str, str]:
    return dict(line.split("\t") for line in (folder / "left_out.txt").read_text().splitlines())


def test_the_test_set_of_the_paper(root, tmp_path):
    for corpus in (root.parent, root, root / "english"):
        result = prepare_zerospeech2019(corpus, tmp_path, fraction=0.2, progress=False)
        assert {split: len(data) for split, data in result.splits.items()} == {"train": 20, "dev": 4, "test": 3}
    assert result.splits["train"].speakers == result.splits["dev"].speakers == ("S015", "S133", "V001", "V002")
    assert ids(result, "test") == ["V001-0598465739", "V002-0204997433", "V002-0799854662"]
    left = left_out(tmp_path)
    assert set(left) == {
        f"{folder}/{stem}.wav" for folder in ("test", "train/parallel/source") for stem in LAYOUT[folder]
    }
    assert left["test/S002_0379088085.wav"] == "the challenge's set is not the test set chosen (--test challenge)"
    assert (tmp_path / "splits.tsv").read_text().startswith("# method parallel, fraction 0.2, seed 0\n")


def test_parallel_recordings_and_what_is_to_be_spoken_are_listed(root, tmp_path):
    prepare_zerospeech2019(root, tmp_path, progress=False)
    assert (tmp_path / "parallel.tsv").read_text().splitlines() == [
        "source\tvoice",
        "S040-0598465739\tV001-0598465739",
        "S056-0598465739\tV001-0598465739",
        "S040-0204997433\tV002-0204997433",
    ]
    assert (tmp_path / "synthesis.tsv").read_text().splitlines() == [
        "utterance\tvoice",
        "S002-0379088085\tV002",
        "S130-1798561430\tV001",
    ]


def test_the_test_set_of_the_challenge_and_of_the_sources(root, tmp_path, capsys):
    words = ["prepare", "zerospeech2019", "--corpus", str(root), "--output", str(tmp_path), "--no-progress"]
    assert main([*words, "--test", "challenge", "--fraction", "0"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[:3] for line in out.splitlines()[1:3]] == [["train", "24", "4"], ["test", "3", "2"]]
    assert "  3  the parallel set's sources are not the test set chosen (--test source)" in out
    result = prepare_zerospeech2019(root, tmp_path, test="source", progress=False)
    assert ids(result, "test") == ["S040-0204997433", "S040-0598465739", "S056-0598465739"]


def entries(folder: str, parts: bool = True) -> list[list]:
    """Lines as bshall/ZeroSpeech lists them, without a suffix."""
    place = "test" if folder == "test" else "train"
    return [
        [f"english/{folder}/{stem}", *([0.0, 0.2, f"english/{place}/{stem[:4]}/{stem}"] if parts else [])]
        for stem in LAYOUT[folder]
    ]


def test_published_train_and_test_lists(root, tmp_path):
    listed = [entry for entry in entries("train/unit") + entries("train/voice") if not entry[0].endswith("5")]
    (tmp_path / "train.json").write_text(json.dumps(listed))
    (tmp_path / "test.csv").write_text("".join(",".join(map(str, entry)) + "\n" for entry in entries("test")[:2]))
    result = prepare_zerospeech2019(
        root,
        tmp_path / "data",
        train_list=tmp_path / "train.json",
        test_list=tmp_path / "test.csv",
        fraction=0,
        progress=False,
    )
    wanted = sorted(entry[0].rpartition("/")[2].replace("_", "-") for entry in listed)
    assert ids(result, "train") == wanted
    assert len(wanted) == 20
    assert ids(result, "dev") == []
    assert ids(result, "test") == ["S002-0379088085", "S002-3329644604"]
    left = left_out(tmp_path / "data")
    assert left["train/unit/S015_0361841105.wav"] == "not in --train-list train.json"
    assert left["test/S130_1798561430.wav"] == "not in --test-list test.csv"
    assert len(left) == 4 + 1 + 6


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        # the published SQ-VAE code, bootphon/zerospeech2020 (three), bshall/ZeroSpeech, the corpus
        ("mse.json", '[["english/train/parallel/voice/V002_0204997433.wav", "V002"]]', ["V002-0204997433"]),
        ("bitrate_filelist.txt", "S130_1798561430.txt 15.420000\n", ["S130-1798561430"]),
        ("embedding_filelist.txt", "S002_0379088085.txt 4.891375\n", ["S002-0379088085"]),
        (
            "required_filelist.txt",
            "english/test/S002_0379088085.txt\nenglish/test/V002_0379088085.wav\n",
            ["S002-0379088085"],
        ),
        ("synthesis.json", '[["english/test/S002_0379088085", "V002", "V002_0379088085"]]', ["S002-0379088085"]),
        ("synthesis.txt", "S130_1798561430 V001\n", ["S130-1798561430"]),
        ("voices.json", '["V001_0598465739"]', ["V001-0598465739"]),
    ],
)
def test_forms_of_test_lists(root, tmp_path, name, content, wanted):
    (tmp_path / name).write_text(content)
    result = prepare_zerospeech2019(root, tmp_path / "data", test_list=tmp_path / name, progress=False)
    assert ids(result, "test") == wanted
    assert sum(map(len, result.splits.values())) == 24 + 1, "all of train/unit and train/voice"


@pytest.mark.parametrize(
    ("option", "name", "content", "message"),
    [
        ("test_list", "a.json", "[", r"a.json is not JSON .*\(--test-list\)"),
        ("test_list", "a.json", "{}", r"a.json holds no list; --test-list takes JSON"),
        ("test_list", "a.json", "[[]]", r"entry 1, \[\], has no name"),
        ("test_list", "a.txt", "\n", r"a.txt lists nothing"),
        ("test_list", "a.txt", "S002_0000000000\nx\n", r"lists 2 recordings, for instance 'S002_0000000000', that"),
        (
            "test_list",
            "a.txt",
            "english/train/unit/S015_0361841101",
            r"does not have in train/parallel/voice, train/",
        ),
        (
            "train_list",
            "a.txt",
            "english/test/S002_0379088085",
            r"does not have in train/unit, train/voice \(--train",
        ),
        ("train_list", "a.json", '[["S015_0361841101", 1.5, 0.2, "x"]]', r"is a part of S015_0361841101, from 1.5 s"),
        ("train_list", "none.json", None, r"none.json does not exist"),
    ],
)
def test_lists_that_do_not_fit(root, tmp_path, option, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        prepare_zerospeech2019(root, tmp_path / "data", progress=False, **{option: tmp_path / name})
    assert not (tmp_path / "data").exists()


def test_what_is_refused(root, tmp_path):
    with pytest.raises(UserError, match=r"test set 'unit'; legal are parallel, source, challenge \(--test\)"):
        prepare_zerospeech2019(root, tmp_path / "data", test="unit", progress=False)
    with pytest.raises(UserError, match=r"has no surprise/ \(found english\)"):
        prepare_zerospeech2019(root, tmp_path / "data", language="surprise", progress=False)
    for folder in ("train/unit", "train/voice"):
        write(tmp_path / "english" / folder / "S015_0000000000.wav", voice(0.2))
    with pytest.raises(UserError, match="duplicate utterance id 'S015-0000000000'"):
        prepare_zerospeech2019(tmp_path, tmp_path / "data", progress=False)
