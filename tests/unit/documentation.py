"""The examples of the documentation as the tests use them: fenced blocks of Markdown, run or read by their programs.

Python blocks of a page are run one after the other with the same names. What their comments say of shapes and values
is checked: ``out.indices  # (8, 100) int64`` of an expression, ``units = f()  # units.codes (1, N, T)`` of a name.
Of bash blocks the ``sqvae-speech`` commands and the recipes are looked at, see :func:`check_command`. A block that
cannot be run or read has a line before it that says why: ``<!-- not run: needs a microphone -->``.
"""

import argparse
import ast
import importlib
import io
import itertools
import re
import shlex
import subprocess
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sqvae_speech.bin.main import VERBS, main
from sqvae_speech.config import parse_overrides
from sqvae_speech.errors import UserError
from sqvae_speech.training.tasks import TASKS, task_class

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)```(\w*) *$")
NOT_RUN = re.compile(r"^ *<!-- not run: (.+) -->$")
SHAPE = re.compile(
    r"(?:^|(?P<name>[A-Za-z_][\w.]*) )\((?P<axes>\w+(?:, \w+)*),?\)(?: (?P<dtype>int64|int32|float32|float64))?"
)
PARSERS = ("parse_args", "parse_known_args", "parse_intermixed_args")
# options of recipes that hold options of a verb -> the verb, and what it needs besides
PASSED_ON = {
    "--prepare-args": ("prepare", ["{corpus}", "--corpus", "x", "--output", "y"]),
    "--shards-args": ("shards", ["x", "y"]),
    "--convert-args": ("convert", ["--model", "x", "--shards", "y", "--all-pairs", "--output", "z"]),
}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, what it is written in, its text, and why it is not run, if it is not."""

    page: Path
    line: int
    section: str
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def pages() -> list[Path]:
    """All Markdown that has examples."""
    return [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "egs").glob("*/RESULTS.md")),
    ]


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The blocks of a page, of one language or of all."""
    found, section, before = [], "", ""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if fence := FENCE.match(line):
            indent, name = fence.groups()
            inside = []
            for _, text in lines:
                if text == f"{indent}```":
                    break
                inside.append(text.removeprefix(indent))
            else:
                raise AssertionError(f"{page.name}:{number}: a block that does not end")
            reason = NOT_RUN.match(before)
            body = "\n".join(inside) + "\n"
            found.append(Block(page, number + 1, section, name, body, reason[1] if reason else None))
        elif line.startswith("## "):
            section = line.removeprefix("## ")
        before = line
    return [block for block in found if language in (None, block.language)]


# ---- Python


