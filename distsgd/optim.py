"""Optimizers over one flat state: the parameters, and behind them the optimizer's moments, each as long as the parameters.

A step follows from the state, the gradient and the step's number in the experiment, counted from 1: nothing else is kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distsgd import config
from distsgd.kernels import update
from distsgd.kernels.compiled import FLOAT
from distsgd.threads import Team

Rate = Callable[[int], float]
"""The learning rate of the step of that number."""
Tensors = Sequence[tuple[int, bool]]
"""Length of each tensor of the parameters, and whether weight decay is for it."""


def learning_rate(settings: config.Optimizer, number: int, steps: int, epochs: int, workers: int) -> float:
    """The learning rate of the step of that number in a run of so many epochs of `steps` steps, by so many workers.

    A function of these alone, by additions, multiplications and square roots: the same on any rank and any machine.
    """
    many = {"none": 1.0, "linear": float(workers), "sqrt": math.sqrt(workers)}[settings.scale]
    warmup = settings.warmup * steps
    warm = number / warmup if number < warmup else 1.0
    return settings.learning_rate * many * warm * _share(settings, number - 1, steps, epochs * steps)


def _share(settings: config.Optimizer, done: int, steps: int, all_steps: int) -> float:
    """What a schedule leaves of the learning rate after so many steps."""
    if settings.schedule == "step":
        return math.prod([settings.step_factor] * (done // steps // settings.step_epochs))
    warmup = settings.warmup * steps
    if settings.schedule == "constant" or done <= warmup:
        return 1.0
    cosine = _sine(math.pi * (0.5 - (done - warmup) / (all_steps - warmup)))
    return settings.final + (1 - settings.final) * (1 + cosine) / 2


def _sine(x: float) -> float:
    """sin(x) for |x| up to pi / 2 by its series: the C library's may differ in the last bit from machine to machine."""
    total = term = x
    for n in range(2, 24, 2):
        term *= -x * x / (n * (n + 1))
        total += term
    return total


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum: v = momentum * v + g, p -= learning_rate * v; Nesterov's: p -= learning_rate *
    (g + momentum * v). As in PyTorch, weight decay is a part of the gradient (an L2 penalty): g += weight_decay * p.
    """

    learning_rate: float
    momentum: float
    nesterov: bool = False
    weight_decay: float = 0.0
    clip: float | None = None
    moments = 1
    powers = (1,)  # what each moment's magnitude is, as a power of the gradient's

    def bind(
        self,
        state: np.ndarray,
        gradient: np.ndarray,
        tensors: Tensors = (),
        rate: Rate | None = None,
        team: Team | None = None,
    ) -> "SgdSteps":
        """Steps that change `state` in place by `gradient`. No tensors: one, which is decayed; no rate: always
        `learning_rate`; no team: the thread that calls does all."""
        return SgdSteps(self, state, gradient, tensors, rate, team or Team())


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015). Weight decay is apart from the gradient, as in AdamW (Loshchilov & Hutter 2019), and goes with the
    learning rate, as in PyTorch: p -= learning_rate * weight_decay * p.
    """

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float = 0.0
    clip: float | None = None
    moments = 2
    powers = (1, 2)

    def bind(
        self,
        state: np.ndarray,
        gradient: np.ndarray,
        tensors: Tensors = (),
        rate: Rate | None = None,
        team: Team | None = None,
    ) -> "AdamSteps":
        """Steps that change `state` in place by `gradient`. No tensors: one, which is decayed; no rate: always
        `learning_rate`; no team: the thread that calls does all."""
        return AdamSteps(self, state, gradient, tensors, rate, team or Team())


class Clipping:
    """Holds a gradient's 2-norm, over all parameters, to at most `most`."""

    def __init__(self, gradient: np.ndarray, most: float | None) -> None:
        self._gradient, self._most, self._chains = gradient, most, np.zeros(update.CHAINS)

    def share(self) -> float:
        """What the gradient, as it stands, is to be multiplied with; NaN, which shows in all parameters, where it is not finite."""
        if self._most is None:
            return 1.0
        norm = update.norm(self._gradient, self._chains)
        if norm <= self._most:
            return 1.0
        return self._most / norm if math.isfinite(norm) else math.nan


class SgdSteps:
    """SGD at work on one state."""

    def __init__(
        self,
        settings: Sgd,
        state: np.ndarray,
        gradient: np.ndarray,
        tensors: Tensors,
        rate: Rate | None,
        team: Team,
    ) -> None:
        self.clipping = Clipping(gradient, settings.clip)
        self._rate = rate or (lambda number: settings.learning_rate)
        self._rates = np.array([0, settings.momentum, 1, settings.weight_decay], FLOAT)
        parts = _parts(settings, gradient.size, tensors)
        arguments = (*_vectors(state, gradient), self._rates, settings.nesterov, *parts)
        self._change = team.bound([(update.sgd, arguments)])

    def step(self, number: int) -> None:
        """The step of that number."""
        self._rates[0], self._rates[2] = self._rate(number), self.clipping.share()
        self._change()


class AdamSteps:
    """Adam at work on one state. The number of a step is the experiment's, not the worker's, so that all states age alike."""

    def __init__(
        self,
        settings: Adam,
        state: np.ndarray,
        gradient: np.ndarray,
        tensors: Tensors,
        rate: Rate | None,
        team: Team,
    ) -> None:
        beta1, beta2 = settings.beta1, settings.beta2
        self.clipping, self._settings = Clipping(gradient, settings.clip), settings
        self._rate = rate or (lambda number: settings.learning_rate)
        self._rates = np.array([0, beta1, 1 - beta1, beta2, 1 - beta2, 0, settings.epsilon, 1, 0], FLOAT)
        parts = _parts(settings, gradient.size, tensors)
        arguments = (*_vectors(state, gradient), self._rates, *parts)
        self._change = team.bound([(update.adam, arguments)])

    def step(self, number: int) -> None:
        """The step of that number: it sets the bias correction too."""
        settings, rate = self._settings, self._rate(number)
        self._rates[0] = rate / (1 - settings.beta1**number)
        self._rates[5] = (1 - settings.beta2**number) ** -0.5
        self._rates[7], self._rates[8] = self.clipping.share(), rate * settings.weight_decay
        self._change()


def _vectors(state: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, ...]:
    """Parameters, gradient, moments."""
    parameters, *moments = state.reshape(-1, gradient.size)
    return parameters, gradient, *moments


def _parts(settings: Sgd | Adam, size: int, tensors: Tensors) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and decayed, as kernels want them: all in one where no difference is made."""
    parts = (tensors or [(size, True)]) if settings.weight_decay else [(size, False)]
    lengths, decayed = zip(*parts, strict=True)
    return np.array(lengths, np.int64), np.array(decayed, np.bool_)


Optimizer = Sgd | Adam
Steps = SgdSteps | AdamSteps
