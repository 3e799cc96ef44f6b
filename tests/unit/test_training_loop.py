"""The loop's arithmetic on a toy task: accumulation, averages, schedules, signals, full disks, broken numbers."""

import math
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
from toy_task import ToyConfig, ToyLoader, column, settings, toy, weights

from sqvae_speech.errors import UserError
from sqvae_speech.training.config import AutoencoderTrainingConfig
from sqvae_speech.training.interruption import Interrupted
from sqvae_speech.training.lock import lock_run
from sqvae_speech.training.schedules import temperature_at
from sqvae_speech.training.task import Place
from sqvae_speech.training.trainer import train

__all__ = ["toy"]
pytestmark = pytest.mark.usefixtures("toy")


def run(exp_dir, config: ToyConfig | None = None, **changes):
    config = config or ToyConfig(training=settings(**changes))
    return train(config, exp_dir, progress=False)


def adam(num_steps: int, rates: list[float], max_norm: float = 1.0) -> list[np.ndarray]:
    """The weights [w, b] after each step, by Adam's equations in float64 from the model's own start."""
    config = ToyConfig(training=settings(num_steps=num_steps))
    torch.manual_seed(config.training.seed)
    linear = torch.nn.Linear(3, 1, dtype=torch.float64)
    theta = np.concatenate([linear.weight.detach().numpy()[0], linear.bias.detach().numpy()])
    m, v, history = np.zeros(4), np.zeros(4), []
    batches = iter(ToyLoader(config, Place()))
    for step in range(1, num_steps + 1):
        batch = next(batches)
        x = np.concatenate([batch["x"].numpy(), np.ones((9, 1))], axis=1)
        gradient = 2 * x.T @ (x @ theta - batch["y"].numpy()) / 9
        gradient = gradient * min(1.0, max_norm / (np.linalg.norm(gradient) + 1e-6))
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        theta = theta - rates[step - 1] * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        history.append(theta)
    return history


def as_array(state: dict[str, torch.Tensor]) -> np.ndarray:
    return np.concatenate([state["linear.weight"].numpy()[0], state["linear.bias"].numpy()])


