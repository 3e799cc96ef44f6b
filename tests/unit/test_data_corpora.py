"""Corpora: FSDD from zip and folder, VCTK in both layouts, the embedded corpus."""

import zipfile

import numpy as np
import pytest
import soundfile
from data_fixtures import voice, write

from sqvae_speech.bin.main import main
from sqvae_speech.data.corpora.fsdd import WORDS, prepare_fsdd
from sqvae_speech.data.corpora.mini import prepare_mini
from sqvae_speech.data.corpora.vctk import prepare_vctk
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.errors import UserError

SENTENCES = [f"Sentence number {word}, please." for word in WORDS]


@pytest.fixture(scope="module")
def fsdd(tmp_path_factory):
    """Two speakers, ten digits, indices 0 to 14; a recording's samples tell which it is."""
    root = tmp_path_factory.mktemp("fsdd") / "fsdd"
    rng = np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        for digit in range(10):
            for index in range(15):
                wav = rng.uniform(-0.5, 0.5, int(8000 * rng.uniform(0.15, 0.8)))
                write(root / "recordings" / f"{digit}_{speaker}_{index}.wav", wav, 8000)
    (root / "recordings" / "README.wav").write_text("not a recording")
    return root


@pytest.fixture(scope="module")
def fsdd_splits(fsdd, tmp_path_factory):
    output = tmp_path_factory.mktemp("fsdd-data")
    return output, prepare_fsdd(fsdd, output, progress=False)


def test_fsdd_splits_by_index_and_loses_nothing(fsdd, fsdd_splits):
    output, result = fsdd_splits
    places = {"test": range(5), "dev": range(5, 10), "train": range(10, 15)}
    for split, indices in places.items():
        recordings = {}
        for path in (fsdd / "recordings").glob("*_*.wav"):
            digit, speaker, index = path.stem.split("_")
            if int(index) in indices:
                samples = soundfile.read(path, dtype="int16")[0]
                recordings[speaker, WORDS[int(digit)], samples.tobytes()] = path.stem
        found = []
        for utterance in DataDir.read(output / split):
            samples, rate = soundfile.read(utterance.wav, dtype="int16")
            assert rate == 8000
            assert utterance.duration == pytest.approx(len(samples) / rate, abs=1e-6)
            assert utterance.text == " ".join(interval.label for interval in utterance.ali)
            assert utterance.ali[0].onset == 0
            assert utterance.ali[-1].offset == pytest.approx(utterance.duration, abs=1e-6)
            for interval in utterance.ali:
                part = samples[round(interval.onset * rate) : round(interval.offset * rate)]
                found.append(recordings[utterance.speaker, interval.label, part.tobytes()])
        assert sorted(found) == sorted(recordings.values())
    assert [item.name for item in result.left_out] == ["recordings/README.wav"]
    assert "README.wav\tfile name is not" in (output / "left_out.txt").read_text()


def test_fsdd_with_a_voice_held_out(fsdd, tmp_path):
    result = prepare_fsdd(fsdd, tmp_path, test_speakers=["bob"], progress=False)
    speakers = {split: set(data.speakers) for split, data in result.splits.items()}
    assert speakers == {"train": {"ann"}, "dev": {"ann"}, "test": {"bob"}}
    digits = {split: sum(len(utterance.ali) for utterance in data) for split, data in result.splits.items()}
    assert digits == {"train": 50, "dev": 100, "test": 150}
    assert (tmp_path / "splits.tsv").read_text().startswith("# method test speakers bob, seed 0\n")
    with pytest.raises(UserError, match=r"no speaker 'bop', did you mean 'bob'\?; there are ann, bob"):
        prepare_fsdd(fsdd, tmp_path, test_speakers=["bop"], progress=False)
    with pytest.raises(UserError, match="ann bob are all that there are; leave some to train on"):
        prepare_fsdd(fsdd, tmp_path, test_speakers=["ann", "bob"], progress=False)


def test_fsdd_utterances_last_3_to_4_seconds(fsdd_splits):
    output, _ = fsdd_splits
    durations = [u.duration for split in ("train", "dev", "test") for u in DataDir.read(output / split)]
    assert min(durations) >= 3
    assert max(durations) <= 4


