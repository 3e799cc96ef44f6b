"""MelSpec: presets, lengths, refusals."""

import dataclasses
import json

import numpy as np
import pytest

from sqvae_speech.audio.melspec import PRESETS, MelSpec
from sqvae_speech.errors import UserError


def test_presets_hold_the_settings_that_vocoders_expect():
    expected = {
        "sqvae16k": (16000, 2048, 160, 400, 80, 50.0, 8000.0, "db", 1e-5),
        "melgan22k": (22050, 1024, 256, 1024, 80, 0.0, 11025.0, "log10", 1e-5),
        "waveglow22k": (22050, 1024, 256, 1024, 80, 0.0, 8000.0, "ln", 1e-5),
        "vocos24k": (24000, 1024, 256, 1024, 100, 0.0, 12000.0, "ln", 1e-7),
    }
    assert list(PRESETS) == list(expected)
    for name, values in expected.items():
        s = MelSpec.preset(name)
        found = (s.sample_rate, s.n_fft, s.hop_length, s.win_length, s.n_mels, s.fmin, s.fmax, s.log, s.clamp)
        assert found == values
    assert MelSpec.preset("sqvae16k").frame_rate == 100.0


def test_unknown_preset_names_the_nearest_and_lists_all():
    with pytest.raises(UserError, match=r"'melgan22', did you mean 'melgan22k'\? .*sqvae16k.*vocos24k"):
        MelSpec.preset("melgan22")


@pytest.mark.parametrize("name", PRESETS)
def test_dict_round_trip_through_json(name):
    spec = MelSpec.preset(name)
    again = MelSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.name == name


def test_from_dict_refuses_unknown_and_missing_settings():
    values = MelSpec.preset("sqvae16k").to_dict()
    with pytest.raises(UserError, match="'hop_lenght', did you mean 'hop_length'"):
        MelSpec.from_dict({**values, "hop_lenght": 1})
    del values["n_mels"]
    with pytest.raises(UserError, match="lacks n_mels"):
        MelSpec.from_dict(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"win_length": 4096}, "win_length is 4096; it has to be at most n_fft, 2048"),
        ({"fmax": 9000.0}, "fmax <= 8000 Hz"),
        ({"log": "log2"}, "log is 'log2'; it has to be one of 'db'"),
        ({"pad_mode": "reflct"}, "did you mean 'reflect'"),
        ({"sample_rate": 16000.5}, "sample_rate is 16000.5; it has to be int"),
        ({"hop_length": 0}, "hop_length is 0; it has to be greater than 0"),
        ({"n_mels": True}, "n_mels is True"),
        ({"clamp": float("nan")}, "finite"),
        ({"preemphasis": 1.0}, "less than 1"),
        ({"peak": 0.0}, "peak is 0.0"),
        ({"log": "ln"}, "with log: db"),
        ({"dynamic_range": None}, "normalize is True"),
        ({"padding": 4}, "padding is 4; it has to be 0 when center is true"),
    ],
)
def test_illegal_settings_are_refused_with_value_and_remedy(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(MelSpec.preset("sqvae16k"), **change)


def test_require_same_prints_only_what_differs_with_both_values():
    spec = MelSpec.preset("sqvae16k")
    spec.require_same(dataclasses.replace(spec, name="mine"), "checkpoint", "shards")  # a name is only a label
    other = dataclasses.replace(spec, hop_length=200, pad_mode="constant")
    with pytest.raises(UserError) as caught:
        spec.require_same(other, "checkpoint exp/a", "index dump/train")
    message = str(caught.value)
    assert "hop_length: 160 in checkpoint exp/a, 200 in index dump/train" in message
    assert "pad_mode: 'reflect' in checkpoint exp/a, 'constant'" in message
    assert "n_fft" not in message


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("name", PRESETS)
def test_lengths_agree_with_an_explicitly_padded_signal(name, pad_mode):
    """num_frames counts windows that fit; min_samples is the least that numpy's padding serves under the windows."""
    spec = dataclasses.replace(MelSpec.preset(name), pad_mode=pad_mode)
    for samples in (*range(1, 1200, 7), 5000, 16000):
        # How far before the wav's start and past its end the windows read.
        padded = samples + 2 * spec.pad_samples
        frames = len(range(0, padded - spec.n_fft + 1, spec.hop_length))
        left = -spec.window_start
        right = spec.window_start + (frames - 1) * spec.hop_length + spec.win_length - samples
        possible = frames > 0 and (pad_mode == "constant" or samples > max(left, right))
        if samples >= spec.min_samples:
            assert possible
            assert spec.num_frames(samples) == frames
            shortest = spec.num_samples(frames)
            assert shortest <= samples
            assert spec.num_frames(shortest) == frames
        else:
            assert spec.num_frames(samples) == 0
            assert not possible or pad_mode == "reflect"
    assert spec.num_frames(spec.min_samples) >= 1


def test_specs_are_hashable_and_frozen():
    assert len({*PRESETS.values(), MelSpec.preset("vocos24k")}) == len(PRESETS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        MelSpec.preset("vocos24k").n_mels = 1
    assert isinstance(MelSpec.from_dict({**MelSpec.preset("vocos24k").to_dict(), "fmin": 20}).fmin, float)
    assert np.isclose(MelSpec.preset("melgan22k").frame_rate, 86.1328125)
