"""``sqvae-speech prepare``: a corpus of speech or images to data directories."""

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqvae_speech.bin._cli import ArgumentParser, run

if TYPE_CHECKING:
    from sqvae_speech.data.corpus_sources import Source
    from sqvae_speech.data.preparation import Corpus

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
        {"help": "what the test split is made of: utterances, speakers, subsets, parallel, source, challenge"},
    ),
    "test_speakers": (
        "--test-speakers",
        {"nargs": "+", "metavar": "NAME", "help": "test is all that these say, who are then not trained on"},
    ),
    "train_list": ("--train-list", {"type": Path, "metavar": "FILE", "help": "train on the recordings listed there"}),
    "test_list": ("--test-list", {"type": Path, "metavar": "FILE", "help": "test on the recordings listed there"}),
    "fraction": ("--fraction", {"type": float, "help": "of each speaker or class, for dev and for test"}),
    "dev": ("--dev", {"type": int, "metavar": "N", "help": "images of the training set to keep for validation"}),
    "label": ("--label", {"help": "regular expression whose first group is the class in an image's path"}),
    "seed": ("--seed", {"type": int, "help": "of everything that is drawn"}),
    "split_list": (
        "--split-list",
        {
            "type": Path,
            "metavar": "FILE",
            "help": "take the splits listed there (lines: utterance, speaker, split, as in splits.tsv), draw none",
        },
    ),
    "require_text": ("--no-text", {"action": "store_false", "help": "take recordings without transcript too"}),
    "keep_known_bad": (
        "--keep-known-bad",
        {"action": "store_true", "help": "take recordings too that are documented to be silent, cut off, ..."},
    ),
    "allow_pipes": ("--allow-pipes", {"action": "store_true", "help": "take commands in wav.scp, which will be run"}),
    "max_bad": ("--max-bad", {"type": int, "help": "damaged recordings or images that may be left out"}),
    "progress": ("--no-progress", {"action": "store_false", "help": "no progress bar"}),
}


def corpora_and_sources() -> "tuple[dict[str, Corpus], dict[str, Source]]":
    """Return all corpora, of speech and of images, and where those that can be fetched are."""
    from sqvae_speech.data import corpora, image_corpora
    from sqvae_speech.data.corpora.sources import SOURCES
    from sqvae_speech.data.image_corpora.sources import SOURCES as IMAGE_SOURCES

    return {**corpora.CORPORA, **image_corpora.CORPORA}, {**SOURCES, **IMAGE_SOURCES}


def get_parser() -> ArgumentParser:
    """Return the parser; one sub-command a corpus, each with the options that its function has."""
    corpora, sources = corpora_and_sources()
    parser = ArgumentParser(prog="sqvae-speech prepare", description="Write data directories, one a split.")
    verbs = parser.add_subparsers(dest="name", metavar="corpus", required=True)
    for name, corpus in corpora.items():
        sub = verbs.add_parser(name, help=corpus.what, description=(corpus.prepare.__doc__ or "").split("\n")[0])
        # taken for all corpora, so that those without an address can say what to do; shown for the others
        source = sources.get(name)
        where = " (with --download: where to put it)" if source else ""
        fetch = f"fetch the corpus first, unless it is there; without --corpus into downloads/{name}"
        fetch += f". Licence: {source.licence}" if source else ""
        sub.add_argument("--corpus", type=Path, help=corpus.what + where)
        sub.add_argument("--download", action="store_true", help=fetch if source else argparse.SUPPRESS)
        sub.add_argument(
            "--output",
            type=Path,
            help="folder for train/, dev/, test/, splits.tsv and left_out.txt"
            + ("; without it --download only fetches" if source else ""),
        )
        parameters = inspect.signature(corpus.prepare).parameters
        for parameter, (option, settings) in OPTIONS.items():
            if parameter in parameters:
                default = parameters[parameter].default
                sub.add_argument(option, dest=parameter, default=default, **settings)
        sub.set_defaults(sub=sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare a corpus and print what became of its recordings."""
    options: dict[str, Any] = vars(get_parser().parse_args(argv))
    corpora, sources = corpora_and_sources()
    sub, name, corpus, output = (options.pop(key) for key in ("sub", "name", "corpus", "output"))
    download = options.pop("download")
    needed = {"--output": output} if corpora[name].embedded else {"--corpus": corpus, "--output": output}
    missing = [option for option, value in needed.items() if value is None and not download]
    if missing:
        sub.error(f"the following arguments are required: {', '.join(missing)} (or --download)")
    if download:
        from sqvae_speech.data.corpus_sources import download_corpus

        corpus = corpus or Path("downloads") / name
        if name == "librispeech" and not options["subsets"]:
            options["subsets"] = ("train-clean-100", *(("test-clean",) if options["test"] == "subsets" else ()))
        parts = {"librispeech": "subsets", "zerospeech2019": "language"}.get(name)
        chosen = options[parts] if parts else ()
        download_corpus(
            name,
            corpus,
            (chosen,) if isinstance(chosen, str) else chosen,
            sources=sources,
            progress=options.get("progress", True),
        )
    if output is not None:
        print(corpora[name].prepare(corpus, output, **options).summary())
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
