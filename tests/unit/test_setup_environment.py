"""tools/setup.sh with stand-in Pythons: which one it takes, what it installs, and what a failure leaves behind.

A stand-in is a script that answers "do you work?" and writes down what pip is asked for, so the tests need no network
and no gigabytes. That the real installation works is shown by the tests running at all: tools/test.sh makes it first.
"""

import configparser
import shutil
import subprocess
import sys
import time
from pathlib import Path

import packaging
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.13", "3.12", "3.11")

STAND_IN = """#!/usr/bin/env bash
# python3.X for the tests: makes an "environment" with itself in it, and writes down what pip was asked for
case "$*" in
    "-m venv "*) mkdir -p "${{@: -1}}/bin" && cp "$0" "${{@: -1}}/bin/python" ;;
    "-m pip "*)
        echo "$*" >> {log}
        sleep {seconds}
        exit {pip_status} ;;
    "-I -c "*) {answer} ;;
    *check_environment.py*) exit 0 ;;
    "-V") echo "Python stand-in" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with tools/setup.sh, in a folder with spaces in its name, and an empty folder of programs."""
    root = tmp_path / "a check out"
    shutil.copytree(ROOT / "tools", root / "tools")
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (tmp_path / "bin").mkdir()
    return root


def stand_in(checkout: Path, name: str, *, works: bool = True, pip_status: int = 0, seconds: float = 0) -> Path:
    """Write a program ``name`` that answers as CPython 3.X does when its name is asked for."""
    path = checkout.parent / "bin" / name
    version = name.removeprefix("python")
    # the last argument is the list of versions that would do
    answer = f'case " ${{@: -1}} " in *" {version} "*) echo "$0" ;; *) exit 1 ;; esac' if works else "exit 127"
    text = STAND_IN.format(log=checkout.parent / "pip.log", seconds=seconds, pip_status=pip_status, answer=answer)
    path.write_text(text)
    path.chmod(0o755)
    return path


def environment(checkout: Path, **more: str) -> dict[str, str]:
    """An environment where only the stand-ins and the system's basic tools can be found, and no pyenv."""
    tools = checkout.parent / "system"
    tools.mkdir(exist_ok=True)
    for name in (
        "bash",
        "cat",
        "cksum",
        "cp",
        "dirname",
        "flock",
        "id",
        "ls",
        "mkdir",
        "mv",
        "rm",
        "sed",
        "sleep",
        "sort",
    ):
        if (found := shutil.which(name)) and not (tools / name).exists():
            (tools / name).symlink_to(found)
    return {"PATH": f"{checkout.parent / 'bin'}:{tools}", "HOME": str(checkout.parent), **more}


def setup(checkout: Path, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(checkout / "tools" / "setup.sh"), *options]
    return subprocess.run(command, env=environment(checkout, **more), capture_output=True, text=True, timeout=60)


def pip_calls(checkout: Path) -> list[str]:
    log = checkout.parent / "pip.log"
    return log.read_text().splitlines() if log.exists() else []


def test_takes_the_newest_python_that_works(checkout: Path):
    stand_in(checkout, "python3.13", works=False)  # such as a pyenv shim of a version that is not selected
    stand_in(checkout, "python3.12")
    stand_in(checkout, "python3.11")
    result = setup(checkout, "--which-python")
    assert result.returncode == 0
    assert result.stdout.strip().endswith("bin/python3.12")


def test_finds_the_newest_of_pyenv(checkout: Path):
    stand_in(checkout, "python3.11")
    shims = {"3.12.9": True, "3.12.10": True, "3.13.2": False}
    for version, works in shims.items():
        folder = checkout.parent / "pyenv" / "versions" / version / "bin"
        folder.mkdir(parents=True)
        made = stand_in(checkout, f"python{version.rpartition('.')[0]}", works=works)
        made.rename(folder / "python")
    result = setup(checkout, "--which-python", PYENV_ROOT=str(checkout.parent / "pyenv"))
    assert result.stdout.strip().endswith("versions/3.12.10/bin/python")


def test_no_python_says_what_to_do(checkout: Path):
    result = setup(checkout)
    assert result.returncode == 1
    assert "no working Python found" in result.stderr
    assert "pyenv install 3.13" in result.stderr
    assert not (checkout / ".venv").exists()


def test_named_python_that_does_not_work_is_refused(checkout: Path):
    stand_in(checkout, "python3.12")
    broken = stand_in(checkout, "python3.13", works=False)
    result = setup(checkout, PYTHON=str(broken))
    assert result.returncode == 1
    assert str(broken) in result.stderr
    assert not (checkout / ".venv").exists()


def test_installs_the_tested_versions_once(checkout: Path):
    stand_in(checkout, "python3.12")
    first = setup(checkout)
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"{checkout}/.venv/bin\n"
    calls = pip_calls(checkout)
    assert any("--editable .[" in call and "--constraint tools/constraints.txt" in call for call in calls)

    started = time.monotonic()
    second = setup(checkout)
    assert second.returncode == 0
    assert second.stdout == first.stdout
    assert second.stderr == ""
    assert pip_calls(checkout) == calls
    assert time.monotonic() - started < 2


def test_a_changed_constraint_installs_again(checkout: Path):
    stand_in(checkout, "python3.12")
    setup(checkout)
    before = len(pip_calls(checkout))
    with (checkout / "tools" / "constraints.txt").open("a") as file:
        file.write("some-package==1\n")
    assert setup(checkout).returncode == 0
    assert len(pip_calls(checkout)) > before


