"""``sqvae-speech encode``: recordings to lines, data directories to stores, raw samples to units as they come."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from units_world import make_model, make_world

from sqvae_speech.bin.main import main
from sqvae_speech.tokenizer import SpeechTokenizer
from sqvae_speech.units.live import read_pcm
from sqvae_speech.units.sequences import run_lengths
from sqvae_speech.units.store import read_units

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("encode"))
    return SimpleNamespace(**vars(world), tokenizer=SpeechTokenizer.from_pretrained(world.model))


def words_of(codes) -> str:
    return " ".join(map(str, codes.tolist()))


def wavs(world, *names: str) -> list[str]:
    return [str(world.root / "wavs" / f"{name}.wav") for name in names]


def test_recordings_are_printed_a_line_each(world, capsys):
    files = wavs(world, "eve-1", "ann-1")
    assert main(["encode", *files, "--model", str(world.model), "--device", "cpu"]) == 0
    expected = [world.tokenizer.encode(file)[0][0] for file in files]
    assert capsys.readouterr().out == f"eve-1|{words_of(expected[0])}\nann-1|{words_of(expected[1])}\n"
    assert main(["encode", "--model", str(world.model), "--deduplicate", files[1]]) == 0
    runs = run_lengths(expected[1][None].numpy())[0][0]
    assert capsys.readouterr().out == f"ann-1|{words_of(runs)}\n"


def test_recordings_go_into_a_store_on_request(world, tmp_path, capsys):
    files = wavs(world, "eve-1", "ann-1")
    output = tmp_path / "u.parquet"
    argv = ["encode", "--model", str(world.model), *files, "--output", str(output), "--formats", "gslm"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "2 utterances" in out
    assert str(tmp_path / "u.gslm") in out
    store = read_units(output)
    assert store.ids == ["eve-1", "ann-1"]
    np.testing.assert_array_equal(store["ann-1"].codes, world.tokenizer.encode(files[1])[0].numpy())
    assert store.meta.checkpoint == world.bundle.fingerprint
    assert main([*argv, files[0]]) == 1
    assert "'eve-1' comes twice" in capsys.readouterr().err


def test_several_codebooks_print_one_that_is_chosen(world, tmp_path, capsys):
    bundle = make_model(tmp_path, num_quantizers=2)
    (file,) = wavs(world, "ann-2")
    assert main(["encode", "--model", str(tmp_path), file]) == 1
    assert "--codebook 0 to 1" in capsys.readouterr().err
    assert main(["encode", "--model", str(tmp_path), file, "--codebook", "1"]) == 0
    codes = SpeechTokenizer(bundle).encode(file)[0]
    assert capsys.readouterr().out == f"ann-2|{words_of(codes[1])}\n"


def test_a_data_directory_goes_into_a_store(world, tmp_path, capsys):
    argv = ["encode", "--model", str(world.model), "--data-dir", str(world.root / "data" / "test"), "--quiet"]
    assert main([*argv, "--output", str(tmp_path / "u.parquet"), "--dtype", "bfloat16"]) == 0
    assert "6 utterances" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of WAV ..., --shards, --data-dir, --stream"),
        (["a.wav", "--shards", "x"], "not WAV ... and --shards"),
        (["--shards", "x"], "--output is needed with --shards"),
        (["--stream", "--output", "x.parquet"], "leave out --output"),
    ],
)
def test_what_to_encode_has_to_be_clear(capsys, words, message):
    with pytest.raises(SystemExit) as raised:
        main(["encode", "--model", "x", *words])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.wav"], "gone.wav: no such recording"),
        (["--stream", "--pcm", "s16"], "did you mean 's16le'"),
        (["--stream", "--rate", "0"], "cannot resample from 0"),
        (["--stream", "--level-from", "gone.wav"], "gone.wav: no such recording"),
        (["{wav}", "--dtype", "int8"], "dtype 'int8'"),
        (["{wav}", "--formats", "gsln"], "did you mean 'gslm'"),
        (["{wav}", "--formats", "espnet-rm"], "espnet-rm holds deduplicated units, and these are not"),
    ],
)
def test_mistakes_are_one_message(world, capsys, words, message):
    words = [word.format(wav=wavs(world, "ann-1")[0]) for word in words]
    assert main(["encode", "--model", str(world.model), *words]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.out == ""


def test_many_processes_are_sent_to_a_data_directory(world, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["encode", "--model", str(world.model), *wavs(world, "ann-1")]) == 1
    assert "list them in a --data-dir" in capsys.readouterr().err


class Trickle(io.RawIOBase):
    """Gives its bytes in odd pieces, as a pipe does."""

    def __init__(self, data: bytes, size: int):
        self._data, self._size = data, size

    def readable(self):
        return True

    def readinto(self, buffer):
        piece, self._data = self._data[: self._size], self._data[self._size :]
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize(
    ("form", "dtype", "scale"), [("s16le", "<i2", 32768), ("s32le", "<i4", 2**31), ("f32le", "<f4", 1)]
)
def test_raw_samples(form, dtype, scale):
    wav = np.random.default_rng(0).uniform(-1, 1, 500)
    data = (wav * scale * 0.99).astype(dtype)
    got = np.concatenate(list(read_pcm(io.BufferedReader(Trickle(data.tobytes(), 7)), form)))
    np.testing.assert_array_equal(got, (data / scale).astype(np.float32))
    assert got.dtype == np.float32


def stream(world, monkeypatch, capsys, data: bytes, *words: str, model: Path | None = None) -> tuple[int, str, str]:
    stdin = SimpleNamespace(buffer=io.BufferedReader(Trickle(data, 501)))
    monkeypatch.setattr(sys, "stdin", stdin)
    code = main(["encode", "--model", str(model or world.model), "--stream", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_stream_is_a_unit_a_line(world, monkeypatch, capsys):
    (file,) = wavs(world, "ann-1")
    samples = soundfile.read(file, dtype="int16")[0]
    expected = world.tokenizer.encode(file)[0][0].tolist()
    code, out, _ = stream(world, monkeypatch, capsys, samples.tobytes(), "--level-from", file)
    assert code == 0
    assert [int(line) for line in out.splitlines()] == expected
    code, out, _ = stream(world, monkeypatch, capsys, samples.tobytes(), "--level-from", file, "--deduplicate")
    assert [int(line) for line in out.splitlines()] == run_lengths(np.array([expected]))[0][0].tolist()
    _, running, _ = stream(world, monkeypatch, capsys, samples.tobytes())
    assert len(running.splitlines()) == len(expected)


def test_a_stream_of_another_rate_form_and_model(world, tmp_path, monkeypatch, capsys):
    bundle = make_model(tmp_path, "melgan22k", num_quantizers=2)
    wav = soundfile.read(wavs(world, "ann-1")[0], dtype="float32")[0]
    words = ["--rate", "16000", "--pcm", "f32le"]
    code, out, _ = stream(world, monkeypatch, capsys, wav.tobytes(), *words, model=tmp_path)
    assert code == 0
    codes = SpeechTokenizer(bundle).encode(wav, 16_000)[0]
    assert [[int(word) for word in line.split()] for line in out.splitlines()] == codes.T.tolist()


def test_a_stream_that_ends_within_a_sample(world, monkeypatch, capsys):
    code, _, error = stream(world, monkeypatch, capsys, b"\0" * 4_001)
    assert code == 1
    assert "ended within a sample: 1 of the 2 bytes of s16le" in error


@pytest.mark.slow
def test_units_leave_the_pipe_while_samples_still_come_in(world):
    (file,) = wavs(world, "ann-1")
    samples = soundfile.read(file, dtype="int16")[0].tobytes()
    command = [sys.executable, "-m", "sqvae_speech.bin.main", "encode", "--model", str(world.model), "--stream"]
    process = subprocess.Popen(
        [*command, "--level-from", file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    half = 2 * 5_000
    process.stdin.write(samples[:half])
    process.stdin.flush()
    ready = sum(world.tokenizer.timing.span(u)[1] + world.tokenizer.timing.latency <= 5_000 for u in range(40))
    assert ready == 11
    first = [int(process.stdout.readline()) for _ in range(ready)]  # blocks for ever if they are not flushed
    process.stdin.write(samples[half:])
    process.stdin.close()
    rest = [int(line) for line in process.stdout.read().splitlines()]
    assert process.wait(timeout=60) == 0
    assert first + rest == world.tokenizer.encode(file)[0][0].tolist()
