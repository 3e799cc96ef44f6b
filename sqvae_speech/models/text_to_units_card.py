"""A folder with a text-to-units model to share: its two files and a model card."""

import os
from pathlib import Path

from sqvae_speech.models.card import compose_card, write_shared_folder
from sqvae_speech.models.pretrained_text_to_units import TextToUnitsBundle, save_text_to_units

_USE = """```bash
sqvae-speech speak "..." --model {name} --tokenizer TOKENIZER{speaker} --output x.wav
```"""


def share_text_to_units(
    directory: str | os.PathLike[str],
    bundle: TextToUnitsBundle,
    *,
    name: str | None = None,
    licence: str | None = None,
    data: str | None = None,
    weights: str = "float32",
) -> Path:
    """Write ``config.json``, ``model.safetensors`` and ``README.md``, which is all that is needed.

    Args:
        directory: made if need be; each file is written beside its name and renamed.
        bundle: the model.
        name: what the card calls it; by default the folder.
        licence: of the weights, an SPDX id in lower case (``cc-by-4.0``), for the card.
        data: what it was trained on, in words, for the card.
        weights: ``float16`` stores matrices in half the size.

    Raises:
        UserError: ``directory`` is a file, or other weights.
    """
    return write_shared_folder(
        Path(directory),
        name,
        lambda folder: save_text_to_units(folder, bundle, weights),
        lambda title: text_to_units_card(bundle, title, licence=licence, data=data),
    )


def text_to_units_card(
    bundle: TextToUnitsBundle, name: str, *, licence: str | None = None, data: str | None = None
) -> str:
    """A card in the Hub's form: YAML that its search reads, then Markdown. Arguments: :func:`share_text_to_units`."""
    units, text = bundle.units, bundle.text
    weights = sum(parameter.numel() for parameter in bundle.model.parameters())
    reads = "characters" if text["kind"] == "characters" else f"phones of espeak-ng, {text['language']}"
    facts = {
        "data": data or "not stated",
        "reads": f"{len(bundle.symbols)} {reads}",
        "units": f"{units['num_codebooks']} x {units['codebook_size']}, of the tokenizer with SHA-256 "
        f"{str(units['checkpoint'])[:12]}",
        "speakers": f"{len(bundle.speakers)}: {', '.join(bundle.speakers)}" if bundle.speakers else "not told",
        "network": f"{bundle.model.config.text_layers} + {bundle.model.config.num_layers} layers of "
        f"{bundle.model.config.dim}, {weights:,} weights",
        "training": f"{bundle.step} steps",
    }
    use = _USE.format(name=name, speaker=f" --speaker {bundle.speakers[0]}" if bundle.speakers else " --speaker NAME")
    return compose_card(
        name,
        what="From text to discrete units of speech with their durations, not autoregressive; trained by "
        "sqvae_speech.",
        pipeline_tag="text-to-speech",
        tags=["text-to-speech", "discrete-units"],
        facts=facts,
        use=use,
        licence=licence,
    )
