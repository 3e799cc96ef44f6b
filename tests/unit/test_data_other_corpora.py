"""Folders of recordings, LJ Speech, existing Kaldi directories and Lhotse manifests."""

import gzip
import json
from pathlib import Path

import pytest
from data_fixtures import make_data_dir, voice, write

from sqvae_speech.bin.main import main
from sqvae_speech.data.corpora.folder import prepare_folder
from sqvae_speech.data.corpora.kaldi import prepare_kaldi
from sqvae_speech.data.corpora.lhotse import prepare_lhotse
from sqvae_speech.data.corpora.ljspeech import prepare_ljspeech
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.errors import UserError


def ids(result) -> list[str]:
    return sorted(utterance.utterance_id for data in result.splits.values() for utterance in data)


def make_folder(root: Path) -> Path:
    """Two speakers, in folders of two depths and three formats."""
    write(root / "ann" / "first take.wav", voice(0.2))
    write(root / "ann" / "ann-2.flac", voice(0.3))
    write(root / "sessions" / "b.b" / "one.OGG", voice(0.2), format="OGG")
    (root / "ann" / "first take.txt").write_text("hello\n there ")
    (root / "notes.txt").write_text("no recording")
    return root


def test_folder_takes_speakers_from_folders(tmp_path):
    result = prepare_folder(make_folder(tmp_path / "in"), tmp_path / "data", fraction=0, progress=False)
    assert ids(result) == ["ann-ann-2", "ann-first%20take", "b%2Eb-sessions-b%2Eb-one"]
    found = {utterance.utterance_id: utterance for utterance in DataDir.read(tmp_path / "data" / "train")}
    assert found["ann-first%20take"].speaker == "ann"
    assert found["ann-first%20take"].wav == str(tmp_path / "in" / "ann" / "first take.wav")
    assert found["ann-first%20take"].duration == 0.2
    assert found["ann-first%20take"].text is None
    assert found["b%2Eb-sessions-b%2Eb-one"].speaker == "b%2Eb"


def test_folder_with_transcripts_and_another_pattern(tmp_path):
    root = make_folder(tmp_path / "in")
    write(root / "stray.wav", voice(0.2))
    result = prepare_folder(
        root, tmp_path / "data", speaker="^([^/]+)/", text_suffix=".txt", fraction=0, progress=False
    )
    assert ids(result) == ["ann-first%20take"]
    assert result.splits["train"].utterances[0].text == "hello there"
    left = dict(line.split("\t") for line in (tmp_path / "data" / "left_out.txt").read_text().splitlines())
    assert left == {
        "ann/ann-2.flac": "no transcript with suffix .txt",
        "sessions/b.b/one.OGG": "no transcript with suffix .txt",
        "stray.wav": "no speaker: the path does not match ^([^/]+)/",
    }


def test_folder_test_set_of_other_speakers(tmp_path):
    for speaker in range(4):
        for number in range(10):
            write(tmp_path / "in" / f"s{speaker}_{number}.wav", voice(0.2))
    words = ["prepare", "folder", "--corpus", str(tmp_path / "in"), "--output", str(tmp_path / "data")]
    assert main([*words, "--speaker", "^([^_]+)_", "--test", "speakers", "--fraction", "0.25", "--no-progress"]) == 0
    split = {name: DataDir.read(tmp_path / "data" / name) for name in ("train", "dev", "test")}
    assert len(split["test"].speakers) == 1
    assert split["train"].speakers == split["dev"].speakers
    assert not set(split["test"].speakers) & set(split["train"].speakers)
    assert {name: len(data) for name, data in split.items()} == {"train": 21, "dev": 9, "test": 10}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speaker": "("}, r"--speaker '\(' is no regular expression"),
        ({"speaker": "ann"}, r"--speaker 'ann' has no group: put parentheses around the speaker"),
        ({"speaker": "(z+)"}, r"none of the 3 recordings .* can be used, .*does not match \(z\+\) \(--speaker"),
        ({"test": "words"}, r"unknown kind of test set 'words'; legal are utterances, speakers \(--test\)"),
        ({"fraction": 1.0}, r"fraction 1.0 "),
    ],
)
def test_folder_refuses(tmp_path, options, message):
    make_folder(tmp_path / "in")
    with pytest.raises(UserError, match=message):
        prepare_folder(tmp_path / "in", tmp_path / "data", progress=False, **options)
    assert not (tmp_path / "data").exists()


