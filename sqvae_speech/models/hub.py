"""Where a model comes from: a folder here, or the Hugging Face Hub."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sqvae_speech.errors import UserError
from sqvae_speech.models.storage import CONFIG_NAME, WEIGHTS_NAME, find_model

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model(
    name: str | os.PathLike[str],
    *,
    offline: bool = False,
    force_download: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """The folder with a model's two files.

    What exists here is taken from here, and nothing asks the network. Only a name of the form ``owner/name`` that is
    no folder here is looked for on the Hub, and kept in its cache.

    Args:
        name: an experiment folder, a checkpoint, an exported model, or a Hub id.
        offline: take a Hub id from the cache only, as ``HF_HUB_OFFLINE=1`` does.
        force_download: get a Hub id again although it is in the cache.
        revision: branch, tag or commit of a Hub id.
        token: for a private model; by default the one that ``hf auth login`` stored.
        cache_dir: of the Hub; by default its own.

    Raises:
        UserError: there is nothing of that name, or it cannot be had.
    """
    path = Path(name).expanduser()
    text = os.fspath(name)
    if path.exists() or not _HUB_ID.fullmatch(text):
        return find_model(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    nowhere = f"no folder {text} here"
    remedy = "give a folder, or get it once with a network: it is then kept in the cache"
    try:
        found = snapshot_download(
            text,
            revision=revision,
            token=token,
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            local_files_only=offline,
            force_download=force_download,
            allow_patterns=[CONFIG_NAME, WEIGHTS_NAME],
        )
    except RepositoryNotFoundError:
        raise UserError(
            f"{nowhere}, and the Hugging Face Hub has no model {text!r} that you may read; correct the name, or log "
            "in (`hf auth login`) if it is private"
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f"{text} on the Hugging Face Hub has no revision {revision!r}; leave it out for `main`"
        ) from None
    except LocalEntryNotFoundError as error:
        how = "offline was asked for" if offline else "the Hugging Face Hub cannot be reached"
        raise UserError(f"{nowhere}, none in the Hub's cache, and {how}: {remedy}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{nowhere}, and the Hugging Face Hub gives none ({first}): {remedy}") from error
    return find_model(Path(found))


@contextlib.contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """What can go wrong when a repository is written, as one message.

    Raises:
        UserError: not an id, not logged in, no right to write, no network.
    """
    if not _HUB_ID.fullmatch(repo_id):
        raise UserError(f"{repo_id!r} is no Hub id; it has the form owner/name")
    try:
        yield
    except Exception as error:  # of huggingface_hub, of its HTTP client, of its token store: no common base
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{repo_id} cannot be written on the Hugging Face Hub ({type(error).__name__}: {first}); is there a "
            "network, are you logged in (`hf auth login`, or token=), and may you write there?"
        ) from error


@contextlib.contextmanager
def whole_files(target: Path) -> Iterator[Path]:
    """A folder to write into, beside ``target``; when all is written its files are renamed into ``target``.

    Raises:
        UserError: ``target`` is a file.
    """
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file; a folder is wanted")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staging:
        yield Path(staging)
        target.mkdir(exist_ok=True)
        for file in Path(staging).iterdir():
            os.replace(file, target / file.name)


def set_download_progress(shown: bool) -> None:
    """Whether downloads from the Hub show their progress, from now on; True leaves it as it is."""
    if not shown:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
