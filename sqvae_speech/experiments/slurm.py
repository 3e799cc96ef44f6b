"""A sweep as a SLURM job array: a trial a task."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqvae_speech.data.files import write_text
from sqvae_speech.errors import UserError


def array_script(
    sweep: Path,
    output: Path,
    trials: Sequence[str],
    *,
    words: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
    max_parallel: int = 0,
) -> str:
    """The batch script, whose task number ``i`` runs trial ``i``.

    Args:
        sweep: its YAML.
        output: of the sweep.
        trials: names of those to run.
        words: further ones for every run.
        options: of sbatch, long names: ``{"time": "10:00:00", "gres": "gpu:1"}``.
        max_parallel: tasks that run at once at most; 0 for no limit.

    Raises:
        UserError: an option that sbatch cannot have, or that the array decides itself.
    """
    # ahead of the time limit, so that the run saves its state: in seconds, to the script's own process, which is ours
    directives = {"job-name": output.name, "signal": "B:USR1@120", **(options or {})}
    for name, value in directives.items():
        if not re.fullmatch(r"[a-z][a-z-]*", name) or "\n" in value:
            raise UserError(f"--slurm-option {name}={value}: write sbatch's long options, such as time=10:00:00")
        if name in ("array", "output", "error"):
            raise UserError(f"--slurm-option {name}: the sweep sets that itself")
    limit = f"%{max_parallel}" if max_parallel else ""
    logs = output.resolve() / "slurm" / "%A_%a.log"
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}" for name, value in directives.items()]
    lines += [f"#SBATCH --array=0-{len(trials) - 1}{limit}", f"#SBATCH --output={logs}", "set -euo pipefail"]
    lines += [f"cd {shlex.quote(str(Path.cwd()))}", "trials=(", *(f"    {shlex.quote(name)}" for name in trials), ")"]
    command = [sys.executable, "-m", "sqvae_speech.bin.main", "sweep", str(sweep.resolve()), "--output"]
    command.append(str(output.resolve()))
    # exec: signals that SLURM sends to the script reach the sweep, which passes them on
    lines.append(
        f'exec {shlex.join(command)} --trial "${{trials[$SLURM_ARRAY_TASK_ID]}}" {shlex.join(words)}'.rstrip()
    )
    return "\n".join(lines) + "\n"


def write_script(output: Path, script: str) -> Path:
    """Write the script and make the folder of its logs, which SLURM does not."""
    path = output / "slurm" / "sweep.sbatch"
    write_text(path, script)
    return path


def submit(script: Path) -> str:
    """Submit a script; returns the number of the job.

    Raises:
        UserError: there is no sbatch, or it refuses.
    """
    if not shutil.which("sbatch"):
        raise UserError(
            f"SLURM is not on this machine (no sbatch on PATH); the script is {script}: submit it elsewhere, or "
            "leave out --slurm to run the sweep here"
        )
    done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"SLURM refuses the job array {script}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip().partition(";")[0]
