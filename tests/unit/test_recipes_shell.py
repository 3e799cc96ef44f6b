"""The shell of the recipes: options, and stages that are done once, failed cleanly or given back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = ("recipes/*.sh", "egs/*/run.sh", "egs/*/evidence.sh", "egs/*/local/*.sh", "tools/*.sh", ".ci/run")
SCRIPTS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
# into somebody's shell, whose settings they leave alone
SOURCED = {"lib.sh", "pipeline.sh", "activate.sh"}
HEAD = f"""
set -euo pipefail
source "{ROOT}/recipes/lib.sh"
log_dir=$PWD/logs force=false
trap finish_stages EXIT
"""


def bash(script: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script that uses lib.sh in ``folder``, with a log folder and no --force unless it says so."""
    environment = {**os.environ, **more}
    command = ["bash", "-c", HEAD + script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def recipe(corpus: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "egs" / corpus / "run.sh"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_are_well_formed(script: Path):
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True).stderr == ""
    if script.name in {
        "lib.sh",
        "pipeline.sh",
        "activate.sh",
    }:  # sourced into somebody's shell, whose settings they leave alone
        return
    assert "set -euo pipefail" in script.read_text()


def test_programs_are_executable():
    for script in SCRIPTS:
        assert os.access(script, os.X_OK) or script.name in SOURCED, script


@pytest.mark.parametrize("corpus", sorted(path.parent.name for path in ROOT.glob("egs/*/run.sh")))
def test_recipes_only_bind(corpus: str):
    """A run.sh gives options to recipes/speech.sh or image.sh; what it does is decided there."""
    lines = (ROOT / "egs" / corpus / "run.sh").read_text().splitlines()
    assert len(lines) <= 35
    assert lines[-1].strip() == '"$@"', "the user's options come last, so that they win"


def test_help_names_stages_and_options():
    result = recipe("vctk", "--help")
    assert result.returncode == 0
    assert result.stderr == ""
    for word in (
        "usage: bash egs/vctk/run.sh",
        "--stop-stage",
        "--download",
        "--ngpu",
        "--training.num_steps",
        "6 exports",
    ):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpsu", "x"], "unknown option --corpsu"),
        (["--corpus"], "--corpus needs a value"),
        (["corpus"], "cannot read 'corpus'"),
        (["--stage", "two"], "--stage takes a whole number, not 'two'"),
        (["--stage", "4", "--stop-stage", "2"], "--stage 4 comes after --stop-stage 2"),
        (["--stage", "10", "--stop-stage", "10"], "the stages are 0 to 9"),
        (["--ngpu=-1"], "--ngpu takes a whole number"),
        (["--num-machines", "2"], "--num-machines 2 needs --main-address HOST:PORT"),
        (["--num-machines", "2", "--machine-rank", "2"], "with --num-machines 2 they are 0 to 1"),
        (["--num-processes", "0", "--corpus", "x"], "--num-processes must be at least 1"),
        (["--tag", "a/b", "--corpus", "x"], "letters, digits"),
        (["--training.num_steps"], "--training.num_steps needs a value"),
        ([], "stage 0 needs --corpus PATH, or --download"),
        (["--download=yes"], "unknown option --download"),
    ],
)
def test_bad_options_print_the_help_and_exit_2(options: list[str], message: str):
    result = recipe("vctk", *options)
    assert result.returncode == 2
    assert "usage: bash egs/vctk/run.sh" in result.stderr
    assert message in result.stderr.splitlines()[-1]
    assert result.stdout == ""


