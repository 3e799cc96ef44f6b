"""Sweeps: which trials, running them, going on, results; with a stand-in for training that takes no time."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from data_fixtures import make_data_dir

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.bin._cli import run as cli
from sqvae_speech.bin.sweep import main
from sqvae_speech.config import from_dict, load_config, to_dict
from sqvae_speech.data.shards import write_shards
from sqvae_speech.errors import UserError
from sqvae_speech.experiments.slurm import array_script
from sqvae_speech.experiments.sweep import State, Sweep
from sqvae_speech.experiments.sweep_config import SweepConfig
from sqvae_speech.experiments.trials import expand, load_sweep
from sqvae_speech.training.speech_config import SpeechTrainConfig

ROOT = Path(__file__).parents[2]

# Does what training does to a folder. The learning rate says how: above 1 it diverges; of 0.5 it dies; of 0.25 it is
# told to stop, and has done half of its steps.
TRAIN = """
import json, os, pathlib, signal, sys, time
import yaml

words = sys.argv[1:]
module = words[words.index("-m") + 1]
if words[2:3] == ["sweep"]:  # a task of a SLURM array: the real sweep, whose training is this stand-in
    from sqvae_speech.bin.main import main

    sys.executable = os.environ["STAND_IN"]
    sys.exit(main(words[2:]))
if module == "sqvae_speech.bin.main":
    output = pathlib.Path(words[words.index("--output") + 1])
    assert words[words.index("--shards") + 1] == "dump/test"
    if "--features" in words:  # a reference: its error is what --features says, or the number of the runs it finds
        error = words[words.index("--features") + 1]
        error = float(error) if error.isdigit() else len(list(pathlib.Path(error).glob("*/status.json")))
        if error == 13:
            sys.exit("no such features")
        output.write_text(json.dumps({"splits": [{"split": "test", "error_db2": {"all": [error]}}]}))
        sys.exit()
    model = pathlib.Path(words[words.index("--model") + 1])
    config = yaml.safe_load((model.parents[1] / "config.yaml").read_text())
    error = 100.0 / int(model.name.split("-")[1]) + config["training"]["seed"]
    scores = {"splits": [{"split": "test", "error_db2": {"pooled": error}}]}
    output.write_text(json.dumps(scores))
    sys.exit()
folder = pathlib.Path(words[words.index("--exp-dir") + 1])
config = yaml.safe_load(pathlib.Path(words[words.index("--config") + 1]).read_text())
training = config["training"]
rate, steps = training["learning_rate"], training["num_steps"]
with (folder / "calls").open("a") as file:
    file.write("x")
if rate == 0.5:
    print("error: no such shards", file=sys.stderr)
    sys.exit(1)
(folder / "config.yaml").write_text(yaml.safe_dump(config))

def write_status(**status):
    (folder / "status.json").write_text(json.dumps(status))

def leave(state, step, code, message=""):
    with (folder / "metrics.jsonl").open("w") as file:
        for each in range(10, step + 1, 10):
            row = {"step": each, "split": "valid", "loss": rate * each + training["seed"], "usage": 0.5}
            file.write(json.dumps(row) + "\\n")
            (folder / "checkpoints" / f"step-{each:08d}").mkdir(parents=True, exist_ok=True)
    write_status(state=state, step=step, seconds=1.0, message=message)
    sys.exit(code)

if rate > 1:
    leave("diverged", 10, 1, "training has diverged: step 17 is not finite")