def test_fsdd_zip_equals_folder(fsdd, fsdd_splits, tmp_path):
    with zipfile.ZipFile(tmp_path / "fsdd.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in fsdd.rglob("*.wav"):
            archive.write(path, path.relative_to(fsdd.parent))
    prepare_fsdd(tmp_path / "fsdd.zip", tmp_path / "data", progress=False)
    output, _ = fsdd_splits
    for path in [*output.glob("wavs/*"), *output.glob("*/*")]:
        content = (tmp_path / "data" / path.relative_to(output)).read_bytes()
        assert content.replace(bytes(tmp_path / "data"), bytes(output)) == path.read_bytes()


def test_fsdd_seed_decides_the_joining(fsdd, fsdd_splits, tmp_path):
    prepare_fsdd(fsdd, tmp_path, seed=1, progress=False)
    assert (tmp_path / "test" / "text").read_text() != (fsdd_splits[0] / "test" / "text").read_text()


def make_vctk(root, layout, speakers=("p225", "p226", "s5"), sentences=SENTENCES):
    for speaker in speakers:
        for number, text in enumerate(sentences, 1):
            name = f"{speaker}_{number:03d}"
            if layout == "0.92":
                for mic in ("mic1", "mic2"):
                    write(root / "wav48_silence_trimmed" / speaker / f"{name}_{mic}.flac", voice(0.2))
            else:
                write(root / "wav48" / speaker / f"{name}.wav", voice(0.2))
            path = root / "txt" / speaker / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")


@pytest.mark.parametrize(("layout", "suffix"), [("0.92", "_mic1.flac"), ("0.80", ".wav")])
def test_vctk_layouts(tmp_path, layout, suffix):
    make_vctk(tmp_path / "VCTK", layout)
    result = prepare_vctk(tmp_path / "VCTK", tmp_path / "data", progress=False)
    texts = {}
    for split in ("train", "dev", "test"):
        data = DataDir.read(tmp_path / "data" / split)
        assert data.utterances == result.splits[split].utterances
        assert data.speakers == ("p225", "p226", "s5")
        texts[split] = {utterance.text for utterance in data}
        for utterance in data:
            speaker, number = utterance.utterance_id.split("-")
            assert utterance.wav.endswith(f"/{speaker}/{speaker}_{number}{suffix}")
            assert utterance.text == SENTENCES[int(number) - 1]
            assert utterance.duration == 0.2
    assert {split: len(found) for split, found in texts.items()} == {"train": 8, "dev": 1, "test": 1}
    assert set.union(*texts.values()) == set(SENTENCES)  # so the splits share no sentence


def test_vctk_test_set_of_other_speakers(tmp_path):
    make_vctk(tmp_path / "VCTK", "0.92", speakers=[f"p{n}" for n in range(225, 233)])
    prepare = {"test": "speakers", "fraction": 0.25, "progress": False}
    result = prepare_vctk(tmp_path / "VCTK", tmp_path / "data", **prepare)
    speakers = {split: set(data.speakers) for split, data in result.splits.items()}
    assert len(speakers["test"]) == 2
    assert len(speakers["train"]) == 6
    assert not speakers["test"] & speakers["train"]
    assert speakers["dev"] == speakers["train"]
    assert len(result.splits["test"]) == 20, "all that they say"
    texts = {split: {utterance.text for utterance in result.splits[split]} for split in ("train", "dev")}
    assert not texts["train"] & texts["dev"]
    assert (tmp_path / "data" / "splits.tsv").read_text().startswith("# method speakers, fraction 0.25, seed 0\n")
    named = {"test_speakers": ["p226", "p231"], "fraction": 0.1, "progress": False}
    result = prepare_vctk(tmp_path / "VCTK", tmp_path / "data", **named)
    assert set(result.splits["test"].speakers) == {"p226", "p231"}
    others = {"p225", "p227", "p228", "p229", "p230", "p232"}
    assert set(result.splits["train"].speakers) == set(result.splits["dev"].speakers) == others
    assert len(result.splits["test"]) == 20
    with pytest.raises(UserError, match=r"unknown kind of test set 'subsets'; legal are utterances, speakers"):
        prepare_vctk(tmp_path / "VCTK", tmp_path / "data", test="subsets", progress=False)


def test_vctk_found_a_folder_deeper(tmp_path):
    make_vctk(tmp_path / "downloads" / "VCTK-Corpus-0.92", "0.92")
    assert len(prepare_vctk(tmp_path / "downloads", tmp_path / "data", progress=False).splits["train"]) == 24


def test_vctk_left_out_with_reasons(tmp_path):
    root = tmp_path / "VCTK"
    make_vctk(root, "0.92")
    make_vctk(root, "0.92", speakers=["p315"])
    for path in (root / "wav48_silence_trimmed" / "p315").glob("*_mic2.flac"):
        path.unlink()
    (root / "txt" / "p225" / "p225_004.txt").unlink()
    (root / "wav48_silence_trimmed" / "p226" / "p226_002_mic2.flac").unlink()
    write(root / "wav48_silence_trimmed" / "p226" / "p226 take 2.wav", voice(0.2))
    (root / "wav48_silence_trimmed" / "p226" / "log.txt").write_text("not audio")

    result = prepare_vctk(root, tmp_path / "data", mic="mic2", progress=False)
    left = {item.name.split("/", 1)[1]: item.reason for item in result.left_out if "mic1" not in item.name}
    assert left == {
        "p225/p225_004_mic2.flac": "no transcript in txt/",
        "p226/p226 take 2.wav": "file name is not {speaker}_{sentence}_mic2.wav",
    }
    other = {item.name.split("/", 1)[1]: item.reason for item in result.left_out if "mic1" in item.name}
    assert other["p225/p225_001_mic1.flac"] == "other microphone"
    assert other["p226/p226_002_mic1.flac"] == "not recorded with mic2"
    reason = "speaker has no recording of mic2: technical problems, by the corpus' README"
    assert other["p315/p315_001_mic1.flac"] == reason
    assert sum(map(len, result.splits.values())) == 28
    assert f"  10  {reason}" in result.summary().splitlines()


def test_vctk_without_transcripts(tmp_path):
    make_vctk(tmp_path / "VCTK", "0.80")
    (tmp_path / "VCTK" / "txt").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"has no txt/ folder.*--no-text"):
        prepare_vctk(tmp_path / "VCTK", tmp_path / "data", progress=False)
    result = prepare_vctk(tmp_path / "VCTK", tmp_path / "data", require_text=False, progress=False)
    assert sum(map(len, result.splits.values())) == 30
    assert not (tmp_path / "data" / "train" / "text").exists()


