"""Shards: numbers, bytes, resuming, and that plain webdataset reads them."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
import webdataset
from data_fixtures import RATE, make_data_dir, voice, write

from sqvae_speech.audio.front_end import FrontEnd
from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.wav import read_wav
from sqvae_speech.data import shard_task, shard_writing
from sqvae_speech.data.cluster import ClusterConfig
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.reader import ShardReader, iterate_utterances
from sqvae_speech.data.shards import write_shards
from sqvae_speech.errors import UserError

SPEC = MelSpec.preset("sqvae16k")


@pytest.fixture
def corpus(tmp_path):
    make_data_dir(tmp_path / "data" / "train")
    return tmp_path


def shards(corpus, output="dump", **options):
    options = {"utterances_per_shard": 5, "progress": False, **options}
    return write_shards(corpus / "data" / "train", corpus / output, options.pop("spec", SPEC), **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_numbers(corpus):
    index = shards(corpus)
    data = DataDir.read(corpus / "data" / "train")
    log_mel = LogMel(SPEC, torch.float32)
    reader = ShardReader(index)
    assert [entry.utterance_id for entry in index.entries()] == [u.utterance_id for u in data]
    for utterance, entry in zip(data, index.entries(), strict=True):
        wav, _ = read_wav(utterance.wav)
        expected = log_mel(torch.from_numpy(wav)[None])
        found = reader.utterance(entry)
        assert np.array_equal(found.mel, expected.mel[0].numpy())
        assert found.peak == np.abs(wav).max()
        assert found.meta == {
            "utterance_id": utterance.utterance_id,
            "speaker": utterance.speaker,
            "num_frames": expected.mel.shape[2],
            "num_samples": len(wav),
            "sample_rate": 16000,
            "recording_sample_rate": 16000,
            "peak": found.peak,
            "clipped": False,
            "text": utterance.text,
            "ali": [[0.0, 0.1, "aa"], [0.1, 0.2, "bb"]],
        }


def test_index(corpus):
    index = shards(corpus)
    values = json.loads((corpus / "dump" / "index.json").read_text())
    assert values["split"] == "train"
    assert values["speakers"] == ["s0", "s1", "s2"]
    assert MelSpec.from_dict(values["mel_spec"]) == SPEC
    assert [shard["utterances"] for shard in values["shards"]] == [4, 4, 4]  # evenly, at most 5
    assert values["num_frames"] == sum(utterance.mel.shape[1] for utterance in iterate_utterances(index))
    loaded = ShardIndex.load(corpus / "dump")
    assert loaded == index
    assert loaded.fingerprint == values["fingerprint"]
    loaded.validate(checksums=True)
    assert index.hours == pytest.approx(index.num_frames / 100 / 3600)


def test_plain_webdataset_reads_them(corpus):
    index = shards(corpus, dtype="float16")
    urls = str(corpus / "dump" / "train-{000000..000002}.tar")
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [entry.utterance_id for entry in index.entries()]
    for sample, utterance in zip(samples, iterate_utterances(index), strict=True):
        assert sample["mel.npy"].dtype == np.float16
        assert np.array_equal(sample["mel.npy"], utterance.mel)
        assert sample["json"] == utterance.meta


def test_long_and_foreign_ids(tmp_path):
    names = ["x" * 200, "日本語-001", "__meta__"]
    path = write(tmp_path / "a.wav", voice(0.3))
    DataDir([Utterance(name, "s", str(path)) for name in names]).write(tmp_path / "data")
    index = write_shards(tmp_path / "data", tmp_path / "dump", SPEC, progress=False)
    assert [utterance.utterance_id for utterance in iterate_utterances(index)] == sorted(names)
    assert [ShardReader(index).utterance(entry).utterance_id for entry in index.entries()] == sorted(names)


def test_float16_is_close(corpus):
    whole = list(iterate_utterances(shards(corpus)))
    half = list(iterate_utterances(shards(corpus, "half", dtype="float16")))
    worst = max(np.abs(a.mel - b.mel).max() for a, b in zip(whole, half, strict=True))
    assert 0 < worst * SPEC.dynamic_range < 0.04  # dB


def test_bytes_depend_on_nothing_but_content(corpus):
    (corpus / "data" / "wavs" / "s1-002.wav").write_text("not a recording")
    one = contents(shards(corpus, max_bad=1).folder)
    for path in (corpus / "data" / "wavs").iterdir():
        os.utime(path, (1, 1))
    two = contents(shards(corpus, "again", cluster=ClusterConfig(num_workers=2), max_bad=1).folder)
    tars = {name for name in one if name.endswith(".tar")} | {"index.json"}
    assert len(tars) == 4
    assert b"not a readable recording" in one["index.json"]
    assert all(one[name] == two[name] for name in tars)


@pytest.fixture
def written(monkeypatch):
    """Names of the shards that are written from here on."""
    names = []
    write = shard_writing._write

    def record(task):
        names.append(task.path.name)
        return write(task)

    monkeypatch.setattr(shard_writing, "_write", record)
    return names


def test_what_is_done_is_not_done_again(corpus, written):
    shards(corpus)
    assert len(written) == 3
    before = contents(corpus / "dump")
    shards(corpus)
    assert len(written) == 3
    assert contents(corpus / "dump") == before


def change_recording(corpus):
    path = corpus / "data" / "wavs" / "s1-002.wav"
    write(path, 0.5 * read_wav(path)[0])


def change_text(corpus):
    path = corpus / "data" / "train" / "text"
    path.write_text(path.read_text().replace("s1-001 word", "s1-001 words"))


def truncate(corpus):
    path = corpus / "dump" / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    "change",
    [
        change_recording,
        change_text,
        truncate,
        lambda corpus: (corpus / "dump" / "train-000001.tar").unlink(),
        lambda corpus: (corpus / "dump" / "train-000001.json").unlink(),
        lambda corpus: (corpus / "dump" / "train-000001.json").write_text("{"),
    ],
)
def test_only_the_shard_concerned_is_done_again(corpus, written, change):
    shards(corpus)
    change(corpus)
    del written[:]
    shards(corpus)
    assert written == ["train-000001.tar"]
    ShardIndex.load(corpus / "dump").validate(checksums=True)
    fresh = contents(shards(corpus, "fresh").folder)
    assert all(fresh[name] == content for name, content in contents(corpus / "dump").items())


@pytest.mark.parametrize(
    "options", [{"spec": MelSpec.preset("vocos24k"), "front_end": FrontEnd(resample="soxr")}, {"dtype": "float16"}]
)
def test_other_settings_do_all_again(corpus, written, options):
    shards(corpus)
    shards(corpus, **options)
    assert len(written) == 6


def test_fewer_shards_leave_none_of_the_old(corpus):
    shards(corpus, utterances_per_shard=2)
    shards(corpus, utterances_per_shard=20)
    assert set(contents(corpus / "dump")) == {"index.json", "train-000000.tar", "train-000000.json"}


def test_interrupted_and_taken_up(corpus, monkeypatch, written):
    read = shard_task._Features._read

    def full_disk(self, utterance):
        if utterance.utterance_id == "s1-002":
            raise OSError(errno.ENOSPC, "No space left on device")
        return read(self, utterance)

    monkeypatch.setattr(shard_task._Features, "_read", full_disk)
    with pytest.raises(OSError, match="No space left"):
        shards(corpus)
    assert all(name.startswith(("train-000000.", "train-000002.")) for name in contents(corpus / "dump"))
    with pytest.raises(UserError, match=r"has no index.json; make or finish the shards"):
        ShardIndex.load(corpus / "dump")
    monkeypatch.setattr(shard_task._Features, "_read", read)
    del written[:]
    shards(corpus)
    assert "train-000001.tar" in written
    assert "train-000000.tar" not in written
    assert contents(corpus / "dump") == contents(shards(corpus, "fresh").folder)


def test_segments_and_pipes(tmp_path):
    wav = voice(1.0)
    path = write(tmp_path / "long.wav", wav)
    parts = [
        Utterance(f"s-{n}", "s", f"cat {path} |", recording="rec", start=start, end=end)
        for n, (start, end) in enumerate([(0.0, 0.4), (0.4, 1.0), (0.1, None)])
    ]
    DataDir(parts).write(tmp_path / "train")
    index = write_shards(tmp_path / "train", tmp_path / "dump", SPEC, allow_pipes=True, progress=False)
    stored, _ = read_wav(path)
    for utterance, part in zip(iterate_utterances(index), parts, strict=True):
        piece = stored[round(part.start * RATE) : None if part.end is None else round(part.end * RATE)]
        expected = LogMel(SPEC, torch.float32)(torch.from_numpy(piece)[None]).mel[0].numpy()
        assert np.array_equal(utterance.mel, expected)


def test_resampled(tmp_path):
    write(tmp_path / "a.wav", voice(0.5, rate=8000), 8000)
    DataDir([Utterance("a", "s", str(tmp_path / "a.wav"))]).write(tmp_path / "train")
    index = write_shards(
        tmp_path / "train", tmp_path / "dump", SPEC, front_end=FrontEnd(resample="soxr"), progress=False
    )
    (utterance,) = iterate_utterances(index)
    assert utterance.meta["num_samples"] == 8000
    assert utterance.meta["recording_sample_rate"] == 8000
    wav, _ = read_wav(tmp_path / "a.wav", sample_rate=16000)
    assert np.array_equal(utterance.mel, LogMel(SPEC, torch.float32)(torch.from_numpy(wav)[None]).mel[0].numpy())


def test_moved_folder_is_read(corpus, monkeypatch):
    index = shards(corpus)
    names = [utterance.utterance_id for utterance in iterate_utterances(index)]
    odd = corpus / "not a {glob,URL}#or?query"
    shutil.move(corpus / "dump", odd)
    monkeypatch.setenv("WORLD_SIZE", "2")  # webdataset by itself would give each process its part
    monkeypatch.setenv("RANK", "1")
    assert [utterance.utterance_id for utterance in iterate_utterances(odd)] == names


def test_damage_that_sizes_do_not_show_is_found_while_reading(corpus):
    index = shards(corpus)
    tar = corpus / "dump" / "train-000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:512] + bytes(len(whole) - 512))  # one header, then an end of the archive
    with pytest.raises(UserError, match=r"sqvae-speech data validate .*dump` says which"):
        list(iterate_utterances(corpus / "dump"))
    entry = index.entries()[5]
    with pytest.raises(UserError, match=rf"train-000001.tar does not hold the mel of {entry.utterance_id!r}"):
        ShardReader(index).mel(entry)


def test_swapped_contents_are_found(corpus):
    shards(corpus)
    tar = corpus / "dump" / "train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[4000] ^= 255  # same size, other bytes
    tar.write_bytes(data)
    ShardIndex.load(corpus / "dump")
    with pytest.raises(UserError, match=r"train-000000.tar has changed \(SHA-256"):
        ShardIndex.load(corpus / "dump").validate(checksums=True)
