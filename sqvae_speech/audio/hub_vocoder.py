"""Vocoders from torch.hub and from pip, behind the ``Vocoder`` interface.

A name is ``hub:<repository>:<entry>``, with ``owner/name``, ``owner/name:branch`` or a folder for the repository, or
``vocos``, ``vocos:<hub id or folder>``. Known ones are bound to the features that they were trained on; of another,
``hub:<repository>:<entry>@<preset>`` says it.

A hub repository's code is run, as ``torch.hub`` does: name only those that you trust.
"""

import ast
import contextlib
import functools
import logging
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sqvae_speech.audio.melspec import PRESETS, MelSpec
from sqvae_speech.audio.vocoder import Vocoder, check_mel, fit_samples, limit_level, restore_level
from sqvae_speech.errors import UserError, nearest

logger = logging.getLogger(__name__)

INSTEAD = "--vocoder griffin_lim needs no download"
VOCOS_MODEL = "charactr/vocos-mel-24khz"


class Adapter(NamedTuple):
    """How a kind of vocoder is made and used.

    Attributes:
        preset: of the features it was trained on; None: its user says.
        options: of its entry point.
        prepare: what it was loaded as -> what is called, on a device.
        synthesise: that, and a mel (1, n_mels, T) float32 -> wav (1, samples) or (1, 1, samples).
    """

    preset: str | None
    options: dict[str, Any]
    prepare: Callable[[Any, torch.device], Any]
    synthesise: Callable[[Any, Tensor], Tensor]


def _as_module(loaded: Any, device: torch.device) -> Any:
    return loaded.to(device).eval() if isinstance(loaded, torch.nn.Module) else loaded


def _melgan(loaded: Any, device: torch.device) -> Any:
    # not a module but an object that holds two, and a device that it moves mels to
    loaded.mel2wav.to(device).eval()
    loaded.device = device
    return loaded


def _waveglow(loaded: Any, device: torch.device) -> Any:
    return loaded.remove_weightnorm(loaded).to(device).eval()


def _infer(model: Any, mel: Tensor) -> Tensor:
    with _cuda_tensors_on(mel.device), torch.random.fork_rng(devices=[mel.device] if mel.is_cuda else []):
        torch.manual_seed(0)  # it begins with noise: the same mel sounds the same each time
        return model.infer(mel, sigma=1.0)


# by entry point: forks and local copies keep it
ADAPTERS: dict[str, Adapter] = {
    "load_melgan": Adapter("melgan22k", {}, _melgan, lambda model, mel: model.inverse(mel)),
    "nvidia_waveglow": Adapter("waveglow22k", {"model_math": "fp32"}, _waveglow, _infer),
}
OTHER = Adapter(None, {}, _as_module, lambda model, mel: model(mel))


class HubVocoder(Vocoder):
    """A loaded network as a vocoder.

    Utterances go through it one by one, so that none hears another's padding.

    Args:
        model: as its adapter's ``prepare`` gives it.
        mel_spec: the features that it was trained on.
        synthesise: see :class:`Adapter`.
        device: that it is on.
    """

    def __init__(
        self, model: Any, mel_spec: MelSpec, synthesise: Callable[[Any, Tensor], Tensor], device: torch.device
    ):
        self._model = model
        self._mel_spec = mel_spec
        self._synthesise = synthesise
        self._device = device

    @property
    def mel_spec(self) -> MelSpec:
        """The features that it was trained on."""
        return self._mel_spec

    @torch.no_grad()
    def vocode(self, mel: Tensor, peak: Tensor | float | None = None, lengths: Tensor | None = None) -> Tensor:
        """See :meth:`Vocoder.vocode`."""
        single = mel.ndim == 2
        batch = mel[None] if single else mel
        lengths = check_mel(batch, lengths, self._mel_spec)
        wavs = []
        for row, frames in zip(batch, lengths.tolist(), strict=True):
            wav = self._synthesise(self._model, row[None, :, :frames].float().to(self._device))
            wavs.append(fit_samples(self._one_dimension(wav), self._mel_spec.num_samples(frames)))
        longest = max(map(len, wavs))
        wav = torch.stack([fit_samples(wav, longest) for wav in wavs]).to(mel.device)
        wav = limit_level(restore_level(wav, peak, self._mel_spec))
        return wav[0] if single else wav

    def _one_dimension(self, wav: Any) -> Tensor:
        if not isinstance(wav, Tensor) or wav.numel() != wav.shape[-1]:
            got = f"{tuple(wav.shape)}" if isinstance(wav, Tensor) else type(wav).__name__
            raise UserError(f"the vocoder gave {got} for one mel, where samples (1, T) were expected; {INSTEAD}")
        return wav.reshape(-1).float()


