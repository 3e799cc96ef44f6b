"""Typed, strict configuration: YAML files onto dataclasses, with overrides from the command line.

A file may name another with ``base: path`` (relative to itself) and then lists only what differs. An unknown key is
an error that names the nearest known one, a value of the wrong type one that names the type.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sqvae_speech.errors import UserError, nearest

Config = TypeVar("Config")


def load_config(cls: type[Config], path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        cls: a dataclass; nested dataclasses are sections.
        path: a YAML file, or None for the defaults.
        overrides: command-line words, ``--section.key value`` or ``--section.key=value``.

    Raises:
        UserError: a file that is missing or is not YAML, an unknown key, a value of the wrong type.
    """
    values = _read_yaml(Path(path), ()) if path is not None else {}
    source = str(path) if path is not None else "the configuration"
    values = _merge(values, parse_overrides(cls, overrides))
    return from_dict(cls, values, source)


def peek(key: str, path: str | Path | None, overrides: Sequence[str], default: Any) -> Any:
    """One top-level value of a configuration, before its class is known.

    Raises:
        UserError: a file that is missing or is not YAML.
    """
    value = _read_yaml(Path(path), ()).get(key, default) if path is not None else default
    for number, word in enumerate(overrides):
        if word == f"--{key}" and number + 1 < len(overrides):
            value = yaml.load(overrides[number + 1], Loader=_Loader)
        elif word.startswith(f"--{key}="):
            value = yaml.load(word.partition("=")[2], Loader=_Loader)
    return value


def from_dict(cls: type[Config], values: Mapping[str, Any], source: str = "the configuration") -> Config:
    """Build ``cls`` from nested mappings; strict as :func:`load_config`. ``source`` is named in errors."""
    return _build(cls, values, source, "")


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of :func:`from_dict`, in types that YAML and JSON can hold."""
    return _plain(dataclasses.asdict(config))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as ``{"section.key": value}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def dump_yaml(config: Any) -> str:
    """``config`` as YAML text that :func:`load_config` reads back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def parse_overrides(cls: type, words: Sequence[str]) -> dict[str, Any]:
    """Parse ``--section.key value`` words into nested values.

    Raises:
        UserError: a word that is not an option, an option without its value, an unknown key.
    """
    values: dict[str, Any] = {}
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise UserError(f"cannot read {word!r}: overrides are written --section.key value")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not remaining:
                raise UserError(f"--{key} needs a value")
            text = remaining.pop(0)
        names = key.split(".")
        _check_key(cls, names)
        section = values
        for name in names[:-1]:
            section = section.setdefault(name, {})
        try:
            section[names[-1]] = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise UserError(f"--{key}: cannot read the value {text!r}: {error}") from error
    return values


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``4e-4`` as a string for want of a dot; this one reads it as the number everybody means."""


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        chain = " -> ".join(map(str, (*seen, path.resolve())))
        raise UserError(f"configuration files include each other in a circle: {chain}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no configuration file {path}") from None
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold `key: value` lines, got {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    return _merge(_read_yaml(path.parent / str(base), (*seen, path.resolve())), values)


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _check_key(cls: type, names: Sequence[str]) -> None:
    """Raise for a dotted key that leads to no field of ``cls``."""
    current: Any = cls
    for depth, name in enumerate(names):
        if not dataclasses.is_dataclass(current):
            raise UserError(f"--{'.'.join(names)}: {'.'.join(names[:depth])} is a value, it has no {name!r}")
        hints = typing.get_type_hints(current)
        if name not in hints:
            prefix = ".".join(names[:depth])
            keys = _leaf_keys(cls)
            raise UserError(
                f"unknown option --{'.'.join(names)}{nearest('.'.join(names), keys)}; "
                f"legal under {prefix or 'the top'}: {', '.join(hints)}"
            )
        current = hints[name]


def _leaf_keys(cls: Any, prefix: str = "") -> list[str]:
    keys = []
    for name, kind in typing.get_type_hints(cls).items():
        keys += _leaf_keys(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else [f"{prefix}{name}"]
    return keys


def _build(cls: Any, values: Any, source: str, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{source}: {prefix.rstrip('.')} is a section of keys, got {values!r}")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            known = ", ".join(hints)
            raise UserError(f"{source}: unknown key {prefix}{key}{nearest(str(key), hints)}; legal: {known}")
    arguments = {key: _convert(hints[key], value, source, f"{prefix}{key}") for key, value in values.items()}
    try:
        return cls(**arguments)
    except TypeError as error:  # a key without a default is missing
        raise UserError(f"{source}: {prefix.rstrip('.') or 'the configuration'}: {error}") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def _convert(kind: Any, value: Any, source: str, key: str) -> Any:
    """Check ``value`` against the annotation ``kind``; ints pass as floats and lists become tuples."""
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, source, f"{key}.")
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in options:
            return None
        rest = [option for option in options if option is not type(None)]
        return _convert(rest[0], value, source, key)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(options[0], item, source, key) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {str(name): _convert(options[1], item, source, f"{key}.{name}") for name, item in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    expected = getattr(kind, "__name__", str(kind)) if origin is None else str(kind)
    raise UserError(f"{source}: {key} must be {expected}, got {value!r}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