SCHEDULES = {
    "milestones": ({"milestones": (3, 6)}, [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]),
    "warmup": ({"milestones": (6,), "warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]),
    "constant": ({"schedule": "constant"}, [1] * 10),
    "cosine": (
        {"schedule": "cosine", "final_learning_rate": 0.1},
        [0.1 + 0.9 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_weights_are_those_of_adam_at_the_scheduled_rates(tmp_path, name):
    changes, factors = SCHEDULES[name]
    run(tmp_path, **changes)
    expected = adam(10, [0.1 * factor for factor in factors])[-1]
    np.testing.assert_allclose(as_array(weights(tmp_path, 10)), expected, rtol=1e-9)


@pytest.mark.parametrize("name", [*SCHEDULES, "plateau", "ema"])
def test_every_schedule_resumes_exactly(tmp_path, name):
    special = {
        "plateau": {"schedule": "plateau", "patience": 0, "valid_interval": 1, "learning_rate": 3.0},
        "ema": {"ema_decay": 0.7},
    }
    changes = special.get(name) or SCHEDULES[name][0]
    config = ToyConfig(dropout=0.3, training=settings(**changes))
    run(tmp_path / "whole", config)
    stop_at(4, tmp_path / "parts", config)
    run(tmp_path / "parts", config)
    assert column(tmp_path / "whole", "loss") == column(tmp_path / "parts", "loss")
    assert column(tmp_path / "whole", "learning_rate") == column(tmp_path / "parts", "learning_rate")
    expected, got = weights(tmp_path / "whole", 10), weights(tmp_path / "parts", 10)
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_a_plateau_lowers_the_rate(tmp_path):
    run(tmp_path, schedule="plateau", patience=0, valid_interval=1, learning_rate=3.0)
    scores, rates = column(tmp_path, "loss", "valid"), column(tmp_path, "learning_rate")
    best, rate, expected = math.inf, 3.0, []
    for score in scores:
        expected.append(rate)  # a line of metrics is written before the validation of its step
        rate, best = (rate, score) if score < best * (1 - 1e-4) else (rate / 2, best)
    assert rates == expected
    assert rates[-1] < 3.0


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "parts", accumulation=4)  # of 9: parts of 2, 2, 2 and 3
    np.testing.assert_allclose(
        as_array(weights(tmp_path / "parts", 10)), as_array(weights(tmp_path / "whole", 10)), rtol=1e-12
    )
    np.testing.assert_allclose(column(tmp_path / "parts", "loss"), column(tmp_path / "whole", "loss"), rtol=1e-12)


def test_more_parts_than_examples_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"training.accumulation 10 is more than the 9 examples"):
        run(tmp_path, accumulation=10)


def test_checkpoints_hold_the_average_and_training_goes_on_from_the_weights(tmp_path):
    run(tmp_path, ema_decay=0.8, schedule="constant")
    history = adam(10, [0.1] * 10)
    average = history[0]
    for theta in history[1:]:
        average = 0.8 * average + 0.2 * theta
    np.testing.assert_allclose(as_array(weights(tmp_path, 10)), average, rtol=1e-9)
    state = torch.load(tmp_path / "checkpoints" / "step-00000010" / "training_state.pt", weights_only=True)
    np.testing.assert_allclose(as_array(state["trained_weights"]), history[-1], rtol=1e-9)
    assert column(tmp_path, "loss", "valid")[-1] == pytest.approx((average[3] - 3.0) ** 2)


def test_temperature_by_step_and_by_fraction_of_the_run():
    by_step = AutoencoderTrainingConfig(num_steps=1000, temperature_init=2.0, temperature_decay=1e-3)
    assert temperature_at(by_step, 500) == pytest.approx(2.0 * math.exp(-0.5))
    by_fraction = AutoencoderTrainingConfig(num_steps=1000, temperature_init=2.0, temperature_final=0.02)
    assert [temperature_at(by_fraction, step) for step in (0, 500, 1000)] == pytest.approx([2.0, 0.2, 0.02])


# ---- signals


def stop_at(step: int, exp_dir, config: ToyConfig, number: int = signal.SIGTERM) -> Interrupted:
    """Train, and send ourselves a signal while the batch of ``step`` is made."""

    class Signalling(ToyLoader):
        def __iter__(self):
            for batch in super().__iter__():
                if self.position == step:
                    os.kill(os.getpid(), number)
                yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toy_task.ToyLoader", Signalling)
        with pytest.raises(Interrupted) as caught:
            run(exp_dir, config)
    return caught.value


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_after_the_step_and_stops(tmp_path, number):
    before = signal.getsignal(number)
    interrupted = stop_at(3, tmp_path, ToyConfig(training=settings()), number)
    assert interrupted.exit_code == 128 + number
    assert f"{number.name}: stopped after step 3" in str(interrupted)
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000003\n"
    assert signal.getsignal(number) == before


def test_a_signal_in_the_last_step_changes_nothing(tmp_path):
    config = ToyConfig(training=settings(num_steps=3))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        stop_at(3, tmp_path, config)
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000003\n"


def test_training_in_another_thread_needs_no_signals(tmp_path):
    thread = threading.Thread(target=run, args=(tmp_path,))
    thread.start()
    thread.join()
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000010\n"


# ---- what goes wrong


def test_a_loss_that_is_not_finite_names_the_batch_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(UserError) as caught:
        run(tmp_path, ToyConfig(broken_step=7, training=settings(accumulation=2)))
    message = str(caught.value)
    assert "step 8 is not finite" in message
    assert "loss nan" in message
    assert "x is not finite in example-7-2" in message
    assert "linear.weight" in message
    assert "the last good checkpoint is" in message
    assert "step-00000005" in message
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == ["step-00000005"]


def on_a_small_disk(stderr: int, exp_dir, num_steps: int) -> None:
    """Train where files may have 2 kB: a checkpoint's state has more, metrics have less."""
    torch.set_num_threads(1)  # the threads of the process that was forked are not there
    sys.stderr = os.fdopen(stderr, "w")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    import logging

    logging.basicConfig(stream=sys.stderr, force=True)
    config = ToyConfig(training=settings(num_steps=num_steps, log_interval=5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        run(exp_dir, config)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def in_a_fork(function, *arguments) -> int:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def test_a_full_disk_is_reported_and_leaves_the_last_checkpoint(tmp_path):
    exp_dir = tmp_path / "exp"
    run(exp_dir, num_steps=5)
    reader, writer = os.pipe()  # not a file, which could not have more than the others
    assert in_a_fork(on_a_small_disk, writer, exp_dir, 15) == 1
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    assert said.count("a checkpoint could not be written") >= 1  # after step 10, and the run went on
    assert "the last checkpoint could not be written" in said
    assert "goes on from" in said
    assert [path.name for path in (exp_dir / "checkpoints").iterdir() if path.is_dir()] == ["step-00000005"]
    run(exp_dir, num_steps=15)
    run(tmp_path / "whole", num_steps=15)
    assert torch.equal(weights(exp_dir, 15)["linear.weight"], weights(tmp_path / "whole", 15)["linear.weight"])


def test_a_folder_is_trained_in_by_one_run_at_a_time(tmp_path):
    class Second(ToyLoader):
        def __iter__(self):
            if self.position == 0:
                with pytest.raises(UserError, match=r"is being trained in by process \d+ on"):
                    lock_run(tmp_path)  # another open file: as another process has it
            return super().__iter__()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toy_task.ToyLoader", Second)
        run(tmp_path)
    assert column(tmp_path, "loss") != []
    run(tmp_path, num_steps=11)  # it is free again


# ---- kills


def life(exp_dir, config: ToyConfig) -> None:
    torch.set_num_threads(1)  # the threads of the process that was forked are not there
    train(config, exp_dir, progress=False)


def test_kills_at_any_moment_change_nothing(tmp_path):
    config = ToyConfig(dropout=0.3, training=settings(num_steps=400, checkpoint_interval=7, valid_interval=50))
    started = time.monotonic()
    assert in_a_fork(life, tmp_path / "whole", config) == 0
    whole = time.monotonic() - started
    rng = np.random.default_rng(0)
    kills = 0
    while kills < 8:
        process = multiprocessing.get_context("fork").Process(target=life, args=(tmp_path / "killed", config))
        process.start()
        process.join(rng.uniform(0.1, 0.4) * whole)
        if process.exitcode == 0:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert kills >= 2
    assert in_a_fork(life, tmp_path / "killed", config) == 0
    assert column(tmp_path / "killed", "loss") == column(tmp_path / "whole", "loss")
    assert torch.equal(
        weights(tmp_path / "killed", 400)["linear.bias"], weights(tmp_path / "whole", 400)["linear.bias"]
    )