if rate == 0.25 and len((folder / "calls").read_text()) == 1:
    write_status(state="running", host=os.uname().nodename, pid=os.getpid())
    signal.signal(signal.SIGTERM, lambda number, frame: leave("interrupted", steps // 2, 143))
    (folder / "ready").touch()
    time.sleep(30)
leave("finished", steps, 0)
"""


@pytest.fixture
def python(tmp_path, monkeypatch) -> Path:
    """A stand-in for this Python, in the processes that a sweep starts."""
    (tmp_path / "train.py").write_text(TRAIN)
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "train.py"} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setenv("STAND_IN", str(script))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return script


def write_sweep(folder: Path, **sections) -> Path:
    (folder / "base.yaml").write_text("training: {num_steps: 20, milestones: [], keep_steps: [10, 20]}\n")
    (folder / "other.yaml").write_text("base: base.yaml\nmodel: {channels: 32}\n")
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"configs": ["base.yaml"], **sections}))
    return path


def trials_of(path: Path, *overrides: str):
    return expand(load_sweep(path), path.parent, overrides)


# ---- which trials


def test_a_grid_with_seeds(tmp_path):
    grid = {"model.quantizer.covariance": ["global", "diagonal"], "training.learning_rate": [1e-4, 0.001]}
    trials = trials_of(write_sweep(tmp_path, grid=grid, seeds=[0, 1], settings={"model.channels": 16}))
    assert [trial.name for trial in trials] == [
        f"covariance={covariance}_learning_rate={rate}_seed={seed}"
        for covariance in ("global", "diagonal")
        for rate in ("0.0001", "0.001")
        for seed in (0, 1)
    ]
    third = trials[3]
    assert third.group == "covariance=global_learning_rate=0.001"
    assert third.settings == {"model.quantizer.covariance": "global", "training.learning_rate": 0.001}
    assert third.config["training"]["learning_rate"] == 0.001
    assert (third.config["training"]["seed"], third.seed, third.config["model"]["channels"]) == (1, 1, 16)
    assert third.config["training"]["num_steps"] == 20  # of the file


def test_several_files_and_words_of_the_command(tmp_path):
    path = write_sweep(tmp_path, configs=["base.yaml", "other.yaml"])
    trials = trials_of(path, "--data.train", "dump")
    assert [trial.name for trial in trials] == ["base", "other"]
    assert [trial.config["model"]["channels"] for trial in trials] == [768, 32]
    assert [trial.settings for trial in trials] == [{"config": "base"}, {"config": "other"}]
    assert {trial.config["data"]["train"] for trial in trials} == {"dump"}
    assert [trial.name for trial in trials_of(write_sweep(tmp_path))] == ["base"]


def test_variants_have_names(tmp_path):
    variants = {"as it is": {}, "larger": {"model.channels": 48, "training.batch_size": 3}}
    path = write_sweep(tmp_path, variants=variants, grid={"training.learning_rate": [0.1, 0.2]})
    trials = trials_of(path)
    assert [trial.name for trial in trials] == [
        f"{name}_learning_rate={rate}" for name in ("as-it-is", "larger") for rate in (0.1, 0.2)
    ]
    assert trials[2].settings == {**variants["larger"], "training.learning_rate": 0.1}
    assert (trials[2].config["model"]["channels"], trials[0].config["model"]["channels"]) == (48, 768)
    assert [trial.name for trial in trials_of(write_sweep(tmp_path, variants=variants))] == ["as-it-is", "larger"]


def test_random_samples_stay_when_there_are_more_of_them(tmp_path):
    space = {
        "training.learning_rate": {"log_uniform": [1e-5, 1e-2]},
        "model.channels": {"choice": [16, 32, 64]},
        "model.jitter": {"uniform": [0.0, 0.5]},
    }
    few = trials_of(write_sweep(tmp_path, random={"samples": 4, "space": space}))
    more = {**space, "model.decoder_hidden": {"integer": [8, 16]}}
    many = trials_of(write_sweep(tmp_path, random={"samples": 40, "space": more}))
    assert [trial.name for trial in few] == [f"sample={index:03d}" for index in range(4)]
    for one, other in zip(few, many[:4], strict=True):
        assert one.settings.items() <= other.settings.items()
    rates = [trial.config["training"]["learning_rate"] for trial in many]
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert 10 < sum(rate < 10**-3.5 for rate in rates) < 30  # even on a logarithmic scale
    assert {trial.config["model"]["channels"] for trial in many} == {16, 32, 64}
    assert {trial.config["model"]["decoder_hidden"] for trial in many} == set(range(8, 17))
    other_seed = trials_of(write_sweep(tmp_path, random={"samples": 4, "space": space, "seed": 1}))
    assert [trial.settings for trial in other_seed] != [trial.settings for trial in few]


def test_names_are_those_of_folders(tmp_path):
    trials = trials_of(write_sweep(tmp_path, grid={"data.train": ["pipe:cat /a/{name}", "x" * 300, "x" * 301]}))
    names = [trial.name for trial in trials]
    assert names[0] == "train=pipe-cat--a--name-"
    assert max(map(len, names)) <= 120
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"grid": {"model.channel": [1]}}, "unknown option --model.channel, did you mean 'model.channels'"),
        ({"grid": {"model.channels": 3}}, "grid.model.channels must be a list of values"),
        ({"grid": {"model.channels": [16, 16]}}, "would be called 'channels=16'"),
        ({"grid": {"training.batch_size": [0]}}, "batch_size=0: .*training.batch_size must be at least 1"),
        ({"random": {"samples": 2}}, "both samples and a space"),
        ({"random": {"samples": 1, "space": {"model.jitter": {"normal": [0, 1]}}}}, "must be one of uniform"),
        ({"random": {"samples": 1, "space": {"model.jitter": {"log_uniform": [0, 1]}}}}, "0 < low <= high"),
        ({"random": {"samples": 1, "space": {"model.jitter": {"uniform": [0]}}}}, "must be one of uniform"),
        ({"seed": [1]}, "unknown key seed, did you mean 'seeds'"),
        ({"configs": []}, "at least one file"),
        ({"configs": ["none.yaml"]}, "no configuration file"),
        ({"score": {"steps": [3]}}, "score.steps needs score.command"),
        ({"score": {"references": {"mel": []}}}, "score.references needs score.command"),
    ],
)
def test_what_a_sweep_can_get_wrong(tmp_path, sections, message):
    with pytest.raises(UserError, match=message):
        trials_of(write_sweep(tmp_path, **sections))


# ---- running


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text()) if (folder / "calls").exists() else 0


def test_failures_do_not_stop_the_others_and_what_is_done_is_not_done_again(tmp_path, python, capsys):
    path = write_sweep(tmp_path, grid={"training.learning_rate": [0.1, 0.5, 3.0, 0.2]})
    output = tmp_path / "out"
    assert cli(main, [str(path), "--output", str(output)]) == 1
    shown = capsys.readouterr().out
    assert "| learning_rate=0.1 | 20 | 2 | 0.5 |" in shown
    assert "| learning_rate=0.2 | 20 | 4 | 0.5 |" in shown
    assert "- learning_rate=0.5: failed: training ended with exit code 1: no such shards (see " in shown
    assert "- learning_rate=3: diverged: training has diverged: step 17 is not finite" in shown
    assert cli(main, [str(path), "--output", str(output)]) == 1
    # done: once; failed: tried again; diverged: it would only diverge again
    names = ("0.1", "0.5", "3", "0.2")
    assert [calls(output / f"learning_rate={rate}") for rate in names] == [1, 2, 1, 1]
    cli(main, [str(path), "--output", str(output), "--retry", "--trial", "learning_rate=3"])
    assert [calls(output / f"learning_rate={rate}") for rate in names] == [1, 2, 2, 1]
    capsys.readouterr()
    assert main([str(path), "--output", str(output), "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "done",
        "failed",
        "diverged",
        "done",
    ]
    # longer runs go on
    path.write_text(path.read_text() + "settings: {training.num_steps: 40}\n")
    cli(main, [str(path), "--output", str(output), "--trial", "learning_rate=0.1"])
    assert calls(output / "learning_rate=0.1") == 2
    assert "| learning_rate=0.1 | 40 |" in capsys.readouterr().out


def test_means_and_spreads_over_seeds(tmp_path, python, capsys):
    columns = {"error": "test.error_db2.pooled:.2f", "loss": "valid/loss"}
    score = {"command": ["score", "--shards", "dump/test"], "steps": [10, 20]}
    path = write_sweep(
        tmp_path, grid={"training.learning_rate": [0.1]}, seeds=[1, 2, 6], columns=columns, score=score
    )
    output = tmp_path / "out"
    assert main([str(path), "--output", str(output)]) == 0
    # 100 / step + seed: mean 3, standard deviation of 1, 2, 6: sqrt(14 / 2) = 2.6458
    assert (output / "results.md").read_text() == (
        "| run | step | error | loss | seeds |\n| --- | ---: | ---: | ---: | ---: |\n"
        "| learning_rate=0.1 | 10 | 13.00 ± 2.65 | 4 ± 2.646 | 3 |\n"
        "| learning_rate=0.1 | 20 | 8.00 ± 2.65 | 5 ± 2.646 | 3 |\n"
        "\nMean ± standard deviation over seeds.\n"
    )
    lines = (output / "results.csv").read_text().splitlines()
    assert lines[0] == "run,training.learning_rate,step,seeds,error,error std,loss,loss std"
    assert lines[1].startswith("learning_rate=0.1,0.1,10,3,13.0,2.6457")
    results = json.loads((output / "results.json").read_text())
    assert [trial["scores"]["20"]["test.error_db2.pooled"] for trial in results["trials"]] == [6.0, 7.0, 11.0]
    assert results["results"][1]["mean"] == {"error": 8.0, "loss": 5.0}
    assert (output / "curves" / "valid_loss.png").is_file()
    # scored once each; a score that is gone is made again without training
    gone = output / "learning_rate=0.1_seed=1" / "scores" / "step-00000010.json"
    gone.unlink()
    assert main([str(path), "--output", str(output)]) == 0
    assert gone.is_file()
    assert calls(gone.parents[1]) == 1
    path.write_text(path.read_text().replace("test.error_db2.pooled", "test.error_db2.pool"))
    assert cli(main, [str(path), "--output", str(output), "--results-only"]) == 1
    assert "no score 'test.error_db2.pool', did you mean 'test.error_db2.pooled'?" in capsys.readouterr().err


def test_references_are_rows_without_a_run(tmp_path, python, capsys):
    columns = {"error": "test.error_db2.pooled|test.error_db2.all.0:.1f"}
    score = {"command": ["score", "--shards", "dump/test"]}
    score["references"] = {"all runs, counted": ["--features", "{output}"], "log-mel": ["--features", "50"]}
    grid = {"training.learning_rate": [0.1, 0.2]}
    path = write_sweep(tmp_path, grid=grid, columns=columns, score=score)
    output = tmp_path / "out"
    assert main([str(path), "--output", str(output), "--trial", "learning_rate=0.2"]) == 0
    assert not (output / "references").exists()  # not by a part of the sweep
    assert main([str(path), "--output", str(output)]) == 0
    table = (
        "| run | step | error |\n| --- | ---: | ---: |\n| all runs, counted |  | 2.0 |\n| log-mel |  | 50.0 |\n"
        "| learning_rate=0.1 | 20 | 5.0 |\n| learning_rate=0.2 | 20 | 5.0 |\n"
    )
    assert (output / "results.md").read_text() == table
    file = output / "references" / "all-runs-counted" / "scores.json"
    time_of = file.stat().st_mtime_ns
    assert main([str(path), "--output", str(output)]) == 0
    assert file.stat().st_mtime_ns == time_of


def test_a_reference_that_fails_is_named(tmp_path, python, capsys):
    score = {"command": ["score", "--shards", "dump/test"], "references": {"bad": ["--features", "13"]}}
    path = write_sweep(tmp_path, columns={"loss": "valid/loss"}, score=score)
    assert main([str(path), "--output", str(tmp_path / "out")]) == 1
    assert "| base | 20 |" in (text := capsys.readouterr().out)
    assert "- bad: not scored" in text


def test_a_signal_saves_the_trial_and_ends_the_sweep(tmp_path, python):
    path = write_sweep(tmp_path, grid={"training.learning_rate": [0.25, 0.1]})
    config, trials = load_sweep(path), trials_of(path)
    sweep = Sweep(config, trials, tmp_path / "out")
    first = tmp_path / "out" / "learning_rate=0.25"

    def send():
        while not (first / "ready").exists():
            time.sleep(0.01)
        states.append(Sweep(config, trials, tmp_path / "out").outcome(trials[0]).state)
        # another sweep of the same folder leaves alone what is being run
        Sweep(config, trials[:1], tmp_path / "out").run()
        os.kill(os.getpid(), signal.SIGTERM)

    states: list[State] = []
    thread = threading.Thread(target=send)
    thread.start()
    before = signal.getsignal(signal.SIGTERM)
    outcomes = sweep.run()
    thread.join()
    assert states == [State.BUSY]
    assert [outcome.state for outcome in outcomes] == [State.INTERRUPTED, State.WAITING]
    assert sweep.stopped_by == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert calls(first) == 1
    again = Sweep(config, trials, tmp_path / "out").run()
    assert [outcome.state for outcome in again] == [State.DONE, State.DONE]
    assert calls(first) == 2


def test_a_trial_that_is_killed_has_failed(tmp_path, python):
    path = write_sweep(tmp_path, grid={"training.learning_rate": [0.25]})
    folder = tmp_path / "out" / "learning_rate=0.25"

    def kill():
        while not (folder / "ready").exists():
            time.sleep(0.01)
        os.kill(json.loads((folder / "status.json").read_text())["pid"], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    (outcome,) = Sweep(load_sweep(path), trials_of(path), tmp_path / "out").run()
    thread.join()
    assert outcome.state == State.FAILED
    assert outcome.message.startswith("training ended with signal SIGKILL")


def test_a_folder_of_another_run_is_refused(tmp_path, python, capsys):
    path = write_sweep(tmp_path, grid={"training.learning_rate": [0.1]})
    assert main([str(path), "--output", str(tmp_path / "out")]) == 0
    config = tmp_path / "out" / "learning_rate=0.1" / "config.yaml"
    config.write_text(config.read_text().replace("channels: 768", "channels: 64"))
    assert cli(main, [str(path), "--output", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "holds a run with other settings:\n  model.channels: 64 there, 768 here" in message


def test_a_trial_that_is_not_there(tmp_path, capsys):
    path = write_sweep(tmp_path, grid={"training.learning_rate": [0.1]})
    assert cli(main, [str(path), "--output", str(tmp_path / "out"), "--trial", "learning_rate=0.2"]) == 1
    assert "no trial 'learning_rate=0.2', did you mean 'learning_rate=0.1'?" in capsys.readouterr().err


# ---- SLURM


@pytest.mark.slow
def test_a_slurm_array(tmp_path, python, monkeypatch, capsys):
    """A stand-in for sbatch runs every task of the array, as SLURM would."""
    path = write_sweep(tmp_path, grid={"training.learning_rate": [0.1, 0.2, 0.3]})
    output = tmp_path / "out put"
    assert main([str(path), "--output", str(output), "--trial", "learning_rate=0.2"]) == 0
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        '#!/bin/bash\nset -e\nscript="${@: -1}"\n'
        "range=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' \"$script\")\n"
        'for i in $(seq 0 $range); do SLURM_ARRAY_TASK_ID=$i bash "$script" >> "$script.log" 2>&1; done\n'
        "echo '42;cluster'\n"
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    capsys.readouterr()
    words = [str(path), "--output", str(output), "--slurm", "--slurm-option", "time=01:00:00", "--max-parallel", "2"]
    words += ["--slurm-option", "gres=gpu:1"]
    assert main([*words, "--no-submit"]) == 0
    script = output / "slurm" / "sweep.sbatch"
    text = script.read_text()
    for line in ("--time=01:00:00", "--gres=gpu:1", "--array=0-1%2", f"--output={output.resolve()}/slurm/%A_%a.log"):
        assert f"#SBATCH {line}\n" in text
    assert "    learning_rate=0.1\n    learning_rate=0.3\n" in text  # 0.2 is done
    assert not (output / "learning_rate=0.1").exists()
    capsys.readouterr()
    assert main(words) == 0
    assert "job 42: 2 trials" in capsys.readouterr().out
    assert [calls(output / f"learning_rate={rate}") for rate in ("0.1", "0.2", "0.3")] == [1, 1, 1]
    assert len((output / "results.csv").read_text().splitlines()) == 4  # the last task had them all
    assert main(words) == 0
    assert "nothing is left to run" in capsys.readouterr().out


def test_slurm_that_refuses_or_is_not_there(tmp_path, monkeypatch, capsys):
    path = write_sweep(tmp_path, grid={"training.learning_rate": [0.1]})
    words = [str(path), "--output", str(tmp_path / "out"), "--slurm"]
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert cli(main, words) == 1
    assert "no sbatch on PATH" in capsys.readouterr().err
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'Invalid account' >&2\nexit 1\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    assert cli(main, words) == 1
    assert "SLURM refuses the job array" in (said := capsys.readouterr().err)
    assert "Invalid account" in said
    for option, message in (("Time=1", "write sbatch's long options"), ("array=3", "the sweep sets that itself")):
        assert cli(main, [*words, "--slurm-option", option]) == 1
        assert message in capsys.readouterr().err


def test_the_array_script_is_a_shell_script(tmp_path):
    script = array_script(tmp_path / "a b.yaml", tmp_path / "o'ut", ["x", "y=1"], words=["--data.train", "a b"])
    path = tmp_path / "script"
    path.write_text(script.replace("\nexec ", "\nprintf '%s\\n' "))
    done = subprocess.run(
        ["bash", str(path)],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.splitlines()
    assert words[1:4] == ["-m", "sqvae_speech.bin.main", "sweep"]
    assert words[4:] == [
        str(tmp_path / "a b.yaml"),
        "--output",
        str(tmp_path / "o'ut"),
        "--trial",
        "y=1",
        "--data.train",
        "a b",
    ]


def test_the_sweep_of_fsdd_is_whole():
    """Its configurations can be read, and its names are those of RESULTS.md."""
    path = ROOT / "egs" / "fsdd" / "conf" / "sweep.yaml"
    names = [trial.name for trial in trials_of(path)]
    assert names == ["vq_ema", "vq_gradient", "type1", "type3", "train", "fast"]
    steps = load_sweep(path).score.steps
    assert all(set(steps) <= set(trial.config["training"]["keep_steps"]) for trial in trials_of(path))


def test_the_sweeps_of_evidence_are_whole():
    conf = ROOT / "egs" / "mini" / "conf"
    evidence = {trial.name: trial for trial in trials_of(conf / "evidence.yaml")}
    baselines = {"vq_ema", "vq_gradient", "vq_ema_64", "type1", "type3", "type4_64", "vmf", "residual"}
    assert {"train", "published", "train_phonetic"} | baselines == set(evidence)
    # what is shipped is what was found, and the general configuration is the same
    found = [trial for trial in trials_of(conf / "phonetic.yaml") if trial.group == "K-64-voices"]
    shipped = evidence["train_phonetic"].config["model"]
    assert found
    assert all(trial.config["model"] == shipped for trial in found)
    general = load_config(SpeechTrainConfig, ROOT / "recipes" / "conf" / "speech_phonetic.yaml").model
    assert to_dict(general.invariance) == shipped["invariance"]
    assert general.quantizer.codebook_size == shipped["quantizer"]["codebook_size"]
    fsdd = {
        trial.name: trial.config["model"] for trial in trials_of(ROOT / "egs" / "fsdd" / "conf" / "evidence.yaml")
    }
    assert set(fsdd) == (baselines - {"type4_64"}) | {"fast", "train", "phonetic"}
    assert fsdd["phonetic"] == shipped


def test_a_sweep_needs_configurations():
    with pytest.raises(UserError, match="at least one file"):
        from_dict(SweepConfig, {})


@pytest.mark.slow
def test_a_sweep_of_the_speech_model(tmp_path):
    """Real training and scoring, each in a process of its own."""
    make_data_dir(tmp_path / "train", seconds=0.45)
    write_shards(tmp_path / "train", tmp_path / "dump", MelSpec.preset("sqvae16k"), progress=False)
    small = {"channels": 16, "decoder_hidden": 8, "quantizer": {"codebook_size": 16, "dim": 8}}
    training = {"num_steps": 4, "batch_size": 4, "log_interval": 1, "keep_steps": [2, 4], "num_plots": 0}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"model": small, "training": training}))
    score = {"command": ["score", "--quiet", "--shards", str(tmp_path / "dump")], "steps": [2, 4]}
    columns = {"error": "train.error_db2.pooled:.2f", "perplexity": "train.codebook.perplexity:.1f"}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"configs": ["small.yaml"], "score": score, "columns": columns}))
    data = [word for split in ("train", "valid") for word in (f"--data.{split}", str(tmp_path / "dump"))]
    assert main([str(path), "--output", str(tmp_path / "out"), *data]) == 0
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert rows[0] == "run,step,seeds,error,error std,perplexity,perplexity std"
    errors = [float(row.split(",")[3]) for row in rows[1:]]
    for step, error in zip((2, 4), errors, strict=True):
        scores = json.loads((tmp_path / "out" / "small" / "scores" / f"step-{step:08d}.json").read_text())
        assert scores["step"] == step
        assert error == scores["splits"][0]["error_db2"]["pooled"]
