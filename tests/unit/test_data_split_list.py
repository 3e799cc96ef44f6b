"""splits.tsv: what is written, taking a division from such a list, and recordings that are known to be bad."""

import shutil
from pathlib import Path

import pytest
from data_fixtures import make_data_dir, voice, write

from sqvae_speech.bin.main import main
from sqvae_speech.data.corpora import known_bad
from sqvae_speech.data.corpora.kaldi import prepare_kaldi
from sqvae_speech.data.corpora.vctk import prepare_vctk
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A data directory of three speakers with ten utterances each."""
    root = tmp_path_factory.mktemp("corpus")
    make_data_dir(root / "all", speakers=3, per_speaker=10)
    return root / "all"


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "splits.tsv"
    }


def test_what_was_drawn_is_listed_and_can_be_taken_again(corpus, tmp_path):
    result = prepare_kaldi(corpus, tmp_path / "a", fraction=0.1, seed=3)
    listed = tmp_path / "a" / "splits.tsv"
    assert listed.read_text().splitlines()[0] == "# method utterances, fraction 0.1, seed 3"
    heading, *lines = rows(listed)
    assert heading == ["utterance", "speaker", "split"]
    expected = [[u.utterance_id, u.speaker, split] for split, data in result.splits.items() for u in data]
    assert lines == sorted(expected)
    assert len(lines) == 30
    prepare_kaldi(corpus, tmp_path / "b", fraction=0.1, seed=4)
    assert files(tmp_path / "b") != files(tmp_path / "a")
    prepare_kaldi(corpus, tmp_path / "b", fraction=0.1, seed=4, split_list=listed)
    assert files(tmp_path / "b") == files(tmp_path / "a")
    assert (tmp_path / "b" / "splits.tsv").read_text().splitlines()[0] == "# method list, list splits.tsv"
    assert rows(tmp_path / "b" / "splits.tsv") == rows(listed)


def test_a_list_of_two_columns_may_leave_out(corpus, tmp_path, capsys):
    split_of = {
        f"s{s}-{n:03d}": ("test" if s == 2 else "none" if n == 0 else "train") for s in range(3) for n in range(10)
    }
    (tmp_path / "list").write_text("# mine\n\n" + "".join(f"{name} {split}\n" for name, split in split_of.items()))
    words = ["prepare", "kaldi", "--corpus", str(corpus), "--output", str(tmp_path / "data")]
    assert main([*words, "--split-list", str(tmp_path / "list")]) == 0
    out = capsys.readouterr().out
    assert [line.split()[:3] for line in out.splitlines()[1:4]] == [
        ["train", "18", "2"],
        ["test", "10", "1"],
        ["all", "28", "3"],
    ]
    assert "  2  left out by the split list" in out
    assert (tmp_path / "data" / "left_out.txt").read_text() == (
        "s0-000\tleft out by the split list\ns1-000\tleft out by the split list\n"
    )
    assert not (tmp_path / "data" / "dev").exists()


def test_a_corpus_of_unknown_durations(corpus, tmp_path, capsys):
    shutil.copytree(corpus, tmp_path / "all")
    (tmp_path / "all" / "utt2dur").unlink()
    assert main(["prepare", "kaldi", "--corpus", str(tmp_path / "all"), "--output", str(tmp_path / "data")]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["train", "24", "3", "unknown"],
        ["dev", "3", "3", "unknown"],
        ["test", "3", "3", "unknown"],
        ["all", "30", "3", "unknown"],
    ]


def test_an_earlier_division_does_not_stay(corpus, tmp_path):
    prepare_kaldi(corpus, tmp_path, fraction=0.1)
    (tmp_path / "test" / "notes").write_text("mine")
    prepare_kaldi(corpus, tmp_path, fraction=0)
    assert not (tmp_path / "dev").exists()
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["notes"], "what is not ours stays"


ALL = "".join(f"s{s}-{n:03d} s{s} {'dev' if n == 0 else 'train'}\n" for s in range(3) for n in range(10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            ALL + "s1-099 s1 dev\n",
            r"lists 1 utterance \(s1-099\) that the corpus does not have.*did you mean 's1-009'",
        ),
        (ALL.partition("\n")[2], r"does not list 1 utterance \(s0-000\) of the corpus; list them, with split none"),
        (ALL.replace("dev", "valid", 1), r"list:1: unknown split 'valid'; legal are train, dev, test, none"),
        (ALL.replace("train", "trian", 1), r"list:2: unknown split 'trian', did you mean 'train'\?"),
        (ALL + ALL, r"list:31: 's0-000' is listed twice; keep one"),
        (ALL.replace("s0-001 s0 ", "s0-001 s1 "), r"'s0-001' is of speaker 's1' there, of 's0' in the corpus"),
        (ALL + "s0-001 a b train\n", r"list:31: 's0-001 a b train' should be '<utterance> <speaker> <split>'"),
        (ALL.replace("train", "dev"), r"no recording that can be trained on"),
        ("# nothing\n", r"list lists no utterance \(--split-list\)"),
        (None, r"list does not exist"),
    ],
)
def test_lists_that_do_not_fit(corpus, tmp_path, content, message):
    if content is not None:
        (tmp_path / "list").write_text(content)
    with pytest.raises(UserError, match=message):
        prepare_kaldi(corpus, tmp_path / "data", split_list=tmp_path / "list")
    assert not (tmp_path / "data").exists()


@pytest.fixture
def vctk(tmp_path) -> Path:
    """VCTK 0.80 with three of the recordings that were withdrawn later, and p315, whose texts are lost."""
    root = tmp_path / "VCTK-Corpus"
    names = [f"p345_{n:03d}" for n in (1, 2, 3, 4, 5, 266, 387, 388)] + [f"p315_{n:03d}" for n in (1, 2)]
    for name in names:
        write(root / "wav48" / name[:4] / f"{name}.wav", voice(0.2))
        if not name.startswith("p315"):
            text = root / "txt" / name[:4] / f"{name}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(f"Sentence {name}.\n")
    return root


def test_known_bad_recordings_are_left_out(vctk, tmp_path, capsys):
    words = ["prepare", "vctk", "--corpus", str(vctk), "--output", str(tmp_path / "data"), "--no-progress"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "left out: 5 recordings" in out
    assert "  1  known bad: silent (VCTK's update note of 22 March 2017)" in out
    left = dict(line.split("\t") for line in (tmp_path / "data" / "left_out.txt").read_text().splitlines())
    source = "(VCTK's update note of 22 March 2017)"
    assert left == {
        "wav48/p345/p345_266.wav": f"known bad: cut off {source}",
        "wav48/p345/p345_387.wav": f"known bad: silent {source}",
        "wav48/p345/p345_388.wav": f"known bad: cut off, begins too late {source}",
        "wav48/p315/p315_001.wav": "no transcript in txt/, the corpus has none of this speaker",
        "wav48/p315/p315_002.wav": "no transcript in txt/, the corpus has none of this speaker",
    }
    assert main([*words, "--keep-known-bad", "--no-text"]) == 0
    assert "left out" not in capsys.readouterr().out
    kept = {u.utterance_id for split in ("train", "dev", "test") for u in DataDir.read(tmp_path / "data" / split)}
    assert {"p345-266", "p345-387", "p345-388", "p315-001"} < kept
    assert len(kept) == 10


def test_a_list_with_a_known_bad_recording_needs_the_option(vctk, tmp_path):
    prepare_vctk(vctk, tmp_path / "a", keep_known_bad=True, progress=False)
    listed = tmp_path / "a" / "splits.tsv"
    with pytest.raises(UserError, match=r"lists 3 utterances \(p345-266, .*or that its rules leave out"):
        prepare_vctk(vctk, tmp_path / "b", split_list=listed, progress=False)
    prepare_vctk(vctk, tmp_path / "b", split_list=listed, keep_known_bad=True, progress=False)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_every_known_bad_recording_has_a_reason_and_a_source():
    assert len(known_bad.VCTK) == 15
    for name, entry in known_bad.VCTK.items():
        speaker, _, number = name.partition("-")
        assert speaker[0] == "p", name
        assert int(speaker[1:]) in range(225, 377)
        assert number.isdigit(), name
        assert entry.reason, name
        assert entry.source, name
