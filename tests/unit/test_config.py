"""Typed, strict configuration."""

from dataclasses import dataclass, field

import pytest

from sqvae_speech.config import dump_yaml, load_config, parse_overrides
from sqvae_speech.errors import UserError


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    steps: tuple[int, ...] = (1, 2)
    name: str | None = None

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate must not be negative, got {self.rate}")


@dataclass(frozen=True)
class Outer:
    size: int = 3
    flag: bool = False
    inner: Inner = field(default_factory=Inner)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_file_and_overrides_in_that_order(tmp_path):
    path = write(tmp_path / "a.yaml", "size: 4\ninner:\n  rate: 2\n")
    config = load_config(Outer, path, ["--inner.steps", "[5, 6]", "--flag=true"])
    assert config == Outer(4, True, Inner(2.0, (5, 6), None))
    assert isinstance(config.inner.rate, float)


def test_base_is_relative_to_its_file_and_sections_merge(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "base.yaml", "size: 9\ninner: {rate: 7, name: x}\n")
    path = write(tmp_path / "deep" / "a.yaml", "base: ../base.yaml\ninner: {rate: 8}\n")
    assert load_config(Outer, path) == Outer(9, False, Inner(8.0, (1, 2), "x"))


def test_dump_is_read_back(tmp_path):
    config = Outer(5, True, Inner(0.25, (), "n"))
    assert load_config(Outer, write(tmp_path / "a.yaml", dump_yaml(config))) == config


@pytest.mark.parametrize(("text", "value"), [("4e-4", 4e-4), ("1E5", 1e5), ("2.5", 2.5), ("3", 3.0)])
def test_numbers_are_numbers_also_without_a_dot(text, value):
    assert load_config(Outer, None, ["--inner.rate", text]).inner.rate == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sise: 3", "unknown key sise, did you mean 'size'"),
        ("inner: {rat: 3}", r"unknown key inner\.rat, did you mean 'rate'"),
        ("size: big", "size must be int, got 'big'"),
        ("size: true", "size must be int, got True"),
        ("flag: 1", "flag must be bool, got 1"),
        ("inner: 3", "inner is a section"),
        ("inner: {steps: [1, x]}", r"inner\.steps must be int, got 'x'"),
        ("inner: {rate: -1}", "rate must not be negative"),
        ("- 1", "must hold"),
        ("a: [", "not valid YAML"),
        ("base: missing.yaml", "no configuration file"),
        ("base: a.yaml", "include each other in a circle"),
    ],
)
def test_a_bad_file_is_one_clear_message(tmp_path, text, message):
    path = write(tmp_path / "a.yaml", text)
    with pytest.raises(UserError, match=message):
        load_config(Outer, path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--inner.rats", "3"], r"unknown option --inner\.rats, did you mean 'inner\.rate'"),
        (["--size.x", "3"], "size is a value"),
        (["--size"], "--size needs a value"),
        (["size", "3"], "cannot read 'size'"),
    ],
)
def test_a_bad_override_is_one_clear_message(words, message):
    with pytest.raises(UserError, match=message):
        parse_overrides(Outer, words)
