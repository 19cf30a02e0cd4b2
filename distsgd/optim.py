"""Optimizers over one flat state: the parameters, and behind them the optimizer's moments, each as long as the parameters."""

from dataclasses import dataclass

import numpy as np

from distsgd.kernels import update


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum: v = momentum * v + g, p -= learning_rate * v."""

    learning_rate: float
    momentum: float
    moments = 1
    powers = (1,)  # what each moment's magnitude is, as a power of the gradient's

    def bind(self, state: np.ndarray, gradient: np.ndarray) -> "SgdSteps":
        """Steps that change `state` in place by `gradient`."""
        return SgdSteps(self, *_parts(state, gradient))


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015)."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    moments = 2
    powers = (1, 2)

    def bind(self, state: np.ndarray, gradient: np.ndarray) -> "AdamSteps":
        """Steps that change `state` in place by `gradient`."""
        return AdamSteps(self, *_parts(state, gradient))


def _parts(state: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    parameters, *moments = state.reshape(-1, gradient.size)
    return gradient, parameters, moments


class SgdSteps:
    """SGD at work on one state."""

    def __init__(
        self, settings: Sgd, gradient: np.ndarray, parameters: np.ndarray, moments: list[np.ndarray]
    ) -> None:
        rates = np.array([settings.learning_rate, settings.momentum], np.float32)
        self._arguments = (parameters, gradient, *moments, rates)

    def step(self, number: int) -> None:
        """The step of that number, counted from 1."""
        update.sgd(*self._arguments)


class AdamSteps:
    """Adam at work on one state. The number of a step is the experiment's, not the worker's, so that all states age alike."""

    def __init__(
        self, settings: Adam, gradient: np.ndarray, parameters: np.ndarray, moments: list[np.ndarray]
    ) -> None:
        beta1, beta2 = settings.beta1, settings.beta2
        self._settings = settings
        self._rates = np.array([0, beta1, 1 - beta1, beta2, 1 - beta2, 0, settings.epsilon], np.float32)
        self._arguments = (parameters, gradient, *moments, self._rates)

    def step(self, number: int) -> None:
        """The step of that number, counted from 1: it sets the bias correction."""
        settings = self._settings
        self._rates[0] = settings.learning_rate / (1 - settings.beta1**number)
        self._rates[5] = (1 - settings.beta2**number) ** -0.5
        update.adam(*self._arguments)


Optimizer = Sgd | Adam
Steps = SgdSteps | AdamSteps
