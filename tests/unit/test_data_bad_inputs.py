"""Bad input through the command line: one clear message with the value and the remedy, exit code 1, no traceback."""

import re

import numpy as np
import pytest
from data_fixtures import RATE, make_data_dir, voice, write

from sqvae_speech.bin.main import main
from sqvae_speech.data.kaldi import DataDir, Utterance


def fails(capsys, arguments, *patterns):
    """Run a command that has to fail; an exception that is not a message would fail the test by itself."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 1
    err = capsys.readouterr().err
    assert len(re.findall("^error: ", err, re.MULTILINE)) == 1, err
    assert "Traceback" not in err
    for pattern in patterns:
        assert re.search(pattern, err), f"{pattern!r} not in {err!r}"
    return err


# What a recording can be: how it is made, what the message says. Each is usable to the eye of a file manager.
def nan(path):
    wav = voice(0.5)
    wav[RATE // 4] = np.nan
    write(path, wav, subtype="FLOAT")


def truncated_flac(path):
    write(path, voice(0.5), format="FLAC")
    path.write_bytes(path.read_bytes()[:4000])


RECORDINGS = {
    "missing": (lambda path: None, r"no such recording"),
    "unreadable": (lambda path: path.write_text("not audio at all"), r"not a readable recording .*WAV, FLAC"),
    "no bytes": (lambda path: path.write_bytes(b""), r"the file is empty \(0 bytes\)"),
    "no samples": (lambda path: write(path, np.zeros(0, np.float32)), r"the recording is empty \(0 samples\)"),
    "truncated": (truncated_flac, r"get the file again"),
    "silent": (lambda path: write(path, np.zeros(RATE, np.float32)), r"silent, its largest sample is 0 of 1 .*leave"),
    "too short": (lambda path: write(path, voice(0.02)), r"too short.*leave it out"),
    "stereo": (lambda path: write(path, np.stack([voice(0.5)] * 2, 1)), r"2 channels.*--channel mix.* or 0\|1"),
    "another rate": (
        lambda path: write(path, voice(0.5), 8000),
        r"8000 Hz, the MelSpec has 16000 Hz; pass --resample",
    ),
    "NaN": (nan, r"1 of 8000 samples are NaN or infinite, the first at 0.250 s; repair"),
}


@pytest.fixture
def data(tmp_path):
    make_data_dir(tmp_path / "train", speakers=2, per_speaker=2)
    return tmp_path


@pytest.mark.parametrize("kind", RECORDINGS)
def test_bad_recording(data, capsys, kind):
    make, message = RECORDINGS[kind]
    (data / "train" / "utt2dur").unlink()  # which would say the same of each: another length than it was
    path = data / "wavs" / "s1-000.wav"
    path.unlink()
    make(path)
    command = ["shards", data / "train", data / "dump", "--num-workers", 1, "--no-progress"]
    err = fails(
        capsys,
        command,
        r"^error: utterances that cannot be used: 1, at most 0 may be \(--max-bad\):\n  s1-000: ",
        re.escape(str(path)),
        message,
        r"Repair or remove them, or pass --max-bad 1",
    )
    assert len(err.splitlines()) == 3
    assert not (data / "dump" / "index.json").exists()
    assert re.fullmatch(rf"s1-000\t.*{message}.*\n", (data / "dump" / "bad.txt").read_text())
    # with permission it goes on, and says what it left out
    assert main([str(part) for part in [*command, "--max-bad", 1]]) == 0
    out = capsys.readouterr().out
    assert re.search(r"utterances +3\n +speakers +2\n", out)
    assert re.search(rf"left out: s1-000: .*{message}", out)


def test_remedies_work(data, capsys):
    (data / "train" / "utt2dur").unlink()
    write(data / "wavs" / "s1-000.wav", np.stack([voice(0.5)] * 2, 1), 8000)
    command = ["shards", str(data / "train"), str(data / "dump"), "--num-workers", "1", "--no-progress"]
    assert main([*command, "--resample", "--channel", "mix"]) == 0
    assert re.search(r"utterances +4\n", capsys.readouterr().out)


def test_no_usable_recording_at_all(data, capsys):
    command = ["shards", data / "train", data / "dump", "--mel-spec", "vocos24k", "--no-progress", "--max-bad", 9]
    fails(capsys, [*command, "--num-workers", 1], r"no utterance can be used:\n  s0-000: .*the MelSpec has 24000 Hz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("utt2spk", "s0-000 s0\ns0-000 s0\n", r"utt2spk:2: duplicate utterance id 's0-000'; keep one"),
        ("utt2spk", "s0 000 s0\n", r"utt2spk:1: 's0 000 s0' should be '<id> <speaker>', without white space"),
        ("utt2spk", "s0.000 s0\n", r"utt2spk:1: utterance id 's0.000' contains a dot; .*example to 's0%2E000'"),
        ("wav.scp", "s0-000 sox x |\n", r"wav.scp:1: 'sox x \|' is a command.*--allow-pipes"),
        ("text", "s0-001 x\ns0-000 y\n", r"text:2: 's0-000' comes after 's0-001': not sorted; `LC_ALL=C sort"),
    ],
)
@pytest.mark.parametrize("command", ["shards", "data validate"])
def test_bad_data_directory(data, capsys, name, content, message, command):
    (data / "train" / name).write_text(content)
    fails(capsys, [*command.split(), data / "train", *([data / "dump"] if command == "shards" else [])], message)
    assert not (data / "dump").exists()


def test_failing_command_in_wav_scp(data, capsys):
    utterances = [
        *DataDir.read(data / "train"),
        Utterance("s2-0", "s2", "echo oops >&2; false |", duration=1, text="x"),
    ]
    DataDir(utterances).write(data / "train")
    command = ["shards", data / "train", data / "dump", "--allow-pipes", "--num-workers", 1, "--no-progress"]
    fails(capsys, command, r"s2-0: command 'echo oops >&2; false \|' ended with code 1: oops")


def test_no_such_data_directory(tmp_path, capsys):
    fails(capsys, ["shards", tmp_path / "none", tmp_path / "dump"], r"none does not exist; `sqvae-speech prepare`")
    fails(capsys, ["data", "validate", tmp_path / "none"], r"none does not exist")
    (tmp_path / "file").write_text("")
    fails(capsys, ["data", "validate", tmp_path / "file"], r"file is a file, not a folder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mel-spec", "sqvae16"], r"'?sqvae16'?.*did you mean 'sqvae16k'"),
        (["--num-workers", 0], r"num_workers 0; at least 1"),
        (["--utterances-per-shard", 0], r"utterances_per_shard 0; at least 1"),
        (["--max-bad", -1], r"max_bad -1; legal is 0 or more"),
        (["--channel", "left"], r"channel 'left'; legal are mix and a number from 0"),
        (["--resample", "linear"], r"resample 'linear'; legal are soxr, sinc"),
        (["--trim", 0], r"trim 0 dB; legal is more than 0"),
        (["--loudness", 3], r"loudness 3 LUFS; legal is above -70 and up to 0"),
        (["--device", "tpu"], r"device 'tpu'; legal are cpu, cuda"),
        (["--scheduler", "tcp://127.0.0.1:1", "--slurm", 2], r"exclude each other: give --scheduler or --slurm"),
        (["--slurm", -1], r"slurm_jobs -1; legal is 0 or more"),
        (["--slurm-option", "cores=2"], r"--slurm-option is for --slurm, which was not given"),
        (["--slurm", 1, "--slurm-option", "cores"], r"'cores'; it takes KEY=VALUE"),
        (["--slurm", 1, "--slurm-option", "core=2"], r"unknown SLURM option 'core', did you mean 'cores'"),
        (["--slurm", 1, "--slurm-option", "cores=two"], r"SLURM option cores is 'two'; it takes a whole number"),
    ],
)
def test_illegal_settings_of_shards(data, capsys, options, message):
    fails(capsys, ["shards", data / "train", data / "dump", *options], message)


def prepare(name, corpus, tmp_path):
    return ["prepare", name, "--corpus", corpus, "--output", tmp_path / "data", "--no-progress"]


@pytest.mark.parametrize("name", ["fsdd", "vctk", "mini"])
def test_bad_corpus_folder(tmp_path, capsys, name):
    fails(
        capsys, prepare(name, tmp_path / "none", tmp_path), r"corpus .*none does not exist; --corpus takes the [fF]"
    )
    (tmp_path / "folder" / "other").mkdir(parents=True)
    fails(capsys, prepare(name, tmp_path / "folder", tmp_path), r"/folder .*--corpus takes the")
    (tmp_path / "file.zip").write_text("no zip")
    fails(
        capsys, prepare(name, tmp_path / "file.zip", tmp_path), r"file.zip is (a file|not a readable zip).*--corpus"
    )
    assert not (tmp_path / "data").exists()


@pytest.fixture
def vctk(tmp_path):
    root = tmp_path / "VCTK"
    for speaker in ("p1", "p2"):
        for number in range(1, 5):
            write(root / "wav48" / speaker / f"{speaker}_{number:03d}.wav", voice(0.3))
            (root / "txt" / speaker).mkdir(parents=True, exist_ok=True)
            (root / "txt" / speaker / f"{speaker}_{number:03d}.txt").write_text(f"Sentence {number}.")
    return root


@pytest.mark.parametrize("kind", ["unreadable", "no bytes", "no samples"])
def test_vctk_bad_recording(vctk, tmp_path, capsys, kind):
    make, message = RECORDINGS[kind]
    make(vctk / "wav48" / "p1" / "p1_002.wav")
    fails(
        capsys,
        prepare("vctk", vctk, tmp_path),
        r"that cannot be used: 1, at most 0 .*--max-bad\)",
        r"p1_002.wav: ",
        message,
    )
    assert not (tmp_path / "data").exists()
    assert main([str(part) for part in [*prepare("vctk", vctk, tmp_path), "--max-bad", 1]]) == 0
    assert re.search(rf"damaged: .*p1_002.wav: .*{message}", capsys.readouterr().out)
    assert "p1-002" not in "".join((tmp_path / "data" / s / "utt2spk").read_text() for s in ("train", "dev", "test"))


def test_vctk_bad_ids(vctk, tmp_path, capsys):
    (vctk / "wav48" / "p2").rename(vctk / "wav48" / "p.2")
    (vctk / "txt" / "p2").rename(vctk / "txt" / "p.2")
    for path in [*(vctk / "wav48" / "p.2").iterdir(), *(vctk / "txt" / "p.2").iterdir()]:
        path.rename(path.with_name(path.name.replace("p2", "p.2")))
    fails(capsys, prepare("vctk", vctk, tmp_path), r"wav48/p.2/p.2_001.wav: speaker 'p.2' contains a dot", r"p%2E2")
    write(vctk / "wav48" / "p1" / "p1_002.flac", voice(0.3))
    fails(capsys, prepare("vctk", vctk, tmp_path), r"duplicate recording 'p1_002'.*two formats.*keep one")


@pytest.mark.parametrize(
    "kind", ["unreadable", "no bytes", "no samples", "truncated", "silent", "stereo", "another rate", "NaN"]
)
def test_fsdd_bad_recording(tmp_path, capsys, kind):
    root = tmp_path / "fsdd" / "recordings"
    for index in range(15):
        write(root / f"7_ann_{index}.wav", voice(0.3))
    make, message = RECORDINGS[kind]
    message = {
        "silent": r"silent, all 16000 samples are 0; leave it out",
        "another rate": r"8000 Hz, the other recordings have 16000 Hz; resample it",
    }.get(kind, message)
    (root / "7_ann_3.wav").unlink()
    make(root / "7_ann_3.wav")
    fails(
        capsys,
        prepare("fsdd", tmp_path / "fsdd", tmp_path),
        r"recordings that cannot be used: 1, at most 0",
        r"7_ann_3.wav",
        message,
    )
    assert not (tmp_path / "data").exists()
    assert main([str(part) for part in [*prepare("fsdd", tmp_path / "fsdd", tmp_path), "--max-bad", 1]]) == 0
    (utterance,) = DataDir.read(tmp_path / "data" / "test")
    assert utterance.text == "seven seven seven seven"


def test_illegal_fraction(vctk, tmp_path, capsys):
    fails(capsys, [*prepare("vctk", vctk, tmp_path), "--fraction", 0.9], r"fraction 0.9 .* legal are 0 to 0.4")


@pytest.fixture
def dump(data, capsys):
    command = [
        "shards",
        data / "train",
        data / "dump",
        "--num-workers",
        1,
        "--utterances-per-shard",
        2,
        "--no-progress",
    ]
    assert main([str(part) for part in command]) == 0
    return data / "dump"


def test_bad_shards(dump, capsys):
    tar, sidecar = dump / "train-000001.tar", dump / "train-000001.json"
    whole, listed = tar.read_bytes(), sidecar.read_text()
    again = r"remove the shards named and run `sqvae-speech shards` again with the same options"
    tar.write_bytes(whole[:-512])
    sizes = rf"train-000001.tar: is truncated: {len(whole) - 512} bytes, index.json says {len(whole)}\n"
    fails(capsys, ["data", "validate", dump], sizes, again)
    tar.write_bytes(whole[:600] + b"!" + whole[601:])
    fails(capsys, ["data", "validate", dump], r"train-000001.tar: has changed \(SHA-256")
    tar.unlink()
    fails(capsys, ["data", "validate", dump], r"train-000001.tar: is missing\n", again)
    tar.write_bytes(whole)
    sidecar.write_text(listed.replace("s1-000", "s1-009").replace('"bytes": ', '"bytes": 1'))
    fails(capsys, ["data", "validate", dump], r"train-000001.json, its contents, does not belong")
    sidecar.unlink()
    fails(capsys, ["data", "validate", dump], r"train-000001.json, its contents, is missing\n", again)
    sidecar.write_text(listed)
    assert main(["data", "validate", str(dump)]) == 0
    assert "valid (2 shards, mel sqvae16k; 4 utterances, 2 speakers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"index.json is not JSON"),
        ("[]", r"holds no JSON object"),
        ('{"version": 2}', r"is not an index of shards"),
        ('{"version": 0}', r"index.json has version 0, this is 2; write the shards again"),
    ],
)
def test_bad_index(dump, capsys, content, message):
    (dump / "index.json").write_text(content)
    fails(capsys, ["data", "validate", dump], message)


def test_recordings_that_differ_from_the_directory(data, capsys):
    write(data / "wavs" / "s1-000.wav", voice(2.0))
    assert main(["data", "validate", str(data / "train")]) == 0
    fails(
        capsys,
        ["data", "validate", "--audio", data / "train"],
        r"'s1-000' lasts 0.320 s by utt2dur, 2.000 s by .*s1-000.wav",
    )
    (data / "wavs" / "s0-000.wav").unlink()
    fails(capsys, ["data", "validate", "--audio", data / "train"], r"s0-000.wav: no such recording")
