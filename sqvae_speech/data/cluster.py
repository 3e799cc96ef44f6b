"""Running tasks on Dask: a cluster on this machine, one that runs already, or SLURM jobs; one way through for all."""

import contextlib
import itertools
import logging
import os
import queue
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from sqvae_speech.errors import UserError, nearest

if TYPE_CHECKING:
    from distributed import Client

Task = TypeVar("Task")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds without a finished task after which somebody looks whether there are workers
# Tasks handed to the scheduler for each worker: enough that none waits, few enough that a million need no memory.
_AHEAD = 3
# What of dask-jobqueue's SLURMCluster may be given, with its type; everything else is in its configuration file.
SLURM_OPTIONS: dict[str, type] = {
    "queue": str,
    "account": str,
    "cores": int,
    "processes": int,
    "memory": str,
    "walltime": str,
    "interface": str,
    "local_directory": str,
    "log_directory": str,
    "python": str,
}


@dataclass(frozen=True)
class ClusterConfig:
    """Where tasks run.

    Attributes:
        num_workers: processes on this machine; 1 works in a thread of this one. Without effect with a scheduler.
        scheduler: address of a Dask scheduler that runs already, such as ``tcp://host:8786``. Its workers need this
            package and the same folders.
        slurm_jobs: SLURM jobs to start through dask-jobqueue; 0 starts none.
        slurm_options: of :class:`dask_jobqueue.SLURMCluster`, see :data:`SLURM_OPTIONS`; what is not given comes from
            ``~/.config/dask/jobqueue.yaml``.
        timeout: seconds to wait for a scheduler to answer, and for its first worker. SLURM jobs may queue: they are
            waited for without end.

    Raises:
        UserError: a number below its least, a scheduler and SLURM together, an unknown option.
    """

    num_workers: int = 1
    scheduler: str | None = None
    slurm_jobs: int = 0
    slurm_options: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise UserError(f"num_workers {self.num_workers}; at least 1 is needed (--num-workers)")
        if self.slurm_jobs < 0:
            raise UserError(f"slurm_jobs {self.slurm_jobs}; legal is 0 or more (--slurm)")
        if self.scheduler and self.slurm_jobs:
            raise UserError("a running scheduler and SLURM jobs exclude each other: give --scheduler or --slurm")
        if self.slurm_options and not self.slurm_jobs:
            raise UserError("--slurm-option is for --slurm, which was not given")
        for key, value in self.slurm_options.items():
            if key not in SLURM_OPTIONS:
                raise UserError(
                    f"unknown SLURM option {key!r}{nearest(key, SLURM_OPTIONS)}; legal are {', '.join(SLURM_OPTIONS)}"
                )
            if SLURM_OPTIONS[key] is int and not value.isdecimal():
                raise UserError(f"SLURM option {key} is {value!r}; it takes a whole number")


def run_tasks(function: Callable[[Task], Result], tasks: Iterable[Task], cluster: ClusterConfig) -> Generator[Result]:
    """Yield ``function(task)`` of every task as it is done, in any order.

    A task whose worker dies is given to another worker, three times at most. Tasks that are not done when the caller
    stops, or when one fails, are cancelled.

    Args:
        function: found by its name in a module of this package, so that workers elsewhere find it too.
        tasks: consumed as there is work for them.
        cluster: where they run.

    Raises:
        UserError: no scheduler or no worker answers, workers without this package, a task whose workers died each
            time; and what the function raises.
    """
    iterator = iter(tasks)
    try:
        first = next(iterator)
    except StopIteration:
        return  # nothing to do: no cluster to start
    iterator = itertools.chain([first], iterator)

    import distributed
    from distributed.scheduler import KilledWorker

    with _client(cluster) as client:
        finished: queue.SimpleQueue[distributed.Future] = queue.SimpleQueue()
        waiting = 0
        try:
            while True:
                wanted = _AHEAD * max(1, _num_workers(client))
                while waiting < wanted and (task := next(iterator, None)) is not None:
                    client.submit(function, task, pure=False).add_done_callback(finished.put)
                    waiting += 1
                if not waiting:
                    return
                future = _next(finished, client)
                waiting -= 1
                yield future.result()
                future.release()
        except KilledWorker:
            raise UserError(
                f"worker processes died {_deaths()} times at one task, most likely for lack of memory; run it again "
                "with fewer workers (--num-workers): what is finished is kept"
            ) from None
        except (ModuleNotFoundError, AttributeError) as error:
            if cluster.scheduler or cluster.slurm_jobs:
                raise UserError(
                    f"the workers cannot run this package ({error}); start them in an environment that has the same "
                    "version of it"
                ) from error
            raise