def test_folder_without_recordings_with_equal_ids_and_with_damage(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="has no recording; --corpus takes a folder of recordings"):
        prepare_folder(tmp_path / "in", tmp_path / "data", progress=False)
    write(tmp_path / "in" / "a" / "b-c.wav", voice(0.2))
    write(tmp_path / "in" / "a" / "b-c.flac", voice(0.2))
    with pytest.raises(UserError, match=r"two recordings would be 'a-b-c': .*b-c.flac and .*b-c.wav; rename one"):
        prepare_folder(tmp_path / "in", tmp_path / "data", progress=False)
    (tmp_path / "in" / "a" / "b-c.flac").unlink()
    (tmp_path / "in" / "a" / "empty.wav").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be used: 1, at most 0 may be .*\n.*empty\.wav"):
        prepare_folder(tmp_path / "in", tmp_path / "data", progress=False)
    result = prepare_folder(tmp_path / "in", tmp_path / "data", max_bad=1, progress=False)
    assert ids(result) == ["a-b-c"]


def make_ljspeech(root: Path, count: int = 20) -> Path:
    lines = []
    for number in range(1, count + 1):
        write(root / "wavs" / f"LJ001-{number:04d}.wav", voice(0.2))
        lines.append(f"LJ001-{number:04d}|Chapter {number}, he said.|Chapter number {number}, he said.\n")
    (root / "metadata.csv").write_text("".join(lines))
    return root


def test_ljspeech(tmp_path, capsys):
    make_ljspeech(tmp_path / "in" / "LJSpeech-1.1")
    words = ["prepare", "ljspeech", "--corpus", str(tmp_path / "in"), "--output", str(tmp_path / "data")]
    assert main([*words, "--fraction", "0.1", "--no-progress"]) == 0
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["train", "16", "1"], ["dev", "2", "1"], ["test", "2", "1"], ["all", "20", "1"]]
    for split in ("train", "dev", "test"):
        for utterance in DataDir.read(tmp_path / "data" / split):
            assert utterance.speaker == "LJ"
            assert utterance.text == f"Chapter number {int(utterance.utterance_id[6:])}, he said."


def test_ljspeech_refuses_what_does_not_fit(tmp_path):
    root = make_ljspeech(tmp_path / "in", 3)
    write(root / "wavs" / "LJ001-0009.wav", voice(0.2))
    (root / "wavs" / "LJ001-0002.wav").unlink()
    with pytest.raises(UserError, match=r"wavs/LJ001-0002.wav: not there, metadata.csv has it"):
        prepare_ljspeech(root, tmp_path / "data", progress=False)
    result = prepare_ljspeech(root, tmp_path / "data", max_bad=1, fraction=0, progress=False)
    assert ids(result) == ["LJ001-0001", "LJ001-0003"]
    assert "wavs/LJ001-0009.wav\tno line in metadata.csv\n" in (tmp_path / "data" / "left_out.txt").read_text()
    with (root / "metadata.csv").open("a") as file:
        file.write("LJ001-0004|only two\n")
    with pytest.raises(UserError, match=r"metadata.csv:4: 'LJ001-0004\|only two' should be"):
        prepare_ljspeech(root, tmp_path / "data", progress=False)
    with pytest.raises(
        UserError, match=r"is not LJ Speech \(found data, in\); --corpus takes the folder of LJ Speech"
    ):
        prepare_ljspeech(tmp_path, tmp_path / "data", progress=False)


