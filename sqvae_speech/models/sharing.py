"""Loading, saving and sharing a trained model, by huggingface_hub's mixin; folders need no network."""

import os
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin

from sqvae_speech.models.hub import hub_errors, resolve_model, whole_files
from sqvae_speech.models.pretrained import SpeechBundle, load_speech_model, save_speech_model
from sqvae_speech.models.tokenizer_card import tokenizer_card


class SharedModel(ModelHubMixin):
    """What holds a model and can be loaded from, and saved to, folders and the Hugging Face Hub.

    A subclass is made of ``bundle``, ``device`` and ``dtype``.

    Attributes:
        bundle: the model, with what it was trained for.
    """

    bundle: SpeechBundle

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin knows no device
        cls,
        name: str | os.PathLike[str],
        *,
        device: str = "cpu",
        dtype: str | torch.dtype = "float32",
        offline: bool = False,
        force_download: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        **mixin: Any,
    ) -> Self:
        """Load it from a folder (of a run, a checkpoint, an exported model) or from the Hugging Face Hub.

        Args:
            name: the folder, or a Hub id ``owner/name``. A folder of that name is taken first, without any network.
            device: see the class.
            dtype: see the class.
            offline: take a Hub id from the cache only, which huggingface_hub calls ``local_files_only``.
            force_download: get a Hub id again although it is in the cache.
            revision: branch, tag or commit of a Hub id.
            token: for a private model of the Hub; by default the one that ``hf auth login`` stored.
            cache_dir: of the Hub; by default its own.
            mixin: ``local_files_only``.

        Raises:
            UserError: there is none, or it is damaged.
        """
        offline = offline or mixin.pop("local_files_only", False)
        if mixin:
            raise TypeError(f"from_pretrained() has no argument {next(iter(mixin))!r}")
        folder = resolve_model(
            name, offline=offline, force_download=force_download, revision=revision, token=token, cache_dir=cache_dir
        )
        return super().from_pretrained(folder, device=device, dtype=dtype)

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls, *, model_id: str, device: str, dtype: str | torch.dtype, **_: Any
    ) -> Self:
        return cls(load_speech_model(model_id), device=device, dtype=dtype)

    def save_pretrained(  # type: ignore[override]  # its parameters come after these, through `mixin`
        self,
        directory: str | os.PathLike[str],
        *,
        name: str | None = None,
        licence: str | None = None,
        data: str | None = None,
        weights: str = "float32",
        **mixin: Any,
    ) -> Path:
        """Write ``config.json``, ``model.safetensors`` and ``README.md``, a model card, which is all that is needed.

        Args:
            directory: made if need be; each file is written beside its name and renamed.
            name: what the card calls it; by default the folder.
            licence: of the weights, an SPDX id in lower case (``cc-by-4.0``), for the card.
            data: what it was trained on, in words, for the card; by default what the run says.
            weights: ``float16`` stores matrices in half the size, and makes them another model's: a few units in
                10,000 change. Loading brings them back to float32.
            mixin: more of huggingface_hub's ``ModelHubMixin.save_pretrained``, such as ``push_to_hub``.
        """
        target = Path(directory)
        card: dict[str, Any] = {"name": name or target.resolve().name, "licence": licence, "data": data}
        card.update(mixin.pop("model_card_kwargs", None) or {})
        with whole_files(target) as staging:
            save_speech_model(staging, self.bundle, weights)
            self.generate_model_card(**card).save(staging / "README.md")
        if mixin.pop("push_to_hub", False):
            self.push_to_hub(mixin.pop("repo_id", target.name), licence=licence, data=data, **mixin)
        return target

    def generate_model_card(self, name: str, *, licence: str | None = None, data: str | None = None) -> ModelCard:
        """The card that :meth:`save_pretrained` writes."""
        return ModelCard(tokenizer_card(self.bundle, name, licence=licence, data=data))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        licence: str | None = None,
        data: str | None = None,
        **mixin: Any,
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face Hub; returns the commit's address.

        Args:
            repo_id: ``owner/name``; made if need be.
            private: of a repository that is made.
            token: by default the one that ``hf auth login`` stored.
            revision: the branch.
            licence: see :meth:`save_pretrained`.
            data: see :meth:`save_pretrained`.
            mixin: more of huggingface_hub's ``ModelHubMixin.push_to_hub``, such as ``create_pr``.

        Raises:
            UserError: not an id, not logged in, no right to write, no network.
        """
        card = {"name": repo_id, "licence": licence, "data": data}
        with hub_errors(repo_id):
            return super().push_to_hub(
                repo_id, private=private, token=token, branch=revision, model_card_kwargs=card, **mixin
            )