def test_a_failed_installation_is_not_taken_for_a_whole_one(checkout: Path):
    stand_in(checkout, "python3.12", pip_status=3)
    failed = setup(checkout)
    assert failed.returncode != 0
    assert failed.stdout == ""
    assert "setting up" in failed.stderr
    assert "failed" in failed.stderr
    assert not (checkout / ".venv" / ".sqvae_stamp").exists()

    working = stand_in(checkout, "python3.12")
    shutil.copy(working, checkout / ".venv" / "bin" / "python")
    again = setup(checkout)
    assert again.returncode == 0, again.stderr
    assert (checkout / ".venv" / ".sqvae_stamp").exists()


def test_two_at_once_install_once(checkout: Path):
    if shutil.which("flock") is None:
        pytest.skip("flock is not installed")
    stand_in(checkout, "python3.12", seconds=0.5)
    command = ["bash", str(checkout / "tools" / "setup.sh")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(command, env=environment(checkout), **pipes) for _ in range(2)]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] == f"{checkout}/.venv/bin\n"
    assert len([call for call in pip_calls(checkout) if "--editable" in call]) == 1


def test_an_environment_that_was_moved_is_made_anew(checkout: Path):
    stand_in(checkout, "python3.12")
    setup(checkout)
    moved = checkout.parent / "moved"
    checkout.rename(moved)
    result = setup(moved)
    assert result.returncode == 0, result.stderr
    assert "anew" in result.stderr
    assert (moved / ".venv" / ".made_by_sqvae_setup").read_text().strip() == f"{moved}/.venv"


def test_somebody_elses_broken_environment_is_not_deleted(checkout: Path):
    stand_in(checkout, "python3.12")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "keep").write_text("mine")
    result = setup(checkout)
    assert result.returncode == 1
    assert "Move it away" in result.stderr
    assert (checkout / ".venv" / "keep").read_text() == "mine"


def test_a_complete_active_environment_is_used_as_it_is(checkout: Path):
    stand_in(checkout, "python3.12")
    active = checkout.parent / "active"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(active)], check=True)
    site_packages = next(active.glob("lib/python*/site-packages"))
    (site_packages / "packaging.pth").write_text(str(Path(packaging.__file__).parents[1]))
    (checkout / "setup.cfg").write_text("[options]\n[options.extras_require]\ndev =\nkaldi =\nmini =\n")
    result = setup(checkout, VIRTUAL_ENV=str(active))
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{active}/bin\n", "")
    assert not (checkout / ".venv").exists()
    assert pip_calls(checkout) == []


def test_an_incomplete_active_environment_is_left_alone(checkout: Path):
    stand_in(checkout, "python3.12")
    active = checkout.parent / "active"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(active)], check=True)
    before = sorted(active.rglob("*"))
    result = setup(checkout, VIRTUAL_ENV=str(active))
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{checkout}/.venv/bin\n"
    assert f"active environment {active} is not complete" in result.stderr
    assert sorted(active.rglob("*")) == before


def test_unknown_option_prints_the_help(checkout: Path):
    result = setup(checkout, "--pyhton")
    assert result.returncode == 2
    assert "usage: bash tools/setup.sh" in result.stderr
    assert "--pyhton" in result.stderr


@pytest.mark.parametrize(
    ("requires", "lines"),
    [
        ("numpy>=1", []),
        ("numpy>=999", ["numpy>=999 (is "]),
        ("numpy>=1\n    no-such-package-here>=2", ["no-such-package-here>=2"]),
        ('no-such-package-here ; python_version < "3"', []),
    ],
)
def test_check_environment_lists_what_is_missing(tmp_path: Path, requires: str, lines: list[str]):
    file = tmp_path / "setup.cfg"
    file.write_text(f"[options]\ninstall_requires =\n    {requires}\n[options.extras_require]\nx =\n    pytest\n")
    command = [sys.executable, "-I", str(ROOT / "tools" / "check_environment.py"), str(file), "x"]
    result = subprocess.run(command, capture_output=True, text=True)
    found = result.stdout.splitlines()
    assert len(found) == len(lines)
    assert all(line.startswith(wanted) for line, wanted in zip(found, lines, strict=True))
    assert result.returncode == (1 if lines else 0)


def test_every_requirement_is_pinned_for_every_python():
    """A package of setup.cfg without a tested version would be installed at whatever version is newest that day."""
    lines = (ROOT / "tools" / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    lines = settings["options"]["install_requires"].split("\n")
    for extra in settings["options.extras_require"].values():
        lines += extra.split("\n")
    for line in filter(None, map(str.strip, lines)):
        wanted = Requirement(line)
        for python in PYTHONS:
            if wanted.marker is not None and not wanted.marker.evaluate({"python_version": python}):
                continue  # not asked for there
            name = canonicalize_name(wanted.name)
            versions = [
                pin.specifier
                for pin in pins
                if canonicalize_name(pin.name) == name
                and (pin.marker is None or pin.marker.evaluate({"python_version": python}))
            ]
            assert len(versions) == 1, f"{name} on Python {python}: {versions}"
            version = next(iter(versions[0]))
            assert version.operator == "=="
            assert wanted.specifier.contains(version.version), f"{name}: {version} is not what setup.cfg allows"