def load_hub_vocoder(name: str, mel_spec: MelSpec, device: str | torch.device = "cpu") -> Vocoder:
    """Load ``hub:<repository>:<entry>[@<preset>]``.

    Args:
        name: see above.
        mel_spec: the features it is to be given.
        device: that it computes on.

    Raises:
        UserError: a name of another form, features of another kind or rate, no such repository, folder or entry, a
            package that is missing, no network, an error in the repository's own code.
    """
    place = torch.device(device)
    repository, entry, preset = _parse(name)
    adapter = ADAPTERS.get(entry, OTHER)
    spec = PRESETS[preset] if preset else PRESETS[adapter.preset] if adapter.preset else None
    if spec is not None:
        spec.require_same(mel_spec, f"vocoder {name}", "the features")
    loaded = _from_hub(name, repository, entry, adapter.options, place)
    if isinstance(loaded, Vocoder):  # one of ours knows its features itself
        loaded.mel_spec.require_same(mel_spec, f"vocoder {name}", "the features")
        return loaded
    if spec is None:
        raise UserError(
            f"vocoder {name!r} does not say which features it was trained on: add one of "
            f"{', '.join('@' + preset for preset in PRESETS)} to its name; {INSTEAD}"
        )
    _check_rate(name, loaded, spec)
    try:
        model = adapter.prepare(loaded, place)
    except (AttributeError, TypeError) as error:
        raise UserError(f"vocoder {name!r}: what {entry} gives is no {entry} vocoder ({error}); {INSTEAD}") from error
    return HubVocoder(model, spec, adapter.synthesise, place)


def load_vocos(name: str, mel_spec: MelSpec, device: str | torch.device = "cpu") -> Vocoder:
    """Load ``vocos``, or ``vocos:<model>``: a Hugging Face id, or a folder with the same files.

    Raises:
        UserError: the package is missing, features of another kind, no such model, no network.
    """
    PRESETS["vocos24k"].require_same(mel_spec, f"vocoder {name}", "the features")
    model_name = name.partition(":")[2] or VOCOS_MODEL
    try:
        from vocos import Vocos
    except ImportError as error:
        raise UserError(
            f"vocoder {name!r} needs the package vocos (pip install vocos): {error}; {INSTEAD}"
        ) from error
    place = torch.device(device)
    folder = Path(model_name).expanduser()
    try:
        with _loads_on(place):
            if folder.is_dir():
                model = Vocos.from_hparams(str(folder / "config.yaml"))
                model.load_state_dict(torch.load(folder / "pytorch_model.bin", weights_only=True))
            else:
                model = Vocos.from_pretrained(model_name)
    except Exception as error:  # of huggingface_hub, of its HTTP client, of vocos: no common base
        raise UserError(
            f"vocoder {name!r}: {model_name} cannot be had ({_first_line(error)}); give a folder with "
            f"config.yaml and pytorch_model.bin (vocos:FOLDER), or get it once with a network; {INSTEAD}"
        ) from error
    return HubVocoder(model.to(place).eval(), PRESETS["vocos24k"], lambda vocos, mel: vocos.decode(mel), place)


# ---- loading


def _parse(name: str) -> tuple[str, str, str | None]:
    """Repository, entry point and preset of a name."""
    rest, at, preset = name.removeprefix("hub:").partition("@")
    repository, _, entry = rest.rpartition(":")
    if not repository or not entry:
        raise UserError(f"vocoder {name!r} has to be hub:<owner/name or folder>:<entry>; {INSTEAD}")
    if at and preset not in PRESETS:
        raise UserError(
            f"vocoder {name!r}: no mel preset {preset!r}{nearest(preset, PRESETS)} ({', '.join(PRESETS)}); {INSTEAD}"
        )
    return repository, entry, preset or None


