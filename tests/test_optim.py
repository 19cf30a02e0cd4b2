"""Optimizers over a flat state against float64, step by step."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import oracle
import pytest

from distsgd import config
from distsgd.kernels.update import LEAST
from distsgd.optim import Adam, Optimizer, Sgd, learning_rate

LENGTH = 37
TENSORS = [(20, True), (5, False), (12, True)]
DECAYED = np.repeat([True, False, True], [20, 5, 12])


def given(optimizer: Optimizer) -> tuple[np.ndarray, np.ndarray]:
    """A state as (parameters, moments...), the moments zero, and room for a gradient."""
    state = np.zeros((1 + optimizer.moments) * LENGTH, np.float32)
    state[:LENGTH] = np.random.default_rng(1).normal(size=LENGTH)
    return state, np.zeros(LENGTH, np.float32)


def gradients(count: int) -> np.ndarray:
    drawn = np.random.default_rng(2).normal(size=(count, LENGTH)).astype(np.float32)
    return drawn * np.float32(10) ** np.arange(
        -18, 19
    )  # from 1e-18 to 1e18: Adam takes the same step for all


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd(momentum: float) -> None:
    optimizer = Sgd(0.05, momentum)
    state, gradient = given(optimizer)
    steps, (p, v) = optimizer.bind(state, gradient), state.astype(np.float64).reshape(2, -1)
    size = np.ones(LENGTH)
    for number, g in enumerate(gradients(20)):
        gradient[:] = g
        steps.step(number + 1)
        p, v = oracle.sgd(p, v, g.astype(np.float64), 0.05, momentum)
        size = np.maximum(size, abs(v))
        oracle.assert_close(state[:LENGTH], p, 2e-6 * size)
        oracle.assert_close(state[LENGTH:], v, 2e-6 * size)


@pytest.mark.parametrize("settings", [(0.001, 0.9, 0.999, 1e-8), (0.1, 0.5, 0.9, 1e-3)])
def test_adam(settings: tuple[float, float, float, float]) -> None:
    optimizer = Adam(*settings)
    state, gradient = given(optimizer)
    steps, (p, m, v) = optimizer.bind(state, gradient), state.astype(np.float64).reshape(3, -1)
    size, tiny = np.zeros(LENGTH), LEAST * len(gradients(20))  # squares of the smallest gradients are nothing
    for number, g in enumerate(gradients(20)):
        gradient[:] = g
        steps.step(number + 1)
        p, m, v = oracle.adam(p, m, v, g.astype(np.float64), number + 1, settings)
        oracle.assert_close(state[:LENGTH], p, 1e-6 + 1e-5 * settings[0] * (number + 1))
        size = np.maximum(size, abs(m))
        oracle.assert_close(state[LENGTH : 2 * LENGTH], m, 2e-6 * size)
        oracle.assert_close(state[2 * LENGTH :], v, 1e-5 * v + tiny)


@pytest.mark.parametrize("number", [1, 2, 10, 1000, 10**6, 10**9])
def test_adams_bias_correction_follows_the_steps_number_and_not_the_calls(number: int) -> None:
    settings = (0.01, 0.9, 0.999, 1e-8)
    state, gradient = given(Adam(*settings))
    before, gradient[:] = state[:LENGTH].astype(np.float64), 0.5
    Adam(*settings).bind(state, gradient).step(number)
    zero = np.zeros(LENGTH)
    wanted, _, _ = oracle.adam(before, zero, zero, gradient.astype(np.float64), number, settings)
    step = wanted - before
    np.testing.assert_allclose(state[:LENGTH] - before, step, rtol=1e-4)
    np.testing.assert_allclose(step[0], -0.01 if number == 1 else step[0])  # the first step is the rate


def test_an_old_states_steps_can_be_repeated() -> None:
    # A round that is done again after a rank was lost: the number alone says how old the state is.
    optimizer = Adam(0.01, 0.9, 0.999, 1e-8)
    state, gradient = given(optimizer)
    gradient[:] = gradients(1)[0]
    steps, first = optimizer.bind(state, gradient), state.copy()
    steps.step(5)
    after, state[:] = state.copy(), first
    steps.step(900)
    assert (state != after).any()
    state[:] = first
    steps.step(5)
    np.testing.assert_array_equal(state, after)


@pytest.mark.parametrize(
    "optimizer", [Sgd(0.1, 0.9), Sgd(0.1, 0.9, True, 0.1, 1.0), Adam(0.1, 0.9, 0.99, 1e-8, 0.1, 1.0)]
)
def test_steps_write_the_state_in_place_and_leave_the_gradient(optimizer: Optimizer) -> None:
    state, gradient = given(optimizer)
    gradient[:] = 1
    before = state.copy()
    optimizer.bind(state, gradient).step(1)
    assert (state != before).all()
    assert (gradient == 1).all()


@pytest.mark.parametrize("optimizer", [Sgd(0.01, 0.9), Sgd(0.01, 0.9, True), Adam(0.01, 0.9, 0.9, 1e-8)])
def test_moments_of_a_gradient_that_stays_zero_end(optimizer: Optimizer) -> None:
    # else they are subnormal numbers in the end, which round to themselves and make every later step slow
    state, gradient = given(optimizer)
    steps, gradient[:] = optimizer.bind(state, gradient), np.random.default_rng(3).normal(size=LENGTH)
    gradient[0] = np.nan
    steps.step(1)
    gradient[:] = 0
    for number in range(2, 1000):
        steps.step(number)
        moments = abs(state[LENGTH:].reshape(-1, LENGTH)[:, 1:])
        assert np.all((moments == 0) | (moments >= LEAST))
    assert not moments.any()
    assert np.isnan(state[LENGTH])


@pytest.mark.parametrize("optimizer", [Sgd(0.1, 0.9), Adam(0.1, 0.9, 0.99, 1e-8)])
def test_powers_say_how_moments_grow_with_the_gradient(optimizer: Optimizer) -> None:
    assert len(optimizer.powers) == optimizer.moments
    moments = []
    for size in (1, 1024):
        state, gradient = given(optimizer)
        gradient[:] = size
        optimizer.bind(state, gradient).step(1)
        moments.append(state.reshape(-1, LENGTH)[1:])
    for small, large, power in zip(*moments, optimizer.powers, strict=True):
        np.testing.assert_array_equal(large, small * 1024**power)


def rate(number: int) -> float:
    """A schedule like no other."""
    return 0.01 * (1 + number % 3)


def some_gradients(count: int) -> np.ndarray:
    """Of norms from 2 to 12, so that a clip of 6 takes some."""
    drawn = np.random.default_rng(5).normal(size=(count, LENGTH)).astype(np.float32)
    return drawn * np.linspace(0.3, 2, count, dtype=np.float32)[:, None]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("clip", [None, 6.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd_with_everything(decay: float, clip: float | None, nesterov: bool) -> None:
    optimizer = Sgd(9.0, 0.9, nesterov, decay, clip)
    state, gradient = given(optimizer)
    steps, (p, v) = optimizer.bind(state, gradient, TENSORS, rate), state.astype(np.float64).reshape(2, -1)
    for number, g in enumerate(some_gradients(20), 1):
        gradient[:] = g
        steps.step(number)
        exact = oracle.clipped(g.astype(np.float64), clip or math.inf)
        p, v = oracle.sgd(p, v, exact, rate(number), 0.9, nesterov, decay * DECAYED)
        oracle.assert_close(state.reshape(2, -1), np.array([p, v]), 1e-5)


@pytest.mark.parametrize("clip", [None, 6.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_with_everything(decay: float, clip: float | None) -> None:
    optimizer = Adam(9.0, 0.9, 0.999, 1e-8, decay, clip)
    state, gradient = given(optimizer)
    steps, (p, m, v) = optimizer.bind(state, gradient, TENSORS, rate), state.astype(np.float64).reshape(3, -1)
    for number, g in enumerate(some_gradients(20), 1):
        gradient[:] = g
        steps.step(number)
        exact, settings = (
            oracle.clipped(g.astype(np.float64), clip or math.inf),
            (rate(number), 0.9, 0.999, 1e-8),
        )
        p, m, v = oracle.adam(p, m, v, exact, number, settings, decay * DECAYED)
        oracle.assert_close(state.reshape(3, -1), np.array([p, m, v]), 1e-5)


@pytest.mark.parametrize("kind", [Sgd, Adam])
def test_decay_is_for_all_where_no_tensors_are_given(kind: type) -> None:
    optimizer = Sgd(0.1, 0.9, weight_decay=0.1) if kind is Sgd else Adam(0.1, 0.9, 0.99, 1e-8, 0.1)
    state, gradient = given(optimizer)
    before = state[:LENGTH].copy()
    optimizer.bind(state, gradient).step(1)
    np.testing.assert_allclose(state[:LENGTH], before * 0.99, rtol=1e-6)


@pytest.mark.parametrize("optimizer", [Sgd(0.1, 0.9, True, 0.1, 1.0), Adam(0.1, 0.9, 0.99, 1e-8, 0.1, 1.0)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_clipping_does_not_hide_what_is_not_finite(bad: float, optimizer: Optimizer) -> None:
    for place in range(LENGTH):
        state, gradient = given(optimizer)
        gradient[:], gradient[place] = 1, bad
        steps = optimizer.bind(state, gradient, TENSORS)
        assert math.isnan(steps.clipping.share())
        steps.step(1)
        assert np.isnan(state).all()


def test_clipping_holds_the_norm_and_leaves_shorter_gradients_alone() -> None:
    state, gradient = given(Sgd(1.0, 0.0))
    clipping = Sgd(1.0, 0.0, clip=5.0).bind(state, gradient).clipping
    assert clipping.share() == 1  # of zero
    gradient[:2] = 3, 4
    assert clipping.share() == 1
    gradient[:2] = 30, 40
    assert clipping.share() == 0.1
    assert Sgd(1.0, 0.0).bind(state, gradient).clipping.share() == 1


STEPS, EPOCHS, WORKERS = 7, 12, 9


def rates(**changes: Any) -> list[float]:
    settings = config.Sgd.model_validate({"learning_rate": 0.3, **changes})
    return [learning_rate(settings, n, STEPS, EPOCHS, WORKERS) for n in range(1, STEPS * EPOCHS + 1)]


def test_the_learning_rate_is_constant_to_the_bit() -> None:
    assert set(rates()) == {0.3}


def test_the_learning_rate_goes_down_in_steps() -> None:
    for number, got in enumerate(rates(schedule="step", step_epochs=5, step_factor=0.5)):
        assert got == 0.3 * (1, 0.5, 0.25)[number // STEPS // 5]


@pytest.mark.parametrize("final", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 3, 12])
def test_the_learning_rate_goes_down_as_a_cosine_after_the_warm_up(warmup: float, final: float) -> None:
    first, last = warmup * STEPS, STEPS * EPOCHS
    for done, got in enumerate(rates(schedule="cosine", warmup=warmup, final=final)):
        if done < first:
            wanted = min(1.0, (done + 1) / first)
        else:
            angle = math.pi * max(0.0, done - first) / max(1.0, last - first)
            wanted = final + (1 - final) * (1 + math.cos(angle)) / 2
        assert got == pytest.approx(0.3 * wanted, rel=1e-13)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
def test_a_warm_up_rises_by_equal_parts_from_zero(schedule: str) -> None:
    warm, cold = rates(schedule=schedule, warmup=2.5), rates(schedule=schedule)
    np.testing.assert_allclose(warm[:17], [0.3 * number / 17.5 for number in range(1, 18)], rtol=1e-15)
    if schedule != "cosine":  # which begins then
        assert warm[17:] == cold[17:]


@pytest.mark.parametrize(("scale", "factor"), [("none", 1.0), ("linear", 9.0), ("sqrt", 3.0)])
def test_the_learning_rate_follows_the_workers(scale: str, factor: float) -> None:
    for changes in ({}, {"schedule": "cosine", "warmup": 2.0}):
        np.testing.assert_allclose(
            rates(scale=scale, **changes), factor * np.array(rates(**changes)), rtol=1e-15
        )


def test_adam_has_the_same_schedules() -> None:
    changes = {"schedule": "cosine", "warmup": 1.5, "final": 0.1, "scale": "sqrt", "learning_rate": 0.3}
    settings = config.Adam.model_validate(changes)
    assert learning_rate(settings, 50, STEPS, EPOCHS, WORKERS) == rates(**changes)[49]


def second_opinion() -> Any:
    return pytest.importorskip("torch", reason="NO SECOND OPINION: PyTorch is not installed")


def scheduled(torch: Any, kind: str, other: Any, warmup: int) -> Any:
    """PyTorch's schedule of that kind, of STEPS a epoch and EPOCHS epochs, the warm-up in steps."""
    schedulers = torch.optim.lr_scheduler
    if kind == "step":
        return schedulers.StepLR(other, 5 * STEPS, 0.5)
    cosine = schedulers.CosineAnnealingLR(other, STEPS * EPOCHS - warmup, 0.2 * 0.3)
    if not warmup:
        return cosine
    linear = schedulers.LinearLR(other, 1 / warmup, 1.0, warmup - 1)
    return schedulers.SequentialLR(other, [linear, cosine], [warmup])


