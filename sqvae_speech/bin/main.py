"""The ``sqvae-speech`` command: one verb a module of ``sqvae_speech.bin``."""

import importlib
import sys
from collections.abc import Sequence

from sqvae_speech.bin._cli import run
from sqvae_speech.errors import nearest
from sqvae_speech.version import __version__

# verb -> (module with main(argv) -> int, what it does). Imported only when called: `--help` must not wait for torch.
VERBS = {
    "prepare": ("sqvae_speech.bin.prepare", "a corpus of speech or images to data directories"),
    "data": ("sqvae_speech.bin.data", "look at data directories and shards: summary, validate, show"),
    "shards": ("sqvae_speech.bin.shards", "a data directory to webdataset shards: log-mel features, or images"),
    "train": (
        "sqvae_speech.bin.train",
        "train a model on shards (also: accelerate launch -m sqvae_speech.bin.train)",
    ),
    "runs": ("sqvae_speech.bin.runs", "list and compare training runs"),
    "sweep": ("sqvae_speech.bin.sweep", "train over a grid or a random sample of configurations"),
    "encode": ("sqvae_speech.bin.encode", "recordings, data directories, shards or a live stream to discrete units"),
    "export": ("sqvae_speech.bin.export", "a tokenizer as an ONNX file, a compiled package, or a folder to share"),
    "units": ("sqvae_speech.bin.units", "convert, summarise and show files of units"),
    "lm": ("sqvae_speech.bin.lm", "score a language model over units, and draw speech or images from it"),
    "score": ("sqvae_speech.bin.score", "reconstruction and codebook scores of a model on shards"),
    "evaluate": (
        "sqvae_speech.bin.evaluate",
        "what representations are worth (ABX, unit to phone, probes, bitrate), a codebook, converted voices",
    ),
    "speak": ("sqvae_speech.bin.speak", "a text in the voice of a speaker, as wav, by a text-to-units model"),
    "report": ("sqvae_speech.bin.report", "a run, or several side by side, as a web page of one file"),
    "vocode": ("sqvae_speech.bin.vocode", "log-mels of shards or recordings to wavs, by any vocoder"),
    "convert": ("sqvae_speech.bin.convert", "speech to the voice of another speaker, as wav"),
}


def usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, (_, what) in VERBS.items())
    return (
        f"usage: sqvae-speech <verb> [options]\n\nverbs:\n{verbs}\n\n`sqvae-speech <verb> --help` lists its options."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a verb. Returns its exit code; 2 with the usage when the verb is missing or unknown."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments and arguments[0] == "--version":
        print(f"sqvae-speech {__version__}")
        return 0
    if not arguments or arguments[0] not in VERBS:
        unknown = f"unknown verb {arguments[0]!r}{nearest(arguments[0], VERBS)}" if arguments else "which verb?"
        print(f"{usage()}\n\nsqvae-speech: error: {unknown}", file=sys.stderr)
        return 2
    module = importlib.import_module(VERBS[arguments[0]][0])
    return run(module.main, arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
