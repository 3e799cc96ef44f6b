"""Adam in one pass over memory, whatever the layout of a parameter."""

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """Fused AdamW, which is Adam where a group has no weight decay, on parameters in the order of their memory.

    On a CPU the fused step of torch.optim copies channels-last parameters, which takes as long as the step itself,
    and pairs a parameter with its gradient by their places in memory, silently wrong where the two have different
    layouts (PyTorch 2.11).
    """

    def __init__(self, params, lr: float = 1e-3):
        super().__init__(params, lr=lr, fused=True, decoupled_weight_decay=True)

    def load_state_dict(self, state_dict) -> None:
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                if state[name].stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter).copy_(state[name])

    def _init_group(self, group, params, grads, exp_avgs, exp_avg_sqs, *rest):
        found = super()._init_group(group, params, grads, exp_avgs, exp_avg_sqs, *rest)
        for number, parameter in enumerate(params):
            if grads[number].stride() != parameter.stride():
                grads[number] = torch.empty_like(parameter).copy_(grads[number])
            if not parameter.is_contiguous() and parameter.is_contiguous(memory_format=torch.channels_last):
                for tensors in (params, grads, exp_avgs, exp_avg_sqs):
                    tensors[number] = _in_memory_order(tensors[number])
        return found


def _in_memory_order(tensor: Tensor) -> Tensor:
    """A contiguous view of a channels-last tensor."""
    return tensor.permute(0, 2, 3, 1)
