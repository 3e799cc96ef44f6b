"""tools/install_browser.sh gets Chromium where it can, and says why it does not; it never fails."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "install_browser.sh"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder of programs that is all that the script sees; it runs as root, as far as it can tell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "mktemp", "rm", "tail", "timeout"):
        (folder / name).symlink_to(str(shutil.which(name)))
    stand_in(folder, "id", "echo 0")
    return folder


def stand_in(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    path.chmod(0o755)


def install(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "bash"), str(SCRIPT)]
    return subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True, timeout=60)


def test_a_browser_that_is_there_is_enough(programs: Path):
    stand_in(programs, "google-chrome", "exit 1")
    stand_in(programs, "apt-get", "exit 1")
    done = install(programs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_lists_of_packages_are_renewed_when_they_are_old(programs: Path):
    calls = programs.parent / "calls"
    stand_in(programs, "apt-get", f'echo "$*" >> "{calls}"\n[ "$1" = update ] || grep -q update "{calls}"')
    (programs / "grep").symlink_to(str(shutil.which("grep")))
    done = install(programs)
    assert (done.returncode, done.stderr) == (0, "")
    words = [line.split()[0] for line in calls.read_text().splitlines()]
    assert words == ["install", "update", "install"]
    assert "chromium" in calls.read_text()


@pytest.mark.parametrize(
    ("name", "script", "reason"),
    [
        ("apt-get", "echo 'E: no network'; exit 100", "Chromium cannot be installed (E: no network)"),
        ("id", "echo 1000", "no apt-get here"),
    ],
)
def test_what_cannot_be_had_is_said(programs: Path, name: str, script: str, reason: str):
    stand_in(programs, name, script)
    done = install(programs)
    assert done.returncode == 0
    assert f"install_browser: {reason}; the tests that need a browser are skipped\n" == done.stderr


def test_only_root_installs(programs: Path):
    stand_in(programs, "apt-get", "exit 0")
    stand_in(programs, "id", "echo 1000")
    assert "not root" in install(programs).stderr
