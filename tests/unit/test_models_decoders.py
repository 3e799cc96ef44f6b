"""Decoders beside the published one, and voices by vectors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_models_speech import DIM, KINDS, N_MELS, SPEAKERS

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.speaker_vectors import SpeakerVectorFile
from sqvae_speech.errors import UserError
from sqvae_speech.models.decoders import ConvolutionalDecoder, SpeakerVectors
from sqvae_speech.models.graph import WavToUnits
from sqvae_speech.models.inference import for_inference
from sqvae_speech.models.modules import ConvEncoder, RecurrentDecoder
from sqvae_speech.models.pretrained import SpeechBundle, load_speech_model, save_speech_model
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig
from sqvae_speech.quantization import build_quantizer
from sqvae_speech.tokenizer import SpeechTokenizer

VECTOR = 11


def make_model(**config) -> SpeechModel:
    torch.manual_seed(0)
    sizes = {"channels": 24, "speaker_dim": 5, "decoder_hidden": 7, "decoder_channels": 12, "decoder_blocks": 3}
    sizes |= {"speaker_vector_dim": VECTOR, "quantizer": KINDS["diagonal"]}
    model = SpeechModel(SpeechModelConfig(**sizes | config), N_MELS, SPEAKERS)
    if config.get("speaker") == "vector":
        model.decoder.speaker_embedding.vectors.normal_()
    return model


def test_the_published_decoder_is_what_one_gets():
    """The same weights from the same seed, under the same names, as before there were others."""
    model = make_model()
    torch.manual_seed(0)
    quantizer = build_quantizer(model.config.quantizer)
    ConvEncoder(N_MELS, 24, DIM + quantizer.log_var_channels)
    reference = RecurrentDecoder(DIM, SPEAKERS, 5, 7, N_MELS)
    names = [name for name, _ in reference.named_parameters()]
    assert names[:2] == ["speaker_embedding.weight", "rnn.weight_ih_l0"]
    assert [name for name, _ in model.decoder.named_parameters()] == names
    for one, two in zip(model.decoder.parameters(), reference.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("decoder", ["recurrent", "convolutional"])
@pytest.mark.parametrize("speaker", ["table", "vector"])
def test_an_utterance_decodes_alike_alone_and_in_company(decoder, speaker):
    model = make_model(decoder=decoder, speaker=speaker).eval()
    lengths = torch.tensor([9, 1, 4])
    quantized = torch.randn(3, 9, DIM)
    quantized[1, 1:] = torch.nan
    quantized[2, 4:] = 7.0
    speakers = torch.tensor([2, 0, 1])
    with torch.no_grad():
        together = model.decoder(quantized, speakers, lengths)
        assert together.shape == (3, N_MELS, 18)
        for row, length in enumerate(lengths.tolist()):
            single = model.decoder(quantized[row : row + 1, :length], speakers[row : row + 1])
            torch.testing.assert_close(together[row, :, : 2 * length], single[0], rtol=1e-5, atol=1e-5)
            assert (together[row, :, 2 * length :] == 0).all()


def test_convolution_in_float64_by_hand():
    """Each block: seven frames of each channel, layer normalisation, two layers with GELU, added with its scale."""
    torch.manual_seed(1)
    decoder = ConvolutionalDecoder(DIM, torch.nn.Embedding(SPEAKERS, 5), 5, 6, 2, N_MELS).double()
    quantized, speaker = torch.randn(1, 4, DIM, dtype=torch.float64), torch.tensor([2])
    weights = {name: value.detach().numpy() for name, value in decoder.named_parameters()}

    def normalized(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    pairs = quantized[0].numpy() @ weights["units.weight"].T
    voice = weights["speaker_embedding.weight"][2] @ weights["voice.weight"].T + weights["voice.bias"]
    x = pairs.reshape(8, 6) + voice
    for number in range(2):
        name = f"blocks.{number}"
        kernel = weights[f"{name}.depthwise.weight"][:, 0, 0]
        padded = np.pad(x, ((3, 3), (0, 0)))
        mixed = np.stack([(padded[frame : frame + 7] * kernel.T).sum(0) for frame in range(8)])
        hidden = normalized(mixed + weights[f"{name}.depthwise.bias"], f"{name}.norm")
        hidden = hidden @ weights[f"{name}.widen.weight"].T + weights[f"{name}.widen.bias"]
        hidden = 0.5 * hidden * (1 + torch.erf(torch.from_numpy(hidden) / np.sqrt(2)).numpy())
        hidden = hidden @ weights[f"{name}.narrow.weight"].T + weights[f"{name}.narrow.bias"]
        x = x + weights[f"{name}.scale"] * hidden
    expected = normalized(x, "norm") @ weights["output.weight"].T + weights["output.bias"]
    np.testing.assert_allclose(decoder(quantized, speaker)[0].detach().numpy(), expected.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("config", [{"decoder": "convolutional"}, {"speaker": "vector"}])
def test_training_saving_and_tokenizing(config, tmp_path):
    model = make_model(**config)
    mel, speaker = torch.randn(3, N_MELS, 20), torch.tensor([0, 3, 1])
    out = model(mel, speaker, torch.tensor([20, 8, 13]))
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.eval()
    spec = MelSpec.preset("sqvae16k")
    bundle = SpeechBundle(SpeechModel(model.config, spec.n_mels, 2), spec, ("ann", "bob"))
    save_speech_model(tmp_path, bundle)
    loaded = load_speech_model(tmp_path)
    assert loaded.model.config == model.config
    indices = torch.tensor([[1, 2, 3]])
    network = for_inference(loaded.model)
    assert torch.equal(network.decode(indices, torch.tensor([1])), loaded.model.decode(indices, torch.tensor([1])))


def test_a_tokenizer_takes_vectors_of_anybody():
    spec = MelSpec.preset("sqvae16k")
    model = SpeechModel(make_model(speaker="vector").config, spec.n_mels, 2)
    model.decoder.speaker_embedding.vectors.normal_()
    tokenizer = SpeechTokenizer(SpeechBundle(model, spec, ("ann", "bob")))
    codes = torch.tensor([[[1, 2, 3]], [[4, 5, 6]]])
    known = tokenizer.decode_mel(codes, "bob").mel
    vectors = model.decoder.speaker_embedding.vectors
    assert torch.equal(tokenizer.decode_mel(codes, vectors[1]).mel, known)
    assert torch.equal(tokenizer.decode_mel(codes, vectors[[1, 1]].numpy()).mel, known)
    assert not torch.allclose(tokenizer.decode_mel(codes, torch.randn(VECTOR)).mel, known)
    with pytest.raises(
        UserError, match=r"speaker vectors are \(2, 7\) torch.float32; floating point \(11,\) for all"
    ):
        tokenizer.decode_mel(codes, torch.randn(2, 7))
    plain = SpeechTokenizer(SpeechBundle(SpeechModel(make_model().config, spec.n_mels, 2), spec, ("ann", "bob")))
    with pytest.raises(UserError, match="knows voices by name only"):
        plain.decode_mel(codes, torch.randn(VECTOR))


@pytest.mark.parametrize("config", [{"decoder": "convolutional", "f0_condition": True}, {"speaker": "vector"}])
def test_tokenizer_stream_and_graph_are_as_with_the_published_decoder(config):
    """Units do not depend on the decoder; conversion is encoding and decoding."""
    spec = MelSpec.preset("sqvae16k")
    bundle = SpeechBundle(SpeechModel(make_model(**config).config, spec.n_mels, 2).eval(), spec, ("ann", "bob"))
    tokenizer = SpeechTokenizer(bundle)
    wav = 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    units = tokenizer.encode(wav, 16_000)
    said = tokenizer.convert(wav, "bob", 16_000).wav
    assert torch.equal(said, tokenizer.decode(units, "bob").wav)
    stream = tokenizer.stream(16_000, level=tokenizer.level(wav, 16_000))
    assert torch.equal(torch.cat([stream.push(wav), stream.finish()], dim=1), units[0])
    codes, lengths = WavToUnits(bundle)(torch.from_numpy(wav)[None], torch.tensor([8000]))
    assert lengths.tolist() == units.lengths.tolist()
    assert (codes == units.codes).float().mean() > 0.95, "but for ties"


def test_a_voice_can_be_added_by_its_vector():
    spec = MelSpec.preset("sqvae16k")
    model = SpeechModel(make_model(speaker="vector").config, spec.n_mels, 2)
    model.decoder.speaker_embedding.vectors.normal_()
    bundle = SpeechBundle(model, spec, ("ann", "bob"))
    vector = np.random.default_rng(0).standard_normal(VECTOR).astype(np.float32)
    more = bundle.with_voices({"cyd": vector})
    codes = torch.tensor([[[1, 2, 3]]])
    said = SpeechTokenizer(bundle).decode_mel(codes, vector).mel
    assert torch.equal(SpeechTokenizer(more).decode_mel(codes, "cyd").mel, said)
    known = SpeechTokenizer(bundle).decode_mel(codes, "bob").mel
    assert torch.equal(SpeechTokenizer(more).decode_mel(codes, "bob").mel, known)
    assert bundle.speakers == ("ann", "bob")
    assert len(bundle.model.decoder.speaker_embedding.vectors) == 2, "the model it was made of is as it was"
    with pytest.raises(UserError, match="speaker 'bob' was trained already"):
        bundle.with_voices({"bob": vector})
    with pytest.raises(UserError, match=r"the vector of 'cyd' is \(3,\); \(11,\) is wanted"):
        bundle.with_voices({"cyd": vector[:3]})
    plain = SpeechBundle(SpeechModel(make_model().config, spec.n_mels, 2), spec, ("ann", "bob"))
    with pytest.raises(UserError, match="knows voices by name only"):
        plain.with_voices({"cyd": vector})


def test_a_known_speaker_is_its_vector_and_only_directions_count():
    voices = SpeakerVectors(3, VECTOR, 4)
    voices.vectors.normal_()
    known = voices(torch.tensor([2, 0]))
    torch.testing.assert_close(voices(voices.vectors[[2, 0]]), known)
    torch.testing.assert_close(voices(5 * voices.vectors[[2, 0]]), known)
    assert not torch.allclose(voices(torch.randn(2, VECTOR)), known)


def test_vectors_of_speakers_and_utterances(tmp_path):
    path = tmp_path / "spk.npz"
    rng = np.random.default_rng(0)
    vectors = {name: rng.standard_normal(VECTOR) for name in ("ann", "bob-1", "bob-2")}
    np.savez(path, **vectors)
    entries = [
        SimpleNamespace(utterance_id=name, speaker=name.split("-")[0])
        for name in ("ann-1", "bob-1", "bob-2", "eve-1")
    ]
    index = SimpleNamespace(folder="shards", entries=lambda: entries)
    file = SpeakerVectorFile(path, VECTOR)
    of_speakers = file.of_speakers(("bob", "ann"), index)
    np.testing.assert_allclose(of_speakers, [(vectors["bob-1"] + vectors["bob-2"]) / 2, vectors["ann"]], rtol=1e-6)
    found = file.of_utterances(["bob-2", "ann-1"], of_speakers)
    np.testing.assert_allclose(found, [vectors["bob-2"], vectors["ann"]], rtol=1e-6)
    with pytest.raises(UserError, match="no vector of speaker 'eve'"):
        file.of_speakers(("eve",), index)
    with pytest.raises(UserError, match=r"finite vectors of \(12,\) are wanted \(model.speaker_vector_dim\)"):
        SpeakerVectorFile(path, VECTOR + 1)
    with pytest.raises(UserError, match="no speaker vectors at"):
        SpeakerVectorFile(tmp_path / "none.npz", VECTOR)
    path.write_text("nothing")
    with pytest.raises(UserError, match="no archive of numbers"):
        SpeakerVectorFile(path, VECTOR)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"decoder": "recurent"}, "model.decoder must be one of recurrent, convolutional, got 'recurent'"),
        ({"speaker": "name"}, "model.speaker must be one of table, vector"),
        ({"decoder_blocks": 0}, "model.decoder_blocks must be at least 1"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        SpeechModelConfig(**setting)
