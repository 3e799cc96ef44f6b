"""The text-to-units model: padding, hidden codes, speaking; and its files."""

import pytest
import torch
from torch import Tensor

from sqvae_speech.models.pretrained_text_to_units import TextToUnitsBundle, load_text_to_units, save_text_to_units
from sqvae_speech.models.text_to_units import TextToUnits, TextToUnitsConfig

SIZE = 7


def make_model(books: int = 1, speakers: int = 2, **config) -> TextToUnits:
    """Untrained, and all that it says depends on all that it reads."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "num_layers": 2, "text_layers": 1, "num_heads": 2, "max_runs": 4, "max_duration": 9, **config}
    model = TextToUnits(TextToUnitsConfig(**sizes), 5, SIZE, books, speakers)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def make_batch(books: int = 1, filler: int = 0) -> dict[str, Tensor]:
    """Two utterances, of which the second is padded with ``filler`` where only lengths say so."""
    generator = torch.Generator().manual_seed(1)
    counts = torch.tensor([[1, 0, 3, 2], [2, 1, 0, 0]])
    codes = torch.randint(0, SIZE, (2, 6, books), generator=generator)
    durations = torch.randint(1, 9, (2, 6), generator=generator)
    text = torch.randint(0, 5, (2, 4), generator=generator)
    text[1, 2:] = filler
    codes[1, 3:] = filler
    durations[1, 3:] = 0
    lengths = torch.tensor([4, 2])
    return {
        "text": text, "text_lengths": lengths, "speaker": torch.tensor([0, 1]), "counts": counts,
        "codes": codes, "durations": durations,
    }  # fmt: skip


def alone(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    symbols, runs = int(batch["text_lengths"][row]), int((batch["durations"][row] > 0).sum())
    sizes = {"text": symbols, "counts": symbols, "codes": runs, "durations": runs}
    return {
        name: value[row : row + 1, : sizes[name]] if name in sizes else value[row : row + 1]
        for name, value in batch.items()
    }


@pytest.mark.parametrize("books", [1, 3])
def test_a_batch_is_the_mean_of_its_utterances_whatever_the_padding(books):
    model = make_model(books)
    hidden = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 1, 1]]).bool()
    results = []
    for filler in (0, 4):
        batch = make_batch(books, filler)
        results.append(model(**batch, hidden=hidden))
        parts = [model(**alone(batch, row), hidden=hidden[row : row + 1, : (6, 3)[row]]) for row in (0, 1)]
        for name in ("loss", "counts", "times", "codes", "durations"):
            expected = (getattr(parts[0], name) + getattr(parts[1], name)) / 2
            torch.testing.assert_close(getattr(results[-1], name), expected)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_the_loss_is_cross_entropy_of_what_is_hidden():
    """Against logits asked for one by one, in float64."""
    model = make_model().double()
    batch = alone(make_batch(), 0)
    hidden = torch.tensor([[True, False, True, False, False, False]])
    out = model(**batch, hidden=hidden)
    states = model.read(batch["text"], batch["text_lengths"], batch["speaker"])
    decoded = model.decode(states, batch["counts"], batch["codes"], hidden)
    logits = model.code_logits(decoded)[0, :, 0]
    codes = [-logits[run].log_softmax(0)[batch["codes"][0, run, 0]] for run in (0, 2)]
    torch.testing.assert_close(out.codes.double(), sum(codes) / 2, rtol=1e-5, atol=1e-6)
    logits = model.duration_logits(decoded, batch["codes"])[0]
    durations = [-logits[run].log_softmax(0)[batch["durations"][0, run] - 1] for run in range(6)]
    torch.testing.assert_close(out.durations.double(), sum(durations) / 6, rtol=1e-5, atol=1e-6)
    means = model.time_head(states)[0, :, 0].exp()
    lasting = batch["durations"][0].split(batch["counts"][0].tolist())
    times = [mean - sum(units) * mean.log() for mean, units in zip(means, lasting, strict=True)]
    torch.testing.assert_close(out.times.double(), sum(times) / 4, rtol=1e-5, atol=1e-6)
    logits = model.count_head(states)[0]
    counts = [-logits[symbol].log_softmax(0)[batch["counts"][0, symbol]] for symbol in range(4)]
    torch.testing.assert_close(out.counts.double(), sum(counts) / 4, rtol=1e-5, atol=1e-6)


def test_hidden_codes_are_not_seen_and_others_are():
    model, batch = make_model(), alone(make_batch(), 0)
    states = model.read(batch["text"], batch["text_lengths"], batch["speaker"])
    hidden = torch.tensor([[True, False, True, False, False, False]])
    before = model.decode(states, batch["counts"], batch["codes"], hidden)
    for run, seen in ((0, False), (1, True), (2, False)):
        codes = batch["codes"].clone()
        codes[0, run] = (codes[0, run] + 1) % SIZE
        assert torch.equal(model.decode(states, batch["counts"], codes, hidden), before) is not seen


def test_training_hides_other_runs_each_time():
    model, batch = make_model().train(), make_batch()
    assert len({model(**batch).codes.item() for _ in range(4)}) == 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_speaking(temperature):
    model, batch = make_model(books=2), make_batch(2)
    arguments = [batch[name] for name in ("text", "text_lengths", "speaker")]

    def speak(*inputs: Tensor, seed: int = 0):
        return model.speak(*inputs, temperature=temperature, rounds=3, generator=torch.Generator().manual_seed(seed))

    said = speak(*arguments)
    assert all(torch.equal(one, two) for one, two in zip(said, speak(*arguments), strict=True)), "the same seed"
    runs = said.codes.shape[1]
    real = torch.arange(runs) < said.lengths[:, None]
    assert said.codes.shape == (2, runs, 2)
    assert ((said.durations > 0) == real).all()
    assert said.durations.max() <= 9
    assert (said.codes[~real] == 0).all()
    assert said.codes.max() < SIZE
    if temperature == 0:
        for row in (0, 1):
            length = int(batch["text_lengths"][row])
            single = speak(batch["text"][row : row + 1, :length], *(one[row : row + 1] for one in arguments[1:]))
            runs = int(said.lengths[row])
            assert torch.equal(single.codes[0], said.codes[row, :runs])
            assert torch.equal(single.durations[0], said.durations[row, :runs])
    else:
        assert not torch.equal(speak(*arguments, seed=1).codes, said.codes) or runs == 0


def test_rate_divides_durations():
    model, batch = make_model(max_duration=40), make_batch()
    arguments = [batch[name] for name in ("text", "text_lengths", "speaker")]
    slow, fast = (model.speak(*arguments, rate=rate).durations.sum(1) for rate in (0.05, 0.1))
    assert ((slow - 2 * fast).abs() <= 2).all()


def test_what_is_saved_is_what_is_loaded(tmp_path):
    model = make_model(books=2)
    units = {"codebook_size": SIZE, "num_codebooks": 2}
    text = {"kind": "characters", "language": "en-us"}
    save_text_to_units(tmp_path, TextToUnitsBundle(model, units, text, tuple("abcde"), ("ann", "bob"), step=3))
    bundle = load_text_to_units(tmp_path)
    assert (bundle.units, bundle.text, bundle.symbols) == (units, text, tuple("abcde"))
    assert (bundle.speakers, bundle.step) == (("ann", "bob"), 3)
    assert bundle.model.config == model.config
    assert all(torch.equal(value, bundle.model.state_dict()[name]) for name, value in model.state_dict().items())