def default_num_workers() -> int:
    """Processes that this process may use at once: its CPU affinity, at most 16."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return min(16, len(affinity(0)) if affinity else os.cpu_count() or 1)


def _num_workers(client: "Client") -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


def _next(finished: "queue.SimpleQueue[Any]", client: "Client") -> Any:
    """Return the next future that is done; while there is no worker to do any, say so now and then."""
    while True:
        try:
            return finished.get(timeout=_PATIENCE)
        except queue.Empty:
            if not _num_workers(client):
                logger.warning("no worker is left; the work goes on when one comes back")


def _deaths() -> int:
    import dask

    return int(dask.config.get("distributed.scheduler.allowed-failures")) + 1


@contextlib.contextmanager
def _client(cluster: ClusterConfig) -> Iterator["Client"]:
    """Give a client of the cluster, with a worker at least; what was started for it is stopped."""
    import dask
    import distributed

    with contextlib.ExitStack() as stack:
        # Our messages say what a user can do; Dask's own log of every worker that goes or comes would hide them.
        for name in ("distributed", "tornado.application"):
            stack.enter_context(_quiet(name))
        stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": f"{cluster.timeout:g}s"}))
        if cluster.scheduler:
            try:
                client = stack.enter_context(distributed.Client(cluster.scheduler, timeout=cluster.timeout))
            except (OSError, ValueError) as error:
                raise UserError(
                    f"no Dask scheduler answers at {cluster.scheduler} ({error}); start one with `dask scheduler`, "
                    "and workers with `dask worker ADDRESS`, or leave out --scheduler to work on this machine"
                ) from None
            try:
                client.wait_for_workers(1, timeout=cluster.timeout)
            except TimeoutError:
                raise UserError(
                    f"the Dask scheduler at {cluster.scheduler} has no worker after {cluster.timeout:g} s; start "
                    f"some with `dask worker {cluster.scheduler}`"
                ) from None
        else:
            started = stack.enter_context(_slurm(cluster) if cluster.slurm_jobs else _local(cluster))
            client = stack.enter_context(distributed.Client(started))
            client.wait_for_workers(1)
        yield client


def _local(cluster: ClusterConfig) -> Any:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=cluster.num_workers,
        threads_per_worker=1,
        processes=cluster.num_workers > 1,
        # the tasks' memory is bounded by their size; Dask would pause workers for memory that others use
        memory_limit=0,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    )


def _slurm(cluster: ClusterConfig) -> Any:
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise UserError(
            "SLURM jobs need the package dask-jobqueue: pip install dask-jobqueue, or leave out --slurm"
        ) from None
    from distributed.core import Status

    if not shutil.which("sbatch"):
        raise UserError("SLURM is not on this machine (no sbatch on PATH); leave out --slurm to work here")
    options: dict[str, Any] = {key: SLURM_OPTIONS[key](value) for key, value in cluster.slurm_options.items()}
    try:
        started = SLURMCluster(**options, scheduler_options={"dashboard_address": None})
    except (ValueError, TypeError) as error:
        raise UserError(
            f"SLURM jobs cannot be described: {error}. Give --slurm-option cores=4 --slurm-option memory=16GB, or "
            "put them into ~/.config/dask/jobqueue.yaml"
        ) from None
    try:
        started.scale(jobs=cluster.slurm_jobs)
        # scale() only asks for the jobs, and nobody hears when sbatch refuses one: wait for each
        started.sync(started._correct_state)
        for job in started.workers.values():
            started.sync(_submitted, job)
    except (OSError, RuntimeError) as error:
        for job in started.workers.values():
            job.status = Status.failed  # closing takes a job that is neither submitted nor failed for a bug
        started.close()
        raise UserError(f"SLURM refuses the jobs: {error}") from None
    logger.info("%d SLURM jobs submitted; work begins with the first that starts", cluster.slurm_jobs)
    return started


async def _submitted(job: Any) -> None:
    await job  # one that is submitted already is done at once


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
