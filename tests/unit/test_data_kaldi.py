"""Kaldi data directories: what is written is read back, and what Kaldi refuses is refused with its line."""

import re
from dataclasses import replace

import pytest

from sqvae_speech.data.kaldi import DataDir, Interval, Utterance
from sqvae_speech.errors import UserError


def utterance(name: str, speaker: str, **fields) -> Utterance:
    values = {"wav": f"wavs/{name}.wav", "duration": 1.5, "text": f"words of {name}", **fields}
    return Utterance(name, speaker, **values)


DATA = DataDir(
    [
        utterance("s1-b", "s1", ali=(Interval(0.0, 0.5, "aa"), Interval(0.5, 1.5, "b"))),
        utterance("s1-a", "s1", wav="a folder/with spaces.flac"),
        utterance("s2-a", "s2", text=""),
    ]
)


@pytest.fixture
def folder(tmp_path):
    DATA.write(tmp_path / "train")
    return tmp_path / "train"


def test_files(folder):
    files = {path.name: path.read_text() for path in folder.iterdir()}
    assert files == {
        "wav.scp": "s1-a a folder/with spaces.flac\ns1-b wavs/s1-b.wav\ns2-a wavs/s2-a.wav\n",
        "utt2spk": "s1-a s1\ns1-b s1\ns2-a s2\n",
        "spk2utt": "s1 s1-a s1-b\ns2 s2-a\n",
        "utt2dur": "s1-a 1.500000\ns1-b 1.500000\ns2-a 1.500000\n",
        "text": "s1-a words of s1-a\ns1-b words of s1-b\ns2-a\n",
        "ali": "s1-b 0.000000 0.500000 aa\ns1-b 0.500000 1.500000 b\n",
    }


def test_read_gives_what_was_written(folder):
    data = DataDir.read(folder)
    assert data.utterances == DATA.utterances
    assert [u.utterance_id for u in data] == ["s1-a", "s1-b", "s2-a"]
    assert data.speakers == ("s1", "s2")
    assert data.duration == 4.5


def test_segments(tmp_path):
    parts = [
        utterance("s1-1", "s1", wav="long.wav", recording="rec1", start=0.25, end=1.75),
        utterance("s1-2", "s1", wav="long.wav", recording="rec1", start=1.75, end=None),
    ]
    DataDir(parts).write(tmp_path)
    assert (tmp_path / "segments").read_text() == "s1-1 rec1 0.250000 1.750000\ns1-2 rec1 1.750000 -1\n"
    assert (tmp_path / "wav.scp").read_text() == "rec1 long.wav\n"
    assert list(DataDir.read(tmp_path)) == parts


def test_optional_files_of_an_earlier_content_go(folder):
    DataDir([replace(u, text=None, duration=None, ali=()) for u in DATA]).write(folder)
    assert {path.name for path in folder.iterdir()} == {"wav.scp", "utt2spk", "spk2utt"}
    data = DataDir.read(folder)
    assert data.duration is None
    assert {u.text for u in data} == {None}


def test_sorted_by_bytes_as_kaldi_does(tmp_path):
    names = ["s-Z", "s-a", "s-é", "s-日", "s-😀"]  # by UTF-8 bytes, which a locale would order otherwise
    DataDir([utterance(name, "s") for name in reversed(names)]).write(tmp_path)
    lines = (tmp_path / "utt2spk").read_bytes().splitlines()
    assert lines == sorted(lines)
    assert [u.utterance_id for u in DataDir.read(tmp_path)] == names


