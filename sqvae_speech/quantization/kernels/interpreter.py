"""A repair of Triton's interpreter, in which the kernels are checked on a CPU."""

import os
from typing import Any


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter rather than on a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def repair() -> None:
    """Let ``range`` take a scalar of a kernel under NumPy 2.4 and newer.

    The interpreter (Triton 3.6) holds scalars as arrays of one element and hands them to ``int``, which NumPy no
    longer converts: "only 0-dimensional arrays can be converted to Python scalars".
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor
    if getattr(patch, "repaired", False):
        return

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    patch_lang_tensor.repaired = True  # type: ignore[attr-defined]
    interpreter._patch_lang_tensor = patch_lang_tensor