def run_python(examples: Iterable[Block], names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run blocks where one stands; gives what they define. ``names`` is added to."""
    names = {"__name__": "example"} if names is None else names
    for block in examples:
        if block.not_run is not None:
            continue
        comments = _comments(block.text)
        for node in ast.parse(block.text).body:
            comment = comments.get(node.end_lineno or 0, "")
            ast.increment_lineno(node, block.line - 1)
            if isinstance(node, ast.Expr):
                value = eval(compile(ast.Expression(node.value), str(block.page), "eval"), names)
                _check_claim(block, value, comment)
            else:
                exec(compile(ast.Module([node], []), str(block.page), "exec"), names)
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    _check_claim(block, names[node.targets[0].id], comment)
            _check_shapes(block, names, comment)
    return names


def _comments(text: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def _check_claim(block: Block, value: Any, comment: str) -> None:
    """What a comment says of the value of the expression before it: a shape, or the value itself."""
    claim = SHAPE.match(comment)
    if claim is not None and claim["name"] is None and hasattr(value, "ndim"):
        _check_shape(block, value, claim)
        return
    try:
        claimed = ast.literal_eval(comment)
    except (SyntaxError, ValueError):
        return
    assert value == claimed, f"{block.place}: {value} is said to be {comment}"


def _check_shapes(block: Block, names: dict[str, Any], comment: str) -> None:
    """What a comment says of the shapes of names."""
    for claim in SHAPE.finditer(comment):
        if claim["name"] and claim["name"].partition(".")[0] in names:
            _check_shape(block, eval(claim["name"], names), claim)


def _check_shape(block: Block, value: Any, claim: re.Match[str]) -> None:
    axes = claim["axes"].split(", ")
    found = tuple(value.shape)
    wanted = tuple(int(axis) if axis.isdigit() else size for axis, size in zip(axes, found, strict=False))
    assert found == wanted, f"{block.place}: {found} is said to be {claim[0]}"
    assert len(axes) == len(found), f"{block.place}: {found} is said to be {claim[0]}"
    if claim["dtype"]:
        assert str(value.dtype).endswith(claim["dtype"]), f"{block.place}: {value.dtype} is said to be {claim[0]}"


# ---- bash


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a script, as words; variables that it sets are put in."""
    variables: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                if command:
                    yield command
                command = []
            elif not command and (assigned := re.fullmatch(r"(\w+)=(.*)", word)):
                variables[assigned[1]] = assigned[2]
            elif not command and word in ("exec", "do", "then", "else"):
                continue
            elif word.startswith("$") and word[1:] in variables:
                command += variables[word[1:]].split()
            else:
                command.append(re.sub(r"\$(\w+)", lambda name: variables.get(name[1], name[0]), word))


def run_bash(block: Block) -> None:
    """Run the ``sqvae-speech`` commands of a block in this process; there may be no others."""
    for program, *words in commands(block.text):
        assert program == "sqvae-speech", f"{block.place}: {program}"
        assert main(words) == 0, f"{block.place}: {shlex.join(words)}"


def check_commands(page: Path) -> int:
    """Look at the commands of a page, as :func:`check_command` does; gives how many are the project's."""
    examples = [block for block in blocks(page, "bash") if block.not_run is None]
    return sum(check_command(block, words) for block in examples for words in commands(block.text))


def check_command(block: Block, words: list[str]) -> bool:
    """Have a command's options read by its own parser, without running it; False when it is none of the project's.

    With ``...`` among the words, which stands for others, its options only have to exist.
    """
    if words[0] == "sqvae-speech" and len(words) > 1 and words[1] in VERBS:
        _check_verb(block, VERBS[words[1]][0], words[2:])
    elif words[0] == "sqvae-speech":
        assert words[1:] in (["--help"], ["--version"]), f"{block.place}: no verb {shlex.join(words)}"
    elif "-m" in words and words[words.index("-m") + 1].startswith("sqvae_speech.bin."):
        place = words.index("-m") + 1
        _check_verb(block, words[place], words[place + 1 :])
    elif words[0] == "bash" and len(words) > 1 and words[1].startswith("egs/"):
        result = subprocess.run(["bash", ROOT / words[1], *words[2:], "--help"], capture_output=True, text=True)
        assert result.returncode == 0, f"{block.place}: {shlex.join(words)}\n{result.stderr[-500:]}"
        _check_settings(block, words[2:])
        for option, text in itertools.pairwise(words):
            if option in PASSED_ON:
                verb, needed = PASSED_ON[option]
                corpus = Path(words[1]).parent.name
                passed_on = [word.format(corpus=corpus) for word in needed] + shlex.split(text)
                _check_verb(block, VERBS[verb][0], passed_on)
    elif words[0] in ("bash", "source", "python") and len(words) > 1 and re.match(r"(egs|tools|recipes)/", words[1]):
        assert (ROOT / words[1]).is_file(), f"{block.place}: there is no {words[1]}"
    else:
        return False
    return True


class _Read(Exception):
    """The outermost parser is done; what it did not know is in ``args``."""


def _check_verb(block: Block, module: str, words: list[str]) -> None:
    depth = 0

    def reading(name: str):
        original = getattr(argparse.ArgumentParser, name)

        def read(self: argparse.ArgumentParser, *args: Any, **options: Any):
            nonlocal depth
            if "..." in words:
                for word in words:
                    known = word in self._option_string_actions or re.match(r"--\w+\.", word)
                    assert known or not word.startswith("--"), f"{block.place}: no option {word}"
                raise _Read([])
            depth += 1
            try:
                result = original(self, *args, **options)
            finally:
                depth -= 1
            if depth == 0:
                raise _Read(result[1] if isinstance(result, tuple) else [])
            return result

        return read

    with pytest.MonkeyPatch.context() as patch:
        for name in PARSERS:
            patch.setattr(argparse.ArgumentParser, name, reading(name))
        try:
            importlib.import_module(module).main(words)
        except _Read as done:
            _check_settings(block, done.args[0])
        except SystemExit as end:
            if end.code != 0:
                raise AssertionError(f"{block.place}: {shlex.join(words)} cannot be read") from None


def _check_settings(block: Block, words: list[str]) -> None:
    """``--section.key value`` words have to be of a configuration."""
    settings = []
    for word, value in itertools.zip_longest(words, words[1:], fillvalue=""):
        if re.match(r"--\w+\.\w", word):
            settings += [word] if "=" in word else [word, value]
    for name in TASKS:
        try:
            parse_overrides(task_class(name).config_class, settings)
        except UserError as error:
            refused = error
        else:
            return
    raise AssertionError(f"{block.place}: {refused}")