@pytest.mark.parametrize(("kind", "warmup"), [("step", 0), ("cosine", 0), ("cosine", 2)])
def test_schedules_as_pytorch_has_them(kind: str, warmup: int) -> None:
    torch = second_opinion()
    other = torch.optim.SGD([torch.zeros(1, dtype=torch.float64, requires_grad=True)], lr=0.3)
    schedule = scheduled(torch, kind, other, warmup * STEPS)
    own: dict[str, Any] = {"step_epochs": 5, "step_factor": 0.5} if kind == "step" else {"final": 0.2}
    for got in rates(schedule=kind, warmup=warmup, **own):
        assert got == pytest.approx(other.param_groups[0]["lr"], rel=1e-12)
        other.step()
        schedule.step()


def optimizers() -> Iterator[tuple[Optimizer, str, dict[str, Any]]]:
    """Ours, and PyTorch's by name with its options."""
    for decay in (0.0, 0.1):
        for clip in (None, 6.0):
            for nesterov in (False, True):
                yield Sgd(0.01, 0.9, nesterov, decay, clip), "SGD", {"momentum": 0.9, "nesterov": nesterov}
            yield Adam(0.01, 0.9, 0.999, 1e-8, decay, clip), "AdamW", {"betas": (0.9, 0.999), "eps": 1e-8}


