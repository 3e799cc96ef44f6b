"""Scores of checkpoints, computed once: for scripts that make one table of many runs."""

import json
from pathlib import Path
from typing import Any

from sqvae_speech.data.files import read_text, write_text
from sqvae_speech.data.image_index import ImageIndex
from sqvae_speech.evaluation.image_scores import score_image_shards
from sqvae_speech.models.pretrained_image import load_image_model


def image_scores(checkpoint: Path, shards: str | Path, saved: Path) -> dict[str, Any]:
    """The scores of an image model on shards, as :meth:`sqvae_speech.evaluation.image_scores.ImageScores.to_dict` has
    them.

    Args:
        checkpoint: or an experiment folder.
        shards: the folder.
        saved: a JSON file, which is read when it is of these weights and shards, else written.

    Raises:
        UserError: see :func:`sqvae_speech.evaluation.image_scores.score_image_shards`.
    """
    bundle = load_image_model(checkpoint)
    of = {"weights": bundle.fingerprint, "shards": ImageIndex.load(shards).fingerprint}
    if saved.is_file():
        values = json.loads(read_text(saved))
        if values["of"] == of:
            return values["scores"]
    scores = score_image_shards(bundle, shards, progress=False).to_dict()
    write_text(saved, json.dumps({"of": of, "scores": scores}, indent=1) + "\n")
    return scores
