"""The model card of a text-to-units model."""

from sqvae_speech.models.card import compose_card
from sqvae_speech.models.pretrained_text_to_units import TextToUnitsBundle

_USE = """```bash
sqvae-speech speak "..." --model {name} --tokenizer TOKENIZER{speaker} --output x.wav
```"""


def text_to_units_card(
    bundle: TextToUnitsBundle, name: str, *, licence: str | None = None, data: str | None = None
) -> str:
    """A card in the Hub's form: YAML that its search reads, then Markdown. See :func:`.card.compose_card`."""
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
        what="From text to discrete units of speech with their durations, not autoregressive, trained with "
        "sqvae_speech.",
        pipeline_tag="text-to-speech",
        tags=["text-to-speech", "discrete-units"],
        facts=facts,
        use=use,
        licence=licence,
    )