def test_help_of_images_names_their_stages_and_options():
    result = recipe("cifar10", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    for word in (
        "usage: bash egs/cifar10/run.sh",
        "3 codes",
        "6 samples",
        "--perceptual",
        "--crop",
        "--ngpu",
        "--lm-args",
    ):
        assert word in result.stdout
    assert "--mel-spec" not in result.stdout


@pytest.mark.parametrize(
    ("corpus", "options", "message"),
    [
        ("cifar10", [], "stage 0 needs --corpus PATH, or --download"),
        ("cifar10", ["--mel-spec", "x"], "unknown option --mel-spec"),
        ("cifar10", ["--size", "x"], "--size takes a whole number, not 'x'"),
        ("cifar10", ["--stage", "7", "--stop-stage", "7"], "the stages are 0 to 6"),
        ("mini_image", ["--download"], "--download: the corpus comes with a package, nothing is fetched"),
        ("vctk", ["--crop", "3"], "unknown option --crop"),
    ],
)
def test_options_of_the_other_half_are_none(corpus: str, options: list[str], message: str):
    result = recipe(corpus, *options)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]


def test_the_mini_recipe_has_nothing_to_download():
    result = recipe("mini", "--download")
    assert result.returncode == 2
    assert "--download: the recipe makes its corpus itself" in result.stderr.splitlines()[-1]


def test_missing_configuration_is_one_line():
    result = recipe("vctk", "--stage", "2", "--config", "no/such.yaml")
    assert result.returncode == 1
    assert result.stderr.startswith("error: no configuration /")
    assert result.stderr.count("\n") == 1


STAGE = """
work() { mkdir -p out; echo "$RANDOM$RANDOM" > out/result; echo ran >> count; echo "said by the work"; }
run_stage 3 "the work" "$PWD/.marker" "a 1
b ${B:-1}" work "$PWD/out"
"""


def test_a_stage_is_done_once(tmp_path: Path):
    first = bash(STAGE, tmp_path)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "logs" / "stage3.log").read_text() == "said by the work\n"
    result = (tmp_path / "out" / "result").read_text()
    second = bash(STAGE, tmp_path)
    assert "done already" in second.stdout
    (tmp_path / "out" / ".cache").mkdir()  # what a later stage keeps beside an output is not one
    (tmp_path / "out" / ".cache" / "frames").touch()
    assert "done already" in bash(STAGE, tmp_path).stdout
    assert (tmp_path / "out" / "result").read_text() == result
    assert (tmp_path / "count").read_text() == "ran\n"


@pytest.mark.parametrize("reason", ["inputs", "force", "output deleted"])
def test_a_stage_is_done_again(tmp_path: Path, reason: str):
    bash(STAGE, tmp_path)
    if reason == "inputs":
        again = bash(STAGE, tmp_path, B="2")
        assert "> b 2" in again.stdout  # what has changed is shown
    elif reason == "force":
        again = bash("force=true\n" + STAGE, tmp_path)
    else:
        (tmp_path / "out" / "result").unlink()
        again = bash(STAGE, tmp_path)
    assert again.returncode == 0
    assert (tmp_path / "count").read_text() == "ran\nran\n"
    assert (tmp_path / "out" / "result").exists()
    assert "done already" in bash(STAGE, tmp_path, **({"B": "2"} if reason == "inputs" else {})).stdout


FAILING = """
work() { mkdir -p out; echo half > out/half; echo "the reason" >&2; (exit 7); echo "went on" > went_on; }
run_stage 3 "the work" "$PWD/.marker" "a 2" work "$PWD/out" "$PWD/other"
echo next > next
"""


def test_a_failing_stage_stops_the_run_and_leaves_nothing_half_written(tmp_path: Path):
    result = bash(FAILING, tmp_path)
    assert result.returncode == 1
    assert f"log: {tmp_path}/logs/stage3.log" in result.stderr.splitlines()[-1]
    assert "status 7" in result.stderr.splitlines()[-1]
    assert "the reason" in result.stderr
    left = {path.name for path in tmp_path.iterdir()} - {"logs", ".marker.lock"}
    assert left == set(), "neither an output, nor a marker, nor a sign of the commands that follow"


