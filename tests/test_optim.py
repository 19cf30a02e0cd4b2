"""Optimizers over a flat state against float64, step by step."""

import numpy as np
import oracle
import pytest

from distsgd.optim import Adam, Optimizer, Sgd

LENGTH = 37


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
    size, tiny = np.zeros(LENGTH), 2.0**-140  # squares of the smallest gradients are subnormal
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


@pytest.mark.parametrize("optimizer", [Sgd(0.1, 0.9), Adam(0.1, 0.9, 0.99, 1e-8)])
def test_steps_write_the_state_in_place_and_leave_the_gradient(optimizer: Optimizer) -> None:
    state, gradient = given(optimizer)
    gradient[:] = 1
    before = state.copy()
    optimizer.bind(state, gradient).step(1)
    assert (state != before).all()
    assert (gradient == 1).all()


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


def test_adam_as_pytorch_has_it() -> None:
    torch = pytest.importorskip("torch", reason="NO SECOND OPINION: PyTorch is not installed")
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
