"""Shards on Dask: this process, workers over TCP of which one is killed, SLURM jobs; the same bytes each time."""

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import time

import pytest
from data_fixtures import make_data_dir

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.cluster import ClusterConfig, run_tasks
from sqvae_speech.data.shards import write_shards
from sqvae_speech.errors import UserError

SPEC = MelSpec.preset("sqvae16k")


def square(number):
    return number * number


def fail_at_three(number):
    if number == 3:
        raise UserError("three is not allowed")
    return number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_more_tasks_than_are_handed_out_at_once():
    handed_out = []

    def tasks():
        for number in range(40):
            handed_out.append(number)
            yield number

    results = run_tasks(square, tasks(), ClusterConfig())
    first = next(results)
    assert len(handed_out) < 10  # consumed as there is work for them
    assert sorted([first, *results]) == [number**2 for number in range(40)]


def test_no_task_starts_no_cluster(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)  # an import would fail
    assert list(run_tasks(square, [], ClusterConfig(num_workers=2))) == []


def test_what_a_task_raises_ends_the_run():
    with pytest.raises(UserError, match="three is not allowed"):
        list(run_tasks(fail_at_three, range(20), ClusterConfig()))


def test_nobody_answers():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=rf"no Dask scheduler answers at {address} .*dask scheduler"):
        list(run_tasks(square, [1], ClusterConfig(scheduler=address, timeout=1)))


@pytest.mark.slow
def test_workers_that_die_each_time_are_a_message():
    with pytest.raises(UserError, match=r"worker processes died 4 times at one task.*lack of memory.*--num-workers"):
        list(run_tasks(die, [1], ClusterConfig(num_workers=2)))


@contextlib.contextmanager
def processes():
    """Give a function that starts a Python module with arguments; what still runs at the end is killed."""
    started = []

    def start(*arguments):
        # the tests' own modules are for nobody else; the package is found by its path, as in a shared folder
        process = subprocess.Popen([sys.executable, "-m", *map(str, arguments)], start_new_session=True)
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_two_workers_over_tcp_of_which_one_is_killed(tmp_path):
    make_data_dir(tmp_path / "data" / "train", speakers=4, per_speaker=30)
    options = {"utterances_per_shard": 2, "progress": False}
    expected = contents(write_shards(tmp_path / "data" / "train", tmp_path / "alone", SPEC, **options).folder)
    with processes() as start:
        file = tmp_path / "scheduler.json"
        shared = ["--scheduler-file", file, "--no-dashboard"]
        start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", 0, *shared)
        wait_for(file.exists)
        worker = ["distributed.cli.dask_worker", *shared, "--nthreads", 1, "--no-nanny"]
        victim, _ = start(*worker), start(*worker)
        from distributed import Client

        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        command = ["sqvae_speech.bin.main", "shards", tmp_path / "data" / "train", tmp_path / "dump"]
        run = start(*command, "--scheduler", address, "--utterances-per-shard", 2, "--no-progress")
        wait_for(lambda: len(list((tmp_path / "dump").glob("*.tar"))) >= 5)
        os.killpg(victim.pid, signal.SIGKILL)
        assert not (tmp_path / "dump" / "index.json").exists()  # it was in the middle of the work
        assert run.wait(timeout=120) == 0
    assert contents(tmp_path / "dump") == expected


def stand_in(folder, monkeypatch, **scripts):
    """Put commands of these names first on PATH."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


SLURM = {"cores": "1", "memory": "2GB", "queue": "cpu", "walltime": "00:10:00", "interface": "lo"}


@pytest.mark.slow
def test_slurm_jobs(tmp_path, monkeypatch):
    """A stand-in for sbatch starts the job's script at once; everything else is dask-jobqueue and real workers."""
    pid, job = tmp_path / "pid", tmp_path / "job.sh"
    stand_in(
        tmp_path / "bin",
        monkeypatch,
        sbatch=f'cp "${{@: -1}}" {job}; setsid bash {job} > {tmp_path}/job.log 2>&1 < /dev/null &\n'
        f"echo $! > {pid}; echo Submitted batch job 7",
        scancel=f"kill -- -$(cat {pid})",
    )
    make_data_dir(tmp_path / "data" / "train")
    options = {"utterances_per_shard": 3, "progress": False}
    expected = contents(write_shards(tmp_path / "data" / "train", tmp_path / "alone", SPEC, **options).folder)
    cluster = ClusterConfig(slurm_jobs=1, slurm_options=SLURM)
    index = write_shards(tmp_path / "data" / "train", tmp_path / "dump", SPEC, cluster=cluster, **options)
    assert contents(index.folder) == expected
    assert "#SBATCH -p cpu" in job.read_text()
    assert "#SBATCH -t 00:10:00" in job.read_text()
    wait_for(lambda: not os.path.exists(f"/proc/{pid.read_text().strip()}"))  # nothing is left behind


def test_slurm_that_refuses(tmp_path, monkeypatch):
    stand_in(tmp_path / "bin", monkeypatch, sbatch="echo 'Invalid account' >&2; exit 1", scancel="exit 0")
    with pytest.raises(UserError, match=r"SLURM refuses the jobs: (.|\n)*Invalid account"):
        list(run_tasks(square, [1], ClusterConfig(slurm_jobs=1, slurm_options=SLURM)))
    with pytest.raises(UserError, match=r"SLURM jobs cannot be described: (.|\n)*memory(.|\n)*--slurm-option"):
        list(run_tasks(square, [1], ClusterConfig(slurm_jobs=1, slurm_options={"cores": "1"})))


def test_slurm_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"SLURM is not on this machine \(no sbatch on PATH\)"):
        list(run_tasks(square, [1], ClusterConfig(slurm_jobs=1, slurm_options=SLURM)))


FAULTS = """
import resource, sys
import numpy as np
from sqvae_speech.allocation import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory(whatever_is_set=True)

def work():
    for _ in range(100):
        np.ones(1 << 18)  # 2 MB, as the spectra of a block of frames

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator gives memory back so eagerly")
def test_workers_keep_freed_memory_whatever_dask_sets():
    faults = {}
    for kind in ("keep", "leave"):
        command = [sys.executable, "-c", FAULTS, kind]
        environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
        faults[kind] = int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert faults["leave"] > 10_000  # 512 pages each time
    assert faults["keep"] < 1_000