def test_a_failing_stage_gives_back_what_was_there(tmp_path: Path):
    bash(STAGE, tmp_path)
    before = (tmp_path / "out" / "result").read_text()
    assert bash(FAILING, tmp_path).returncode == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result"]
    assert (tmp_path / "out" / "result").read_text() == before
    assert not (tmp_path / ".marker").exists()


def test_what_a_killed_run_left_is_cleared(tmp_path: Path):
    bash(STAGE, tmp_path)
    (tmp_path / "out").rename(tmp_path / ".out.old")  # a run that was killed in the stage had set this aside
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "half").write_text("half")
    (tmp_path / ".marker").unlink()
    assert bash(STAGE, tmp_path).returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result"]
    assert not (tmp_path / ".out.old").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_stage_gives_back_what_was_there(tmp_path: Path, number: signal.Signals):
    bash(STAGE, tmp_path)
    before = (tmp_path / "out" / "result").read_text()
    slow = STAGE.replace("{ mkdir -p out;", "{ mkdir -p out; echo half > out/half; sleep 30;")
    process = subprocess.Popen(
        ["bash", "-c", HEAD + "force=true\n" + slow],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "out" / "half").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # until the work sleeps
    os.killpg(process.pid, number)  # to all of them, as Ctrl-C does
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert b"interrupted" in errors
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result"]
    assert (tmp_path / "out" / "result").read_text() == before


def test_two_runs_do_a_stage_once(tmp_path: Path):
    script = STAGE.replace("{ mkdir", "{ sleep 1; mkdir")
    runs = [subprocess.Popen(["bash", "-c", HEAD + script], cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(2)]
    printed = b"".join(run.communicate(timeout=30)[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert (tmp_path / "count").read_text() == "ran\n"
    assert printed.count(b"done already") == 1


def test_an_output_that_resumes_is_not_set_aside(tmp_path: Path):
    script = """
    work() { mkdir -p out; echo part >> out/parts; [ "$(wc -l < out/parts)" = 2 ]; }
    run_stage 1 shards "$PWD/.marker" "x" work "+$PWD/out"
    """
    assert bash(script, tmp_path).returncode == 1
    assert (tmp_path / "out" / "parts").read_text() == "part\n"
    assert bash(script, tmp_path).returncode == 0
    assert "done already" in bash(script, tmp_path).stdout


def test_listing_sees_names_sizes_and_times(tmp_path: Path):
    corpus = tmp_path / "a corpus"
    (corpus / "b").mkdir(parents=True)
    (corpus / "b" / "1.wav").write_text("one")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def listing() -> str:
        result = bash('listing "a corpus"', tmp_path, PATH=path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    seen = [listing()]
    assert listing() == seen[0]
    (corpus / "b" / "2.wav").write_text("two")
    seen.append(listing())
    os.utime(corpus / "b" / "1.wav", (1, 1))
    seen.append(listing())
    (corpus / "b" / "1.wav").rename(corpus / "b" / "3.wav")
    seen.append(listing())
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(("visible", "count"), [("", "0"), ("-1", "0"), ("0", "1"), ("2,3", "2")])
def test_gpus_that_may_be_used_are_counted(tmp_path: Path, visible: str, count: str):
    assert bash("number_of_gpus", tmp_path, CUDA_VISIBLE_DEVICES=visible).stdout.strip() == count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_lets_what_a_stage_started_save_and_end(tmp_path: Path, number: signal.Signals):
    program = (
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(0.3); open('saved', 'w').close(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "open('started', 'w').close()\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "program.py").write_text(program)
    script = f"""
    work() {{ "{sys.executable}" program.py; }}
    run_stage 2 training .marker inputs work
    echo not reached
    """
    process = subprocess.Popen(
        ["bash", "-c", HEAD + script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
    )
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert (tmp_path / "saved").exists()
    assert process.returncode > 128
    assert "not reached" not in output
    assert "stage 2 (training) was interrupted" in errors
    assert not (tmp_path / ".marker").exists()
