"""The classifier that judges voices: what it learns, that it repeats, and the embeddings it gives."""

import numpy as np
import pytest
import torch

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.voices.classifier import ClassifierConfig, MelClassifier, train_classifier
from sqvae_speech.evaluation.voices.speaker import (
    GivenEmbedder,
    TrainedEmbedder,
    centroids,
    load_embedder,
    nearest_speaker,
)

SMALL = ClassifierConfig(channels=8, dim=6, dilations=(1, 2), steps=60, batch_size=8, crop=(10, 20))
LABELS = ("high", "low", "middle")


def examples(count: int, seed: int) -> tuple[list[np.ndarray], list[str]]:
    """Log-mels of 24 bands with a bump at a height that is the label's, at any loudness."""
    rng = np.random.default_rng(seed)
    mels, labels = [], []
    for number in range(count):
        label = LABELS[number % 3]
        centre = {"high": 18, "low": 5, "middle": 11}[label]
        bump = 30 * np.exp(-(((np.arange(24) - centre) / 2) ** 2))
        frames = int(rng.integers(12, 40))
        mels.append((rng.uniform(-60, 0) + bump[:, None] + 4 * rng.normal(size=(24, frames))).astype(np.float32))
        labels.append(label)
    return mels, labels


def test_learns_what_is_there_and_repeats_it():
    mels, labels = examples(60, 0)
    state = torch.random.get_rng_state()
    first, second = (train_classifier(mels, labels, SMALL) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.labels == LABELS
    others, truth = examples(30, 1)
    assert np.mean([first.classify(mel) == label for mel, label in zip(others, truth, strict=True)]) > 0.95
    np.testing.assert_array_equal(first.embed(others[0]), second.embed(others[0]))
    assert np.linalg.norm(first.embed(others[0])) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(first.embed(others[0]), first.embed(others[0] + 20.0), atol=1e-5)
    same, other = first.embed(others[0]) @ first.embed(others[3]), first.embed(others[0]) @ first.embed(others[1])
    assert same > other + 0.3


def test_an_utterance_alone_and_in_a_batch():
    torch.manual_seed(0)
    network = MelClassifier(24, 3, SMALL).eval()
    mels, _ = examples(3, 2)
    lengths = torch.tensor([mel.shape[1] for mel in mels])
    batch = torch.full((3, 24, int(lengths.max()) + 5), 99.0)
    for row, mel in zip(batch, mels, strict=True):
        row[:, : mel.shape[1]] = torch.from_numpy(mel)
    with torch.no_grad():
        together = network(batch, lengths)
        for number, mel in enumerate(mels):
            alone = network(torch.from_numpy(mel)[None], lengths[number : number + 1])
            torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=1e-5)


def test_one_label_is_none():
    mels, _ = examples(3, 0)
    with pytest.raises(UserError, match=r"two labels or more; there are 1 \(\['a'\]\)"):
        train_classifier(mels, ["a"] * 3, SMALL)


# ---- embeddings


class Bands(torch.nn.Module):
    """Energies of two bands of the spectrum, as a speaker model that somebody gives."""

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(wav).abs()
        half = spectrum.shape[1] // 2
        return torch.stack([spectrum[:, :half].sum(1), spectrum[:, half:].sum(1)], dim=1)


def test_a_torchscript_file_and_a_hub_folder_embed_the_same(tmp_path):
    path = tmp_path / "bands.pt"
    torch.jit.script(Bands()).save(path)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text(
        "dependencies = ['torch']\nimport torch\n"
        f"def bands(pretrained=True):\n    return torch.jit.load({str(path)!r})\n"
    )
    wav = np.sin(2 * np.pi * 3000 * np.arange(8000) / 16_000).astype(np.float32)
    vectors = [load_embedder(name).embed(wav, 16_000) for name in (str(path), f"hub:{tmp_path / 'hub'}:bands")]
    np.testing.assert_array_equal(*vectors)
    expected = Bands()(torch.from_numpy(wav)[None])[0].double().numpy()
    np.testing.assert_allclose(vectors[0], expected / np.linalg.norm(expected), atol=1e-6)
    at_8_khz = load_embedder(str(path)).embed(wav[::2], 8000)
    np.testing.assert_allclose(at_8_khz, vectors[0], atol=0.1)


def test_speaker_models_that_are_none(tmp_path):
    (tmp_path / "text.pt").write_text("no")
    for name, message in (
        (str(tmp_path / "gone.pt"), "no such file"),
        (str(tmp_path / "text.pt"), "not a TorchScript file"),
        ("hub:nothing", "has to be hub:<owner/name or folder>:<entry>"),
        (f"hub:{tmp_path}:entry", "cannot be had"),
    ):
        with pytest.raises(UserError, match=message):
            load_embedder(name)
    with pytest.raises(UserError, match=r"gave \(1, 3, 2\) for one wav"):
        GivenEmbedder(lambda wav: torch.zeros(1, 3, 2), "odd").embed(np.zeros(100, np.float32), 16_000)


def test_centroids_and_the_nearest():
    voices = centroids({"a": [np.array([1.0, 0.0]), np.array([0.0, 1.0])], "b": [np.array([0.0, -2.0])]})
    np.testing.assert_allclose(voices["a"], [np.sqrt(0.5)] * 2)
    np.testing.assert_allclose(voices["b"], [0.0, -1.0])
    assert nearest_speaker(np.array([0.9, -0.1]), voices) == "a"
    assert nearest_speaker(np.array([0.1, -0.9]), voices) == "b"


def test_the_project_s_own_hears_wavs():
    mels, labels = examples(12, 0)
    wide = [np.repeat(mel, 4, axis=0)[:80] for mel in mels]
    embedder = TrainedEmbedder(train_classifier(wide, labels, SMALL))
    assert embedder.embed(np.random.default_rng(0).normal(0, 0.1, 8000), 8000).shape == (6,)
