"""One training at a time in a folder."""

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from sqvae_speech.errors import UserError


def lock_run(exp_dir: Path) -> TextIO:
    """Take a run's folder for this process, until the file that is returned is closed or the process ends.

    Two that train in one folder, as processes that were started without a launcher's knowledge do, would write over
    each other's checkpoints. Where a file system has no locks, there is none.

    Raises:
        UserError: another process has it.
    """
    exp_dir.mkdir(parents=True, exist_ok=True)
    file = (exp_dir / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        who = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"{exp_dir} is being trained in by {who}: wait for it, or give another --exp-dir. (Processes that are to "
            "train together are started by torchrun or accelerate launch; accelerate's --cpu starts strangers)"
        ) from None
    except OSError:
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file
