"""Tiny corpora that the tests write themselves, and a way to run a recipe on them."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
# a network and a run that take seconds; the recipes and everything they start are the real ones
SMALL = (
    *("--model.channels", "32", "--model.decoder_hidden", "16", "--model.quantizer.codebook_size", "32"),
    *("--training.batch_size", "8", "--training.log_interval", "5", "--training.valid_interval", "10"),
    *("--training.checkpoint_interval", "10", "--ngpu", "0", "--nj", "1", "--no-report"),
)
IMAGE_SMALL = (
    *("--model.quantizer.codebook_size", "8", "--model.quantizer.dim", "4", "--model.num_blocks", "1"),
    *("--training.batch_size", "8", "--training.log_interval", "5", "--training.valid_interval", "10"),
    *("--training.checkpoint_interval", "10", "--ngpu", "0", "--nj", "1", "--no-report"),
)


def with_report(small: tuple[str, ...]) -> tuple[str, ...]:
    """Those options, but for the one that saves a recipe its report, and the tests the time."""
    return tuple(word for word in small if word != "--no-report")


@dataclass(frozen=True)
class Run:
    """What a recipe printed and returned."""

    status: int
    output: str
    errors: str

    @property
    def done(self) -> list[int]:
        """Stages that were run to their end."""
        return [
            int(line.split()[1])
            for line in self.output.splitlines()
            if line.startswith("stage") and ": done in" in line
        ]

    @property
    def skipped(self) -> list[int]:
        """Stages that were done already."""
        return [int(number) for number in re.findall(r"^stage (\d) .*: done already$", self.output, re.MULTILINE)]


Recipe = Callable[..., Run]


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """``recipe(corpus name, work dir, *options)``: run ``egs/<name>/run.sh`` with the environment of the tests."""
    # The tests' environment must be complete, or tools/setup.sh would go and make another in the middle of a test.
    check = [
        sys.executable,
        "-I",
        str(ROOT / "tools" / "check_environment.py"),
        str(ROOT / "setup.cfg"),
        "dev,kaldi,mini",
    ]
    missing = subprocess.run(check, capture_output=True, text=True).stdout
    assert not missing, f"{sys.prefix} lacks packages of setup.cfg:\n{missing}"
    environment = dict(os.environ, VIRTUAL_ENV=sys.prefix, OMP_NUM_THREADS="1")  # threads only get in the way here

    def run(name: str, work_dir: Path, *options: str, small: tuple[str, ...] = SMALL, timeout: float = 600) -> Run:
        command = ["bash", str(ROOT / "egs" / name / "run.sh"), "--work-dir", str(work_dir), *small, *options]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        return Run(result.returncode, result.stdout, result.stderr)

    return run


def voice(seconds: float, sample_rate: int, pitch: float, seed: int) -> np.ndarray:
    """Something like a vowel: harmonics of a gliding pitch with moving weights, and a little noise. (T,) float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 3) * time))) / sample_rate
    harmonics = np.arange(1, 12)
    weights = np.abs(np.sin(np.outer(rng.uniform(1, 4, len(harmonics)), time) * np.pi)) / harmonics[:, None]
    wav = (weights * np.sin(np.outer(harmonics, phase))).sum(axis=0) + 0.01 * rng.standard_normal(len(time))
    return (0.5 * wav / np.abs(wav).max()).astype(np.float32)


@pytest.fixture(scope="session")
def vctk_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers with six utterances each, in the layout of VCTK 0.92, in a folder with a space in its name."""
    corpus = tmp_path_factory.mktemp("corpora") / "VCTK tiny"
    for speaker, pitch in (("p225", 210.0), ("p226", 110.0), ("p227", 150.0)):
        for number in range(1, 7):
            name = f"{speaker}_{number:03d}"
            flac = corpus / "wav48_silence_trimmed" / speaker / f"{name}_mic1.flac"
            text = corpus / "txt" / speaker / f"{name}.txt"
            flac.parent.mkdir(parents=True, exist_ok=True)
            text.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(flac, voice(1.2 + 0.1 * number, 16000, pitch, int(pitch) + number), 16000)
            text.write_text(f"Sentence number {'i' * number}.\n")  # no letter of which training has none
    (corpus / "speaker-info.txt").write_text("ID  AGE  GENDER  ACCENTS  REGION COMMENTS\np225  23  F    English\n")
    return corpus


@pytest.fixture(scope="session")
def librispeech_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training speakers and a test speaker with five utterances each, in the layout of LibriSpeech."""
    corpus = tmp_path_factory.mktemp("corpora") / "LibriSpeech"
    for subset, speaker, pitch in (
        ("train-clean-100", "19", 210.0),
        ("train-clean-100", "198", 110.0),
        ("test-clean", "61", 150.0),
    ):
        folder = corpus / subset / speaker / "7"
        folder.mkdir(parents=True)
        names = [f"{speaker}-7-{number:04d}" for number in range(5)]
        for number, name in enumerate(names):
            wav = voice(1.2 + 0.1 * number, 16000, pitch, int(pitch) + number)
            soundfile.write(folder / f"{name}.flac", wav, 16000)
        (folder / f"{speaker}-7.trans.txt").write_text("".join(f"{name} SOME WORDS\n" for name in names))
    return corpus


@pytest.fixture(scope="session")
def fsdd_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers with twelve recordings each of two digits, zipped as the Free Spoken Digit Dataset is."""
    path = tmp_path_factory.mktemp("corpora") / "fsdd.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for speaker, pitch in (("jackson", 110.0), ("lucas", 180.0)):
            for digit in (3, 7):
                for index in range(12):
                    data = BytesIO()
                    seed = int(pitch) + 100 * digit + index
                    soundfile.write(data, voice(0.4 + 0.02 * index, 8000, pitch, seed), 8000, format="WAV")
                    archive.writestr(f"fsdd/recordings/{digit}_{speaker}_{index}.wav", data.getvalue())
    return path