def test_kaldi_splits_are_taken_as_they_are(tmp_path, monkeypatch):
    for split, speakers in (("train", 3), ("test", 2)):
        make_data_dir(tmp_path / "in" / split, speakers=speakers)
    scp = tmp_path / "in" / "train" / "wav.scp"
    scp.write_text(scp.read_text().replace(f"{tmp_path}/", ""))  # Kaldi's paths are often relative
    monkeypatch.chdir(tmp_path)
    result = prepare_kaldi(tmp_path / "in", tmp_path / "data")
    assert {split: len(data) for split, data in result.splits.items()} == {"train": 12, "test": 8}
    for split in result.splits:
        before, after = (DataDir.read(tmp_path / kind / split) for kind in ("in", "data"))
        assert [utterance.ali for utterance in before] == [utterance.ali for utterance in after]
        assert [utterance.text for utterance in before] == [utterance.text for utterance in after]
        assert all(Path(utterance.wav).is_absolute() and Path(utterance.wav).is_file() for utterance in after)
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match=r"train/wav.scp: in/wavs/.* is not there; .*working directory, now /"):
        prepare_kaldi(tmp_path / "in", tmp_path / "data")


def test_kaldi_single_directory_is_divided(tmp_path):
    make_data_dir(tmp_path / "all", speakers=3, per_speaker=10)
    result = prepare_kaldi(tmp_path / "all", tmp_path / "data", fraction=0.1)
    assert {split: len(data) for split, data in result.splits.items()} == {"train": 24, "dev": 3, "test": 3}
    with pytest.raises(UserError, match="is the corpus itself; give another folder"):
        prepare_kaldi(tmp_path / "all", tmp_path / "all")
    with pytest.raises(UserError, match=r"has neither wav.scp nor train/wav.scp \(found all, data, wavs\)"):
        prepare_kaldi(tmp_path, tmp_path / "other")


def test_kaldi_pipes_are_taken_only_when_allowed(tmp_path):
    make_data_dir(tmp_path / "all", speakers=1, per_speaker=3)
    scp = tmp_path / "all" / "wav.scp"
    scp.write_text("".join(f"{name} cat {path} |\n" for name, path in map(str.split, scp.read_text().splitlines())))
    with pytest.raises(UserError, match=r"wav.scp.*\|"):
        prepare_kaldi(tmp_path / "all", tmp_path / "data", fraction=0)
    result = prepare_kaldi(tmp_path / "all", tmp_path / "data", fraction=0, allow_pipes=True)
    assert all(utterance.is_pipe for utterance in result.splits["train"])


def lhotse_entries(folder: Path) -> tuple[list[dict], list[dict]]:
    """Two recordings of three supervisions each, as Lhotse 1.33 writes them."""
    recordings, supervisions = [], []
    for number, speaker in enumerate(("ann", "b b")):
        path = write(folder / f"session.{number}.wav", voice(1.0))
        recordings.append(
            {
                "id": f"session.{number}",
                "sources": [{"type": "file", "channels": [0], "source": str(path)}],
                "sampling_rate": 16000,
                "num_samples": 16000,
                "duration": 1.0,
                "channel_ids": [0],
            }
        )
        for part in range(3):
            supervision = {"id": f"u{number}.{part}", "recording_id": f"session.{number}", "start": 0.3 * part}
            supervision |= {
                "duration": 0.25,
                "channel": 0,
                "text": f"part {part}",
                "language": "en",
                "speaker": speaker,
            }
            supervisions.append(supervision)
    return recordings, supervisions


def write_lines(path: Path, entries: list[dict]) -> Path:
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)
    return path