@pytest.mark.parametrize(("ours", "name", "options"), list(optimizers()))
def test_optimizers_as_pytorch_has_them(ours: Optimizer, name: str, options: dict[str, Any]) -> None:
    torch = second_opinion()
    state, gradient = given(ours)
    steps, bounds = ours.bind(state, gradient, TENSORS, rate), np.cumsum([size for size, _ in TENSORS])[:-1]
    theirs = [torch.tensor(part, requires_grad=True) for part in np.split(np.float64(state[:LENGTH]), bounds)]
    groups = [
        {"params": [part], "weight_decay": ours.weight_decay * decays}
        for part, (_, decays) in zip(theirs, TENSORS, strict=True)
    ]
    other = getattr(torch.optim, name)(groups, lr=0.01, **options)
    for number, g in enumerate(some_gradients(30), 1):
        gradient[:] = g
        steps.step(number)
        for group, part, slope in zip(
            other.param_groups, theirs, np.split(np.float64(g), bounds), strict=True
        ):
            part.grad, group["lr"] = torch.tensor(slope), rate(number)
        if ours.clip:
            torch.nn.utils.clip_grad_norm_(theirs, ours.clip)
        other.step()
        oracle.assert_close(state[:LENGTH], np.concatenate([part.detach().numpy() for part in theirs]), 1e-5)


def test_adam_as_pytorch_has_it() -> None:
    torch = second_opinion()
    optimizer = Adam(0.01, 0.9, 0.999, 1e-8)
    state, gradient = given(optimizer)
    theirs = torch.tensor(state[:LENGTH].astype(np.float64), requires_grad=True)
    ours, other = optimizer.bind(state, gradient), torch.optim.Adam([theirs], lr=0.01)
    for number, g in enumerate(gradients(10)):
        gradient[:], theirs.grad = g, torch.tensor(g.astype(np.float64))
        ours.step(number + 1)
        other.step()
    wanted = theirs.detach().numpy()
    normal = abs(gradients(1)[0]) > 1e-6  # below, epsilon stands at another place
    oracle.assert_close(state[:LENGTH][normal], wanted[normal], 3e-6)
