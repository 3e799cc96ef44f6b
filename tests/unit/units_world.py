"""A small real world for the tests of units and evaluation: recordings, shards, and an untrained model on disk."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile
import torch

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.shards import write_shards
from sqvae_speech.models.pretrained import SpeechBundle, load_speech_model, save_speech_model
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig
from sqvae_speech.quantization import QuantizerConfig

SPEAKERS = ("ann", "bob", "eve")
SECONDS = {"ann-1": 0.61, "ann-2": 0.2, "bob-1": 0.433, "bob-2": 0.05, "eve-1": 0.3, "eve-2": 0.155}


def voice(seconds: float, seed: int, sample_rate: int = 16_000) -> np.ndarray:
    """Harmonics with moving formants and pauses: enough to make an untrained encoder choose many codes."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    pitch = 100 + 20 * seed + 30 * np.sin(2 * np.pi * (2 + seed) * t)
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    wav = sum(
        np.sin(k * phase) * np.exp(-(((k * pitch - 900 * np.sin(9 * t + k) - 1200) / 900) ** 2)) for k in range(1, 30)
    )
    return (0.3 + 0.1 * seed) * (wav / np.abs(wav).max()) + 0.003 * rng.standard_normal(len(t))


def make_model(
    folder: Path, preset: str = "sqvae16k", codebook_size: int = 32, seed: int = 0, **quantizer
) -> SpeechBundle:
    """An untrained model, saved and loaded again, whose latents spread over its codebook."""
    torch.manual_seed(seed)
    spec = MelSpec.preset(preset)
    config = SpeechModelConfig(
        channels=24,
        speaker_dim=8,
        decoder_hidden=12,
        quantizer=QuantizerConfig(codebook_size=codebook_size, dim=6, **quantizer),
    )
    model = SpeechModel(config, spec.n_mels, len(SPEAKERS))
    wavs = [torch.from_numpy(voice(0.4, number, spec.sample_rate)) for number in range(3)]
    mel = LogMel(spec)(torch.stack(wavs).float()).mel
    with torch.no_grad():
        model.train()
        for _ in range(20):  # the running statistics of this speech, or all latents would be alike
            model.latents(mel)
        latents, _ = model.eval().latents(mel)
        latents = latents.reshape(-1, latents.shape[-1])
        generator = torch.Generator().manual_seed(seed)
        model.quantizer.start_from(latents, generator)
        for stage in getattr(model.quantizer, "stages", [])[1:]:
            # nothing is left of latents that became codes: codes that are equal, which no training would leave so
            apart = torch.randn(stage.codebook.shape, generator=generator)
            stage.codebook += 0.1 * latents.std() * apart
    folder.mkdir(parents=True, exist_ok=True)
    save_speech_model(folder, SpeechBundle(model, spec, SPEAKERS, step=7))
    return load_speech_model(folder)


def make_world(root: Path) -> SimpleNamespace:
    """Recordings, their data directory, shards (two of them), and a model; paths and the loaded bundle."""
    utterances = []
    (root / "wavs").mkdir(parents=True)
    for number, (name, seconds) in enumerate(SECONDS.items()):
        path = root / "wavs" / f"{name}.wav"
        soundfile.write(path, voice(seconds, number), 16_000)
        utterances.append(
            Utterance(
                name, name.split("-")[0], str(path), duration=round(seconds * 16_000) / 16_000, text=f"say {name}"
            )
        )
    DataDir(utterances).write(root / "data" / "test")
    bundle = make_model(root / "model")
    write_shards(
        root / "data" / "test", root / "dump" / "test", bundle.mel_spec, utterances_per_shard=4, progress=False
    )
    return SimpleNamespace(root=root, shards=root / "dump" / "test", model=root / "model", bundle=bundle)