CASES = {
    "unsorted": ("utt2spk", "s1-b s1\ns1-a s1\ns2-a s2\n", r"utt2spk:2: 's1-a' comes after 's1-b'.*LC_ALL=C sort"),
    "duplicate": ("utt2spk", "s1-a s1\ns1-a s1\ns2-a s2\n", r"utt2spk:2: duplicate utterance id 's1-a'"),
    "duplicate recording": ("wav.scp", "s1-a x\ns1-a y\n", r"wav.scp:2: duplicate recording id 's1-a'"),
    "space in an id": ("utt2spk", "s1 a s1\n", r"utt2spk:1: 's1 a s1' should be '<id> <speaker>', without white"),
    "dot in an id": ("utt2spk", "s1.a s1\n", r"utt2spk:1: utterance id 's1.a' contains a dot.*'s1%2Ea'"),
    "dot in a speaker": ("utt2spk", "s1-a s.1\n", r"utt2spk:1: speaker 's.1' contains a dot"),
    "no speaker": ("utt2spk", "s1-a\n", r"utt2spk:1: .*should be '<id> <speaker>'"),
    "empty line": ("text", "s1-a x\n\ns2-a y\n", r"text:2: empty line"),
    "empty file": ("utt2spk", "", r"utt2spk is empty"),
    "not UTF-8": ("text", b"s1-a \xff\n", r"text is not UTF-8 \(byte 5"),
    "speaker order": ("utt2spk", "s1-a s2\ns1-b s1\ns2-a s2\n", r"utt2spk:2: speaker 's1' of 's1-b' comes after"),
    "spk2utt disagrees": ("spk2utt", "s1 s1-a s1-b s2-a\n", r"spk2utt:1: 's2-a' is of speaker 's1' here, in utt2spk"),
    "spk2utt lacks one": ("spk2utt", "s1 s1-a s1-b\n", r"spk2utt lacks 's2-a', which utt2spk has"),
    "spk2utt repeats": ("spk2utt", "s1 s1-a s1-a s1-b\ns2 s2-a\n", r"spk2utt:1: duplicate utterance id 's1-a'"),
    "no path": ("wav.scp", "s1-a\n", r"wav.scp:1: recording 's1-a' has no path"),
    "wav.scp lacks one": ("wav.scp", "s1-a x\ns1-b y\n", r"wav.scp lacks 's2-a'"),
    "pipe": ("wav.scp", "s1-a sox x -t wav - |\n", r"wav.scp:1: 'sox x -t wav - \|' is a command.*--allow-pipes"),
    "text has more": ("text", "s1-a x\ns1-b x\ns2-a x\ns3-a x\n", r"text has 's3-a', which utt2spk lacks"),
    "duration": ("utt2dur", "s1-a 1.5\ns1-b long\n", r"utt2dur:2: duration 'long' of 's1-b' is not a number"),
    "NaN duration": ("utt2dur", "s1-a nan\n", r"utt2dur:1: duration 'nan' of 's1-a' is not a number"),
    "segment's recording": ("segments", "s1-a rec 0 1\n", r"segments:1: recording 'rec' is not in wav.scp"),
    "segment's end": ("segments", "s1-a s1-a 1 0.5\n", r"segments:1: segment 's1-a' ends at 0.5 s, before"),
    "segment's start": ("segments", "s1-a s1-a -2 1\n", r"segments:1: start '-2' of 's1-a' is not a number"),
    "ali of none": ("ali", "s9 0 1 aa\n", r"ali:1: utterance 's9' is not in utt2spk"),
    "ali columns": ("ali", "s1-a 0 1\n", r"ali:1: .*<onset> <offset> <label>"),
    "ali backwards": ("ali", "s1-a 1 0.5 aa\n", r"ali:1: 'aa' of 's1-a' ends at 0.5 s, but starts at 1 s"),
    "ali order": ("ali", "s1-a 0.5 1 aa\ns1-a 0 0.5 b\n", r"ali:2: 'b' of 's1-a' starts before the interval above"),
    "ali too long": ("ali", "s1-a 0 1.6 aa\n", r"ali:1: 'aa' ends at 1.6 s, 's1-a' lasts 1.5 s"),
}


@pytest.mark.parametrize("case", CASES)
def test_faults_are_named_with_their_line(folder, case):
    name, content, message = CASES[case]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        DataDir.read(folder)


def test_pipes_with_permission(folder):
    (folder / "wav.scp").write_text("s1-a cat a.wav |\ns1-b b.wav\ns2-a c.wav\n")
    assert [u.is_pipe for u in DataDir.read(folder, allow_pipes=True)] == [True, False, False]


@pytest.mark.parametrize("name", ["wav.scp", "utt2spk", "spk2utt"])
def test_required_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"not a Kaldi data directory: it has no {re.escape(name)}"):
        DataDir.read(folder)


@pytest.mark.parametrize(
    ("utterances", "message"),
    [
        ([utterance("a", "s"), utterance("a", "s")], "duplicate utterance id 'a'"),
        ([utterance("a b", "s")], "contains a space"),
        ([utterance("a", "s/t")], "speaker 's/t' contains a slash"),
        ([utterance("a", "t"), utterance("b", "s")], "speaker 's' of 'b' comes after speaker 't'"),
        ([utterance("a", "s"), utterance("b", "s", text=None)], "'b' has no text, others have"),
        ([utterance("a", "s", duration=None), utterance("b", "s")], "'a' has no duration"),
    ],
)
def test_what_could_not_be_read_back_is_not_made(utterances, message):
    with pytest.raises(UserError, match=message):
        DataDir(utterances)


def test_writing_refuses_what_a_line_cannot_hold(tmp_path):
    with pytest.raises(UserError, match="line break"):
        DataDir([utterance("a", "s", wav="a\nb.wav")]).write(tmp_path)
    with pytest.raises(UserError, match="no utterances"):
        DataDir([]).write(tmp_path)
    two = [utterance("a", "s", recording="r", end=1.0, wav=w) for w in ("x", "y")]
    with pytest.raises(UserError, match="recording 'r' is both 'x' and 'y'"):
        DataDir([two[0], replace(two[1], utterance_id="b")]).write(tmp_path)
    assert not list(tmp_path.iterdir())
