"""``torch.compile`` of a model, or of its parts."""

from torch import nn

from sqvae_speech.training.task import Task


def compile_model(model: nn.Module, how: str, task: Task) -> None:
    """Have a model, or parts of it, compiled when they are first called. Names in its state dict stay.

    Args:
        model: not wrapped.
        how: ``none``, ``regional`` (what :meth:`Task.regions` names) or ``full``.
        task: of the model.
    """
    # CUDA graphs: at the published size, to launch the kernels takes longer than to run them
    graphs = task.place.device.type == "cuda" and task.fixed_shapes
    modules = {"none": [], "regional": task.regions(model), "full": [model]}[how]
    for module in modules:
        module.compile(mode="reduce-overhead" if graphs else "default")