def test_mini_has_the_phones(tmp_path):
    root = tmp_path / "mini"
    make_vctk(root, "0.92", speakers=["m01", "f02"])
    lines = [
        f"{s}_{n:03d} {t} {t + 0.1} {p}\n"
        for s in ("m01", "f02")
        for n in range(1, 11)
        for t, p in ((0, "a"), (0.1, "b"))
    ]
    (root / "ali").write_text("".join(lines))
    prepare_mini(root, tmp_path / "data", progress=False)
    for split in ("train", "dev", "test"):
        for utterance in DataDir.read(tmp_path / "data" / split):
            assert utterance.ali == ((0.0, 0.1, "a"), (0.1, 0.2, "b"))
    result = prepare_mini(root, tmp_path / "voices", test_speakers=["f02"], progress=False)
    assert {split: set(data.speakers) for split, data in result.splits.items()} == {
        "train": {"m01"},
        "dev": {"m01"},
        "test": {"f02"},
    }
    (root / "ali").write_text("".join(lines[2:]))
    with pytest.raises(UserError, match="has no line for 'm01-001'"):
        prepare_mini(root, tmp_path / "data", progress=False)
    (root / "ali").write_text("m01_001 0 0.1\n")
    with pytest.raises(UserError, match=r"ali:1: 'm01_001 0 0.1' should be '<utterance> <onset> <offset> <phone>'"):
        prepare_mini(root, tmp_path / "data", progress=False)
    (root / "ali").unlink()
    with pytest.raises(UserError, match="has no file `ali`"):
        prepare_mini(root, tmp_path / "data", progress=False)


def test_command(tmp_path, capsys):
    make_vctk(tmp_path / "VCTK", "0.92")
    arguments = ["prepare", "vctk", "--corpus", str(tmp_path / "VCTK"), "--output", str(tmp_path / "data")]
    assert main([*arguments, "--mic", "mic2", "--fraction", "0.2", "--no-progress"]) == 0
    assert capsys.readouterr().out == (
        "split  utterances  speakers  hours  shortest s  longest s\n"
        "train          18         3  0.001        0.20       0.20\n"
        "dev             6         3  0.000        0.20       0.20\n"
        "test            6         3  0.000        0.20       0.20\n"
        "all            30         3  0.002        0.20       0.20\n"
        "\n"
        "left out: 30 recordings\n"
        "  30  other microphone\n"
    )
    assert (
        main(["data", "validate", "--audio", *(str(tmp_path / "data" / split) for split in ("train", "dev", "test"))])
        == 0
    )
    assert capsys.readouterr().out.count("valid (Kaldi data directory; 6 utterances, 3 speakers") == 2


@pytest.mark.parametrize(
    "arguments",
    [["prepare"], ["prepare", "timit"], ["prepare", "fsdd", "--corpus", "x"], ["prepare", "fsdd", "--mic", "mic1"]],
)
def test_command_prints_the_help_for_bad_options(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: sqvae-speech prepare" in capsys.readouterr().err