def test_lhotse_recordings_and_supervisions(tmp_path):
    recordings, supervisions = lhotse_entries(tmp_path / "wavs")
    write_lines(tmp_path / "x_recordings_train.jsonl.gz", recordings)
    write_lines(tmp_path / "x_supervisions_train.jsonl.gz", supervisions)
    prepare_lhotse(tmp_path, tmp_path / "data", fraction=0)
    data = DataDir.read(tmp_path / "data" / "train")
    found = {utterance.utterance_id: utterance for utterance in data}
    assert sorted(found) == [f"ann-u0%2E{n}" for n in range(3)] + [f"b%20b-u1%2E{n}" for n in range(3)]
    utterance = found["ann-u0%2E1"]
    assert (utterance.speaker, utterance.text, utterance.recording) == ("ann", "part 1", "session%2E0")
    assert (utterance.start, utterance.end, utterance.duration) == (0.3, 0.55, 0.25)
    assert utterance.wav == str(tmp_path / "wavs" / "session.0.wav")
    assert main(["data", "validate", "--audio", str(tmp_path / "data" / "train")]) == 0


def test_lhotse_cuts(tmp_path):
    recordings, supervisions = lhotse_entries(tmp_path / "wavs")
    del supervisions[0]["text"]
    supervisions[5]["speaker"] = None
    cuts = []
    for number, recording in enumerate(recordings):
        own = [{**entry, "start": entry["start"] - 0.1} for entry in supervisions[3 * number : 3 * number + 3]]
        cut = {"id": f"cut-{number}", "start": 0.1, "duration": 0.9, "channel": 0, "supervisions": own}
        cuts.append(cut | {"recording": recording, "type": "MonoCut"})
    prepare_lhotse(write_lines(tmp_path / "cuts.jsonl", cuts), tmp_path / "data", fraction=0)
    utterances = DataDir.read(tmp_path / "data" / "train").utterances
    assert [utterance.start for utterance in utterances] == [0.0, 0.3, 0.6, 0.0, 0.3]
    assert all(utterance.text is None for utterance in utterances), "one has none"
    assert (tmp_path / "data" / "left_out.txt").read_text() == "u1.2\tthe supervision has no speaker\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cut: cut.update(type="MixedCut"), r"cuts.jsonl:1: a MixedCut, not a MonoCut"),
        (lambda cut: cut.pop("type"), r"an entry with id, start, duration, channel, not a MonoCut"),
        (lambda cut: cut["recording"].update(transforms=[{"name": "Speed"}]), r"'session.0' is perturbed"),
        (lambda cut: cut["recording"]["sources"][0].update(type="url"), r"has sources url; legal is one file"),
        (lambda cut: cut["recording"]["sources"][0].update(source="gone.wav"), r"gone.wav of recording .* not there"),
        (lambda cut: cut["supervisions"][0].pop("start"), r"cuts.jsonl:1: an entry has no 'start'; --corpus takes"),
        (lambda cut: cut["supervisions"].append(cut["supervisions"][0]), r"duplicate supervision 'u0.0'"),
    ],
)
def test_lhotse_refuses(tmp_path, change, message):
    recordings, supervisions = lhotse_entries(tmp_path / "wavs")
    cut = {"id": "cut", "start": 0, "duration": 1.0, "channel": 0, "supervisions": supervisions[:3]}
    cut |= {"recording": recordings[0], "type": "MonoCut"}
    change(cut)
    with pytest.raises(UserError, match=message):
        prepare_lhotse(write_lines(tmp_path / "cuts.jsonl", [cut]), tmp_path / "data", fraction=0)


def test_lhotse_refuses_what_is_no_manifest(tmp_path):
    with pytest.raises(UserError, match="must have one manifest of recordings with its supervisions, found none"):
        prepare_lhotse(tmp_path, tmp_path / "data")
    (tmp_path / "cuts.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match=r"cuts.jsonl.gz:1: cannot be read \(Not a gzipped file"):
        prepare_lhotse(tmp_path / "cuts.jsonl.gz", tmp_path / "data")
    (tmp_path / "cuts.jsonl").write_text("[1, 2]\n")
    with pytest.raises(UserError, match=r"cuts.jsonl:1: no object with an id"):
        prepare_lhotse(tmp_path / "cuts.jsonl", tmp_path / "data")
