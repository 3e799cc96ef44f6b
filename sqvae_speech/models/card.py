"""Model cards in the Hub's form, and the folders that they lie in."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sqvae_speech.models.hub import whole_files


def compose_card(
    name: str,
    *,
    what: str,
    pipeline_tag: str,
    tags: Sequence[str],
    facts: Mapping[str, str],
    use: str,
    licence: str | None = None,
    more: str = "",
) -> str:
    """A card: YAML that the Hub's search reads, then Markdown.

    Args:
        name: what ``from_pretrained`` and its like will be given.
        what: the model is, in a sentence.
        pipeline_tag: the Hub's name of the task.
        tags: besides ``audio`` and ``speech``.
        facts: rows of a table; the licence is added.
        use: code in Markdown.
        licence: of the weights, an SPDX id in lower case as the Hub lists them; None leaves the field open, in words.
        more: Markdown at the end.
    """
    head: dict[str, Any] = {"library_name": "sqvae_speech", "pipeline_tag": pipeline_tag}
    if licence:
        head["license"] = licence
    head["tags"] = ["audio", "speech", *tags]
    facts = {**facts, "licence": licence or "not stated: ask the authors before you use it"}
    rows = "\n".join(f"| {key} | {cell(value)} |" for key, value in facts.items())
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {name.rsplit('/', 1)[-1]}\n\n{what}\n\n"
        f"| | |\n|---|---|\n{rows}\n\n{use}\n{more}"
    )


def cell(text: str) -> str:
    """A text as a table of Markdown can hold it."""
    return text.replace("|", "\\|").replace("\n", " ")


def write_shared_folder(
    target: Path, name: str | None, save: Callable[[Path], None], card: Callable[[str], str]
) -> Path:
    """Write ``config.json``, ``model.safetensors`` and ``README.md``, which is all that is needed to use a model.

    Args:
        target: made if need be; each file is written beside its name and renamed.
        name: what the card calls the model; by default the folder.
        save: writes the first two into the folder that it is given.
        card: the third's text, of the name.

    Raises:
        UserError: ``target`` is a file, or what ``save`` raises.
    """
    with whole_files(target) as staging:
        save(staging)
        (staging / "README.md").write_text(card(name or target.resolve().name), encoding="utf-8")
    return target
