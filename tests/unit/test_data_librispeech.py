"""LibriSpeech: layout, transcripts, the three kinds of test set, tables, and what is refused."""

from pathlib import Path

import pytest
from data_fixtures import voice, write

from sqvae_speech.bin.main import main
from sqvae_speech.data.corpora.librispeech import prepare_librispeech
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.errors import UserError

SPEAKERS = {"train-clean-100": ("19", "198", "1988"), "train-other-500": ("25",), "test-clean": ("61",)}
CHAPTERS, PER_CHAPTER = ("209", "4001"), 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Five speakers with two chapters of five utterances each, in the published layout."""
    root = tmp_path_factory.mktemp("libri") / "LibriSpeech"
    speakers, chapters = [], []
    for subset, names in SPEAKERS.items():
        for speaker in names:
            speakers.append(f"{speaker:<5}| F | {subset:<16} | 25.03 | Reader|{speaker}\n")
            for chapter in CHAPTERS:
                chapters.append(f"{speaker}{chapter} | {speaker} | 3.1 | {subset} | 7 | 99 | A Title | A Book\n")
                folder = root / subset / speaker / f"{speaker}{chapter}"
                lines = []
                for number in range(PER_CHAPTER):
                    name = f"{speaker}-{speaker}{chapter}-{number:04d}"
                    write(folder / f"{name}.flac", voice(0.2))
                    lines.append(f"{name} WORDS NUMBER {number}\n")
                (folder / f"{speaker}-{speaker}{chapter}.trans.txt").write_text("".join(lines))
    (root / "SPEAKERS.TXT").write_text("; a comment\n;ID  |SEX| SUBSET |MINUTES| NAME\n" + "".join(speakers))
    (root / "CHAPTERS.TXT").write_text(
        ";ID |READER|MINUTES| SUBSET | PROJ.|BOOK ID| CH. TITLE |\n" + "".join(chapters)
    )
    return root


def speakers_of(folder: Path) -> dict[str, set[str]]:
    return {split: set(DataDir.read(folder / split).speakers) for split in ("train", "dev", "test")}


def test_training_subsets_with_every_speaker_in_every_split(corpus, tmp_path):
    result = prepare_librispeech(corpus, tmp_path, progress=False)
    assert set(speakers_of(tmp_path)["train"]) == {"19", "198", "1988", "25"}
    assert speakers_of(tmp_path)["test"] == speakers_of(tmp_path)["dev"] == {"19", "198", "1988", "25"}
    assert {split: len(data) for split, data in result.splits.items()} == {"train": 32, "dev": 4, "test": 4}
    for utterance in DataDir.read(tmp_path / "train"):
        speaker, chapter, number = utterance.utterance_id.split("-")
        assert utterance.speaker == speaker
        assert utterance.wav.endswith(f"/{speaker}/{chapter}/{utterance.utterance_id}.flac")
        assert utterance.text == f"WORDS NUMBER {int(number)}"
        assert utterance.duration == 0.2
    tables = (tmp_path / "speakers.tsv").read_text().splitlines()
    assert tables[0].split("\t") == ["speaker", "sex", "subset", "minutes", "name"]
    assert tables[2].split("\t") == ["198", "F", "train-clean-100", "25.03", "Reader|198"]
    assert len(tables) == 5, "the test speaker is not in use"
    chapters = (tmp_path / "chapters.tsv").read_text().splitlines()
    assert len(chapters) == 1 + 8
    assert chapters[1].split("\t")[-2:] == ["A Title", "A Book"]


def test_splits_are_those_of_the_seed(corpus, tmp_path):
    ids = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare_librispeech(corpus, tmp_path / name, seed=seed, progress=False)
        ids.append([utterance.utterance_id for utterance in DataDir.read(tmp_path / name / "test")])
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]


def test_speakers_kept_for_test(corpus, tmp_path):
    prepare_librispeech(corpus, tmp_path, test="speakers", fraction=0.25, progress=False)
    speakers = speakers_of(tmp_path)
    assert len(speakers["test"]) == 1
    assert not speakers["test"] & speakers["train"]
    assert speakers["dev"] == speakers["train"]
    assert len(DataDir.read(tmp_path / "test")) == 10
    assert len(DataDir.read(tmp_path / "train")) + len(DataDir.read(tmp_path / "dev")) == 30


def test_the_corpus_own_test_subset(corpus, tmp_path):
    prepare_librispeech(corpus, tmp_path, test="subsets", progress=False)
    speakers = speakers_of(tmp_path)
    assert speakers["test"] == {"61"}
    assert speakers["dev"] == speakers["train"] == {"19", "198", "1988", "25"}
    subsets = ["train-clean-100", "test-clean"]
    prepare_librispeech(corpus, tmp_path / "less", subsets=subsets, test="subsets", progress=False)
    assert speakers_of(tmp_path / "less")["train"] == {"19", "198", "1988"}


@pytest.mark.parametrize("below", [".", "LibriSpeech", "LibriSpeech/test-clean"])
def test_found_above_and_below(corpus, tmp_path, below):
    result = prepare_librispeech(corpus.parent / below, tmp_path, progress=False)
    only_test = below.endswith("clean")
    assert sum(map(len, result.splits.values())) == (10 if only_test else 40)
    assert set(result.splits["train"].speakers) == ({"61"} if only_test else {"19", "198", "1988", "25"})


def test_left_out_with_reasons(tmp_path):
    chapter = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121123"
    for number in range(4):
        write(chapter / f"84-121123-{number:04d}.flac", voice(0.2))
    write(chapter / "84-99-0000.flac", voice(0.2))
    (chapter / "84-121123-0003.flac").write_bytes(b"fLaC")
    (chapter / "84-121123.trans.txt").write_text("".join(f"84-121123-{n:04d} WORDS\n" for n in (0, 1, 3)))
    with pytest.raises(UserError, match=r"cannot be used: 1, at most 0 may be .*\n.*84-121123-0003\.flac"):
        prepare_librispeech(tmp_path, tmp_path / "data", progress=False)
    result = prepare_librispeech(tmp_path, tmp_path / "data", max_bad=1, fraction=0, progress=False)
    assert [utterance.utterance_id for utterance in result.splits["train"]] == ["84-121123-0000", "84-121123-0001"]
    reasons = dict(line.split("\t") for line in (tmp_path / "data" / "left_out.txt").read_text().splitlines())
    assert reasons["dev-clean/84/121123/84-121123-0002.flac"] == "no transcript (--no-text takes it without)"
    assert reasons["dev-clean/84/121123/84-99-0000.flac"] == "file name is not {speaker}-{chapter}-{number}.flac"
    assert "84-121123-0003.flac" in reasons["dev-clean/84/121123/84-121123-0003.flac"]
    result = prepare_librispeech(
        tmp_path, tmp_path / "data", max_bad=1, fraction=0, require_text=False, progress=False
    )
    assert len(result.splits["train"]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsets": ["train-clean"]}, r"unknown subset 'train-clean'; LibriSpeech has train-clean-100, .*--subsets"),
        (
            {"subsets": ["dev-clean"]},
            r"has no subset dev-clean; there are train-clean-100, train-other-500, test-clean",
        ),
        ({"test": "words"}, r"unknown kind of test set 'words'; legal are utterances, speakers, subsets \(--test\)"),
        (
            {"test": "subsets", "subsets": ["train-clean-100"]},
            r"needs a dev or test subset; chosen are train-clean-100",
        ),
        ({"test": "subsets", "subsets": ["test-clean"]}, r"needs a training subset; chosen are test-clean"),
        ({"test": "speakers", "subsets": ["test-clean"]}, r"cannot be kept for test: there is only 61"),
        ({"fraction": 0.5}, r"fraction 0.5 .*0 to 0.4"),
    ],
)
def test_what_is_refused(corpus, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        prepare_librispeech(corpus, tmp_path / "data", progress=False, **options)
    assert not (tmp_path / "data").exists()


def test_another_corpus_is_refused(tmp_path):
    (tmp_path / "wav48").mkdir()
    with pytest.raises(UserError, match=r"is not LibriSpeech \(found wav48\); --corpus takes the folder LibriSpeech"):
        prepare_librispeech(tmp_path, tmp_path / "data", progress=False)


def test_command(corpus, tmp_path, capsys):
    words = ["prepare", "librispeech", "--corpus", str(corpus), "--output", str(tmp_path), "--no-progress"]
    assert main([*words, "--subsets", "train-clean-100", "test-clean", "--test", "subsets"]) == 0
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["train", "27", "3"], ["dev", "3", "3"], ["test", "10", "1"], ["all", "40", "4"]]
    assert main(["data", "validate", "--audio", *(str(tmp_path / split) for split in ("train", "dev", "test"))]) == 0
