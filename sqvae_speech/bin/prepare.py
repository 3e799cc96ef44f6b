"""``sqvae-speech prepare``: a corpus to Kaldi data directories."""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqvae_speech.bin._cli import ArgumentParser, run

# parameters of the corpora's functions, and how they are given
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "subsets": ("--subsets", {"nargs": "+", "help": "those to take (default: the training subsets that are there)"}),
    "language": ("--language", {"help": "name of the language's folder"}),
    "speaker": ("--speaker", {"help": "regular expression whose first group is the speaker in a recording's path"}),
    "text_suffix": (
        "--text-suffix",
        {"help": "of the transcript beside each recording, such as .txt (default: none)"},
    ),
    "mic": ("--mic", {"help": "mic1 or mic2, for the 0.92 layout"}),
    "channel": ("--channel", {"help": "of recordings with several: mix, or a number from 0 (default: refuse)"}),
    "test": (
        "--test",
        {"help": "what the test split is made of: utterances, speakers, subsets, parallel, challenge"},
    ),
    "fraction": ("--fraction", {"type": float, "help": "of each speaker, for dev and for test"}),
    "seed": ("--seed", {"type": int, "help": "of everything that is drawn"}),
    "require_text": ("--no-text", {"action": "store_false", "help": "take recordings without transcript too"}),
    "allow_pipes": ("--allow-pipes", {"action": "store_true", "help": "take commands in wav.scp, which will be run"}),
    "max_bad": ("--max-bad", {"type": int, "help": "damaged recordings that may be left out"}),
    "progress": ("--no-progress", {"action": "store_false", "help": "no progress bar"}),
}


def get_parser() -> ArgumentParser:
    """Return the parser; one sub-command a corpus, each with the options that its function has."""
    from sqvae_speech.data.corpora import CORPORA

    parser = ArgumentParser(prog="sqvae-speech prepare", description="Write Kaldi data directories, one a split.")
    corpora = parser.add_subparsers(dest="name", metavar="corpus", required=True)
    for name, corpus in CORPORA.items():
        sub = corpora.add_parser(name, help=corpus.what, description=(corpus.prepare.__doc__ or "").split("\n")[0])
        sub.add_argument("--corpus", type=Path, required=True, help=corpus.what)
        sub.add_argument("--output", type=Path, required=True, help="folder for train/, dev/, test/ and left_out.txt")
        parameters = inspect.signature(corpus.prepare).parameters
        for parameter, (option, settings) in OPTIONS.items():
            if parameter in parameters:
                default = parameters[parameter].default
                sub.add_argument(option, dest=parameter, default=default, **settings)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare a corpus and print what became of its recordings."""
    from sqvae_speech.data.corpora import CORPORA

    options: dict[str, Any] = vars(get_parser().parse_args(argv))
    result = CORPORA[options.pop("name")].prepare(options.pop("corpus"), options.pop("output"), **options)
    print(result.summary())
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
