"""Every form that units come in, what it can hold, and by which names its files are known."""

import fnmatch
import os
from pathlib import Path

from sqvae_speech.errors import UserError, nearest
from sqvae_speech.units.forms import arrays, dictionary, lines, records, textlesslib
from sqvae_speech.units.forms.base import Form

FORMS = {
    "km": Form(
        "HuBERT and fairseq: `71 12 57`, in the order of a manifest",
        "{stem}.km",
        lines.write_km,
        lines.read_km,
        dictionary=dictionary.FAIRSEQ,
    ),
    "gslm": Form(
        "GSLM: `name|71 12 57`", "{stem}.gslm", lines.write_gslm, lines.read_gslm, dictionary=dictionary.GSLM
    ),
    "pgslm": Form(
        "pGSLM: JSON lines with audio, duration, units and speaker",
        "{stem}.pgslm.jsonl",
        records.write_pgslm,
        records.read_pgslm,
        holds=frozenset({"speaker"}),
        runs=False,  # it counts durations itself
        dictionary=dictionary.FAIRSEQ,
    ),
    "textlesslib": Form(
        "textlesslib: `name<TAB>71 12`, with .durations and .f0s beside it",
        "{stem}.units",
        textlesslib.write_named,
        textlesslib.read_named,
        holds=frozenset({"durations", "f0"}),
        dictionary=dictionary.FAIRSEQ,
        extend=textlesslib.extend,
    ),
    "textlesslib-bare": Form(
        "textlesslib without names: `71 12`, with .durations and .f0s beside it",
        "{stem}.bare.units",
        textlesslib.write_bare,
        textlesslib.read_bare,
        holds=frozenset({"durations", "f0"}),
        dictionary=dictionary.FAIRSEQ,
        extend=textlesslib.extend,
    ),
    "kaldi": Form(
        "Kaldi text: `utt 71 12 57`, sorted",
        "{stem}.kaldi",
        lines.write_kaldi,
        lines.read_kaldi,
        in_order=False,
        dictionary=dictionary.KALDI,
    ),
    "kaldi-ark": Form(
        "Kaldi archive of int32 vectors with its table",
        "{stem}.scp",
        arrays.write_vectors,
        arrays.read_vectors,
        patterns=("*.ark",),
        in_order=False,
        dictionary=dictionary.KALDI,
    ),
    "espnet": Form(
        "ESPnet pseudo labels: `utt 71 12 57`, sorted",
        "text.km.{stem}",
        lines.write_kaldi,
        lines.read_kaldi,
        patterns=("pseudo_labels_km*.txt",),
        in_order=False,
        dictionary=dictionary.ESPNET,
    ),
    "espnet-ts": Form(
        "ESPnet asr2: a CJK character a unit, with repeats",
        "text.ts.{stem}",
        lines.write_characters,
        lines.read_characters,
        largest_codebook=dictionary.CHARACTERS,
        runs=False,
        in_order=False,
        dictionary=dictionary.ESPNET_CHARACTERS,
    ),
    "espnet-rm": Form(
        "ESPnet asr2: a CJK character a unit, repeats removed",
        "text.rm.{stem}",
        lines.write_characters,
        lines.read_characters,
        largest_codebook=dictionary.CHARACTERS,
        runs=True,
        in_order=False,
        dictionary=dictionary.ESPNET_CHARACTERS,
    ),
    "espnet-speechlm": Form(
        "ESPnet speechlm: Kaldi archive, all codebooks flattened, with its vocabulary",
        "{stem}.speechlm.scp",
        arrays.write_flattened,
        arrays.read_flattened,
        patterns=("*.speechlm.ark",),
        several_codebooks=True,
        in_order=False,
        dictionary=dictionary.ESPNET_SPEECHLM,
    ),
    "speechbrain": Form(
        "SpeechBrain tokens: Kaldi archive of (T, N) arrays, code + layer K + 1",
        "{stem}.speechbrain.scp",
        arrays.write_speechbrain,
        arrays.read_speechbrain,
        patterns=("*.speechbrain.ark",),
        several_codebooks=True,
        in_order=False,
    ),
    "npy": Form(
        "a folder with an .npy an utterance (bshall)",
        "{stem}.npys",
        arrays.write_tree,
        arrays.read_tree,
        folder=True,
    ),
    "jsonl": Form(
        "JSON lines with all that the store holds",
        "{stem}.jsonl",
        records.write_jsonl,
        records.read_jsonl,
        holds=frozenset(records.FIELDS) - {"utterance_id", "codes"},
        several_codebooks=True,
        extend=records.extend_jsonl,
    ),
}
PARQUET = "parquet"
FORMATS = (PARQUET, *FORMS)


def format_of(path: str | os.PathLike, name: str | None = None) -> str:
    """The format of a file: the one named, else the one that its name tells, which for a folder is ``npy``.

    Raises:
        UserError: for a format that is not known, or a name that tells none.
    """
    if name is not None:
        if name not in FORMATS:
            raise UserError(f"unknown unit format {name!r}{nearest(name, FORMATS)}; legal: {', '.join(FORMATS)}")
        return name
    path = Path(path)
    if path.is_dir():
        return "npy"
    patterns = {"*.parquet": PARQUET} | {glob: key for key, form in FORMS.items() for glob in form.all_patterns}
    matching = [glob for glob in patterns if fnmatch.fnmatchcase(path.name, glob)]
    if not matching:
        raise UserError(
            f"{path}: the suffix {path.suffix!r} names no unit format; known names: {', '.join(patterns)}. Or name "
            f"the format: {', '.join(FORMATS)}"
        )
    return patterns[max(matching, key=len)]


def file_of(path: str | os.PathLike, name: str) -> Path:
    """What the export of a store is called, beside it."""
    file = "{stem}.parquet" if name == PARQUET else FORMS[name].file
    return Path(path).with_name(file.format(stem=Path(path).stem))
