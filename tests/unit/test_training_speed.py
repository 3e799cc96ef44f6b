"""What makes training faster and must change nothing else; the learning rate of other batch sizes."""

import ctypes
import os

import pytest
import torch
from torch import nn

from sqvae_speech import allocation
from sqvae_speech.config import load_config
from sqvae_speech.errors import UserError
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig
from sqvae_speech.quantization import QuantizerConfig
from sqvae_speech.training.adam import Adam
from sqvae_speech.training.compilation import compile_model
from sqvae_speech.training.config import TrainingConfig
from sqvae_speech.training.optimization import build_optimizer
from sqvae_speech.training.speech import SpeechTask
from sqvae_speech.training.speech_config import SpeechTrainConfig
from sqvae_speech.training.task import Place, Task

LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("of_parameter", LAYOUTS)
def test_adam_is_adam_in_every_layout(of_parameter, of_gradient):
    torch.manual_seed(0)
    start, gradients = torch.randn(5, 4, 2, 3), torch.randn(6, 5, 4, 2, 3)
    found = []
    for make in (Adam, lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, foreach=False, fused=False)):
        weight = nn.Parameter(start.clone(memory_format=of_parameter))
        optimizer = make([weight], lr=0.1)
        for step, gradient in enumerate(gradients):
            if step == 3:  # resumed, from a state in another layout
                state = optimizer.state_dict()
                for name in ("exp_avg", "exp_avg_sq"):
                    state["state"][0][name] = state["state"][0][name].clone(memory_format=torch.contiguous_format)
                optimizer = make([weight], lr=0.1)
                optimizer.load_state_dict(state)
            weight.grad = gradient.clone(memory_format=of_gradient)
            optimizer.step()
        found.append((weight.detach(), *(optimizer.state[weight][name] for name in ("exp_avg", "exp_avg_sq"))))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_learning_rate_rule(rule, factor):
    config = TrainingConfig(batch_size=208, learning_rate_rule=rule)
    optimizer = build_optimizer(nn.Linear(2, 2), config, {"bias": 10.0})
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"rest": pytest.approx(4e-4 * factor), "bias": pytest.approx(4e-3 * factor)}


def test_learning_rate_rule_goes_by_crops():
    with pytest.raises(UserError, match="learning_rate_rule must be none with data"):
        load_config(
            SpeechTrainConfig, None, ["--data.batching", "utterances", "--training.learning_rate_rule", "linear"]
        )
    with pytest.raises(UserError, match="must be one of none, sqrt, linear, got 'cubic'"):
        load_config(SpeechTrainConfig, None, ["--training.learning_rate_rule", "cubic"])


@pytest.mark.parametrize("how", ["none", "regional", "full"])
def test_compiled_models_train_alike(monkeypatch, how):
    torch._dynamo.reset()
    graphs = []
    original = nn.Module.compile

    def compile_quickly(module: nn.Module, *, mode: str) -> None:
        graphs.append((module, mode))
        original(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    task = SpeechTask.__new__(SpeechTask)
    task.config, task.place = SpeechTrainConfig(), Place()
    found = []
    for choice in ("none", how):
        torch.manual_seed(0)
        config = SpeechModelConfig(64, 3, 4, quantizer=QuantizerConfig("gaussian", 8, 4))
        model = SpeechModel(config, 64, 2).train()
        names = list(model.state_dict())
        compile_model(model, choice, task)
        losses = []
        for step in range(3):
            torch.manual_seed(step)
            loss = model(torch.rand(3, 64, 14), torch.tensor([0, 1, 1]), temperature=0.9**step).loss
            loss.backward()
            losses.append(loss.detach())
        found.append((torch.stack(losses), *(p.grad for p in model.parameters())))
        assert list(model.state_dict()) == names
    torch._dynamo.reset()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    assert len(graphs) == {"none": 0, "regional": 6, "full": 1}[how]
    assert {mode for _, mode in graphs} <= {"default"}, "CUDA graphs are for GPUs"


def test_transfer_leaves_what_is_no_tensor():
    task = SpeechTask.__new__(SpeechTask)
    task.place = Place()
    batch = {"mel": torch.rand(2, 3), "id": ["a", "b"]}
    moved = task.transfer(batch)
    assert moved["mel"] is batch["mel"]
    assert moved["id"] == ["a", "b"]


def test_freed_memory_is_kept_unless_somebody_has_chosen(monkeypatch):
    calls = []

    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            calls.append((option, value))
            return 1

    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    assert allocation.keep_freed_memory()
    assert [option for option, _ in calls] == [-3, -1]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not allocation.keep_freed_memory()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not allocation.keep_freed_memory(), "another C library"


def test_regions_of_any_model_are_its_children():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert Task.regions(SpeechTask.__new__(SpeechTask), model) == list(model)
