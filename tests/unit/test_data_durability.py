"""Shards under what happens to long runs: SIGKILL at any moment, and corpora with damaged files in them."""

import fcntl
import io
import os
import random
import signal
import subprocess
import sys
import time
import wave

import numpy as np
import pytest
import soundfile
from data_fixtures import RATE, make_data_dir, voice, write

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data import shard_writing
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.shards import write_shards
from sqvae_speech.errors import UserError

SPEC = MelSpec.preset("sqvae16k")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_the_same_bytes(tmp_path):
    make_data_dir(tmp_path / "data" / "train", speakers=4, per_speaker=75)
    command = [sys.executable, "-m", "sqvae_speech.bin.main", "shards", str(tmp_path / "data" / "train")]
    options = ["--utterances-per-shard", "3", "--num-workers", "1", "--no-progress"]
    whole = write_shards(tmp_path / "data" / "train", tmp_path / "whole", SPEC, utterances_per_shard=3)
    expected = contents(whole.folder)
    dump = tmp_path / "dump"
    rng = random.Random(0)
    for _ in range(10):
        before = len(list(dump.glob("*.tar")))
        process = subprocess.Popen([*command, str(dump), *options], start_new_session=True)
        while process.poll() is None and len(list(dump.glob("*.tar"))) == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        assert process.poll() is None, "it was done before it was killed: make the corpus larger"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (dump / "index.json").exists()
    assert 10 <= len(list(dump.glob("*.tar"))) < len(expected) // 2
    subprocess.run([*command, str(dump), *options], check=True)
    assert contents(dump) == expected  # no shard is missing, none is double, nothing half-written is left


def flac(wav, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, wav, rate, format="FLAC")
    return file.getvalue()


def wav_bytes(wav, rate=RATE, channels=1):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((wav * 32767).astype(np.int16).tobytes())
    return file.getvalue()


def truncated(rng, good):
    make, suffix = rng.choice([(flac, "flac"), (wav_bytes, "wav")])
    data = make(good)
    return data[: rng.randrange(len(data) - 4000)], suffix  # at least an eighth of a second is gone


def zeroed(rng, good):
    data = bytearray(flac(good))
    size = rng.choice([64, 1000, len(data)])
    start = rng.randrange(len(data) - size + 1)
    data[start : start + size] = bytes(size)
    return (bytes(data), "flac") if any(data[:4]) or size == len(data) else (bytes(len(data)), "flac")


def overwritten(rng, good):
    data = bytearray(flac(good))
    start = rng.randrange(9000, len(data) - 200)  # behind the header, whose padding nobody reads
    data[start : start + 200] = rng.randbytes(200)
    return bytes(data), "flac"


def renamed(rng, good):
    return rng.choice([b"<!DOCTYPE html><p>404</p>", b"\x89PNG\r\n\x1a\n" + rng.randbytes(2000), b"RIFF"]), "wav"


def wrong_header(rng, good):
    kind = rng.choice(["rate", "channels", "length"])
    if kind == "rate":
        return wav_bytes(good, rng.choice([8000, 22050, 48000])), "wav"
    if kind == "channels":
        return wav_bytes(good[: len(good) // 2 * 2], channels=2), "wav"
    data = bytearray(wav_bytes(good))
    data[40:44] = rng.randrange(0, 2 * len(good) - 4000).to_bytes(4, "little")  # the data chunk ends too soon
    return bytes(data), "wav"


def test_two_hundred_damaged_recordings_are_listed_one_by_one(tmp_path):
    rng = random.Random(1)
    kinds = (truncated, zeroed, overwritten, renamed, wrong_header)
    good = voice(0.8)
    utterances = []
    for number in range(200):
        data, suffix = kinds[number % len(kinds)](rng, good)
        path = tmp_path / "wavs" / f"bad-{number:03d}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        utterances.append(Utterance(path.stem, "s", str(path), duration=len(good) / RATE))
    for number in range(20):
        path = write(tmp_path / "wavs" / f"good-{number:03d}.wav", good)
        utterances.append(Utterance(path.stem, "s", str(path), duration=len(good) / RATE))
    DataDir(utterances).write(tmp_path / "train")
    with pytest.raises(UserError, match=r"cannot be used: 200, at most 199 may be(.|\n)*and 195 more"):
        write_shards(tmp_path / "train", tmp_path / "dump", SPEC, max_bad=199, progress=False)
    assert not (tmp_path / "dump" / "index.json").exists()
    index = write_shards(tmp_path / "train", tmp_path / "dump", SPEC, max_bad=200, progress=False)
    assert [bad.name for bad in index.bad] == [u.utterance_id for u in utterances if "bad" in u.utterance_id]
    assert all(len(bad.reason) > 20 for bad in index.bad)
    assert ShardIndex.load(tmp_path / "dump").num_utterances == 20
    listed = (tmp_path / "dump" / "bad.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == [bad.name for bad in index.bad]


def test_two_runs_at_once_are_refused(tmp_path):
    make_data_dir(tmp_path / "data" / "train", speakers=1, per_speaker=2)
    (tmp_path / "dump").mkdir()
    with (tmp_path / "dump" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another run is writing shards to .*dump; wait for it"):
            write_shards(tmp_path / "data" / "train", tmp_path / "dump", SPEC, progress=False)
    write_shards(tmp_path / "data" / "train", tmp_path / "dump", SPEC, progress=False)


def test_what_a_worker_left_that_died_in_the_middle_is_cleared_away(tmp_path, monkeypatch):
    make_data_dir(tmp_path / "data" / "train", speakers=1, per_speaker=4)
    options = {"utterances_per_shard": 2, "progress": False}
    expected = contents(write_shards(tmp_path / "data" / "train", tmp_path / "whole", SPEC, **options).folder)
    write = shard_writing._write

    def dies_once_and_is_done_by_another(task):
        task.path.with_name(f".{task.path.name}.elsewhere.1.1.part").write_bytes(b"half")
        return write(task)

    monkeypatch.setattr(shard_writing, "_write", dies_once_and_is_done_by_another)
    write_shards(tmp_path / "data" / "train", tmp_path / "dump", SPEC, **options)
    assert contents(tmp_path / "dump") == expected


def test_what_a_killed_run_left_is_cleared_away(tmp_path):
    make_data_dir(tmp_path / "data" / "train", speakers=1, per_speaker=2)
    expected = contents(write_shards(tmp_path / "data" / "train", tmp_path / "whole", SPEC, progress=False).folder)
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / ".train-000000.tar.4711.part").write_bytes(b"half")
    write_shards(tmp_path / "data" / "train", tmp_path / "dump", SPEC, progress=False)
    assert contents(tmp_path / "dump") == expected
