"""Ways in which training ends that others have to tell apart."""

from sqvae_speech.errors import UserError


class DivergedError(UserError):
    """The loss or a gradient is no longer finite. The message says where, and what the last good checkpoint is."""
