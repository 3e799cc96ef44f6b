"""``sqvae-speech prepare``: a corpus to Kaldi data directories."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqvae_speech.bin._cli import ArgumentParser, run


def get_parser() -> ArgumentParser:
    """Return the parser; one sub-command a corpus, each with the options that it has."""
    from sqvae_speech.data.corpora import CORPORA
    from sqvae_speech.data.corpora.librispeech import TESTS
    from sqvae_speech.data.corpora.vctk import MICS

    parser = ArgumentParser(prog="sqvae-speech prepare", description="Write Kaldi data directories, one a split.")
    corpora = parser.add_subparsers(dest="name", metavar="corpus", required=True)
    for name, corpus in CORPORA.items():
        sub = corpora.add_parser(name, help=corpus.what, description=(corpus.prepare.__doc__ or "").split("\n")[0])
        sub.add_argument("--corpus", type=Path, required=True, help=corpus.what)
        sub.add_argument("--output", type=Path, required=True, help="folder for train/, dev/, test/ and left_out.txt")
        sub.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
        sub.add_argument("--max-bad", type=int, default=0, help="damaged recordings that may be left out")
        sub.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")
        if name == "fsdd":
            sub.add_argument(
                "--channel", help="of recordings with several: mix, or a number from 0 (default: refuse)"
            )
        else:
            sub.add_argument("--fraction", type=float, default=0.05, help="of each speaker, for dev and for test")
        if name == "vctk":
            sub.add_argument("--mic", choices=MICS, default=MICS[0], help="microphone, for the 0.92 layout")
        if name == "librispeech":
            sub.add_argument("--subsets", nargs="+", default=(), help="default: the training subsets that are there")
            sub.add_argument("--test", choices=TESTS, default=TESTS[0], help="what the test split is made of")
        if name in ("librispeech", "vctk"):
            sub.add_argument(
                "--no-text", dest="require_text", action="store_false", help="take recordings without transcript too"
            )
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