def _from_hub(name: str, repository: str, entry: str, options: dict[str, Any], device: torch.device) -> Any:
    folder = Path(repository).expanduser()
    local = folder.is_dir()
    if not local and (repository.startswith((".", "/", "~")) or "/" not in repository):
        raise UserError(f"vocoder {name!r}: there is no folder {repository}; {INSTEAD}")
    hub: dict[str, Any] = {"source": "local"} if local else {"source": "github", "trust_repo": True}
    place = str(folder) if local else repository
    logger.info("vocoder %s: running the code of %s", name, place)
    try:
        with _loads_on(device), _positional_librosa_filters():
            return torch.hub.load(place, entry, **hub, **options)
    except FileNotFoundError as error:
        raise UserError(f"vocoder {name!r}: {_first_line(error)}; is {place} a hub repository? {INSTEAD}") from error
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise UserError(_unreachable(name, entry, _first_line(error))) from error
    except (ImportError, RuntimeError) as error:
        message = _first_line(error)
        if "no internet connection" in message:
            raise UserError(_unreachable(name, entry, message)) from error
        if "Cannot find callable" in message or "Missing dependencies" in message:
            message += _entries(folder if local else Path(torch.hub.get_dir()) / repository.replace("/", "_"))
        raise UserError(f"vocoder {name!r}: {message}; {INSTEAD}") from error
    except Exception as error:  # whatever the repository's code stumbles over
        raise UserError(
            f"vocoder {name!r}: {entry} of {place} failed ({type(error).__name__}: {_first_line(error)}); {INSTEAD}"
        ) from error


def _unreachable(name: str, entry: str, reason: str) -> str:
    return (
        f"vocoder {name!r}: it cannot be fetched ({reason}). Load it once with a network, then it is kept in "
        f"{torch.hub.get_dir()}; or give a folder, hub:FOLDER:{entry}; {INSTEAD}"
    )


def _entries(folder: Path) -> str:
    """The functions that a repository's ``hubconf.py`` defines, read and not run."""
    try:
        tree = ast.parse((folder / "hubconf.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return f"; its entries are {', '.join(names)}"


def _check_rate(name: str, loaded: Any, spec: MelSpec) -> None:
    for attribute in ("sample_rate", "sampling_rate"):
        rate = getattr(loaded, attribute, None)
        if isinstance(rate, int) and rate != spec.sample_rate:
            raise UserError(
                f"vocoder {name!r} makes {rate} Hz, and {spec.name} is of {spec.sample_rate} Hz: choose features "
                f"of its rate; {INSTEAD}"
            )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


# ---- what old hub code stumbles over


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _loads_on(device: torch.device) -> Iterator[None]:
    """``torch.load`` without ``map_location`` fails on weights that were saved on a GPU, where there is none."""
    original = torch.load

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        if len(args) < 2:
            kwargs.setdefault("map_location", device)
        return original(*args, **kwargs)

    with _replaced(torch, "load", load):
        yield


@contextlib.contextmanager
def _positional_librosa_filters() -> Iterator[None]:
    """``librosa.filters.mel(rate, n_fft, n_mels, fmin, fmax)``: by keyword only since librosa 0.10."""
    import librosa

    original = librosa.filters.mel
    names = ("sr", "n_fft", "n_mels", "fmin", "fmax")

    @functools.wraps(original)
    def mel(*args: Any, **kwargs: Any) -> Any:
        return original(**dict(zip(names, args, strict=False)), **kwargs)

    with _replaced(librosa.filters, "mel", mel):
        yield


@contextlib.contextmanager
def _cuda_tensors_on(device: torch.device) -> Iterator[None]:
    """``torch.cuda.FloatTensor(...)``, which WaveGlow makes its noise with, on a machine without a GPU."""
    if device.type == "cuda":
        yield
        return
    with _replaced(torch.cuda, "FloatTensor", torch.FloatTensor):
        yield
