"""Noticing that a codebook has collapsed: few of its codes are in use, and have been for long."""

import logging
from typing import Any

from torch import Tensor

logger = logging.getLogger(__name__)


class CollapseWatch:
    """Warns once each time that a codebook's usage stays under a threshold for some steps.

    Usage is the share of the codes that were chosen since the last look, of those that could have been: in an
    interval with fewer units than codes, not every code can come up.

    Args:
        threshold: usage that is too little; 0 watches nothing.
        patience: steps for which it has to be so.
        quiet: say nothing: of several processes that see the same, one is to speak.

    Attributes:
        collapsed: whether that is so now.
    """

    def __init__(self, threshold: float, patience: int, *, quiet: bool = False):
        self.threshold = threshold
        self.patience = patience
        self.collapsed = False
        self._level = logging.DEBUG if quiet else logging.WARNING
        self._low_since: int | None = None

    def look(self, step: int, counts: Tensor) -> bool:
        """Take the codes chosen since the last look.

        Args:
            step: steps done.
            counts: (K,), or (N, K) of N codebooks, of which the least used one decides.

        Returns:
            ``collapsed``.
        """
        books = counts.reshape(-1, counts.shape[-1])
        most = books.sum(dim=1).clamp(min=1.0, max=float(counts.shape[-1]))
        used = (books > 0).sum(dim=1)
        worst = int((used / most).argmin())
        if not float(used[worst] / most[worst]) < self.threshold:
            if self.collapsed:
                logger.log(self._level, "the codebook has recovered: %d codes in use at step %d", used[worst], step)
            self.collapsed, self._low_since = False, None
            return False
        if self._low_since is None:
            self._low_since = step
        if not self.collapsed and step - self._low_since >= self.patience:
            self.collapsed = True
            logger.log(
                self._level,
                "the codebook%s has collapsed: since step %d less than %g%% of its codes have been in use "
                "(%d of %d at step %d). What helps: training.codebook_init data, a larger "
                "training.codebook_lr_multiplier, a smaller model.quantizer.codebook_size; for VQ-VAE "
                "codebook_update ema",
                f" {worst}" if len(books) > 1 else "",
                self._low_since,
                100 * self.threshold,
                used[worst],
                counts.shape[-1],
                step,
            )
        return self.collapsed

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: a run that is resumed warns when one never interrupted would."""
        return {"collapsed": self.collapsed, "low_since": self._low_since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.collapsed, self._low_since = state["collapsed"], state["low_since"]
