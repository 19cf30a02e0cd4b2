"""Start-up and per-byte seconds from measured points, by least relative error, in as many pieces as the points show.

A point's seconds are once + startups * alpha + sent * beta + known. These may change where a step's message passes some length: a
protocol's limit, or a cache's. once and alpha may come out below zero, as where a network that was idle lets the first bytes pass
early; then no less than half of sent * beta is predicted. Where all points have as many startups, once is zero.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsgd.cost.algorithms import Terms
from distsgd.cost.estimate import NORMAL_90

Doubles = NDArray[np.float64]
FEWEST, FEWEST_OF_THREE = 3, 5
"""Lengths of steps that a piece has at least: for two constants, and for three."""
WORTH = 0.8
"""A break is found where it lowers the mean error to this part of what it was, and by LEAST at least."""
LEAST = 0.002
CUTS, ROUNDS, BOOTSTRAPS = 12, 10, 40
"""How many places for a break are tried, how often points are weighed anew, and how often they are drawn anew for errors."""
UNKNOWN = 0.5
"""The spread where there are too few points to tell."""


@dataclass(frozen=True)
class Point:
    """What was measured of one sum. `known`: seconds of it that need no fitting."""

    terms: Terms
    seconds: float
    known: float = 0.0

    @property
    def step(self) -> float:
        """Bytes of a step's message."""
        return self.terms.sent / self.terms.startups


@dataclass(frozen=True)
class Piece:
    """Constants for steps of up to so many bytes (None: of any length), and their standard errors."""

    up_to: float | None
    once: float
    alpha: float
    beta: float
    once_error: float
    alpha_error: float
    beta_error: float


@dataclass(frozen=True)
class Fit:
    """Pieces in the order of their limits.

    spread: the relative standard deviation of points that were left out of a fit.
    """

    pieces: tuple[Piece, ...]
    spread: float

    def seconds(self, terms: Terms) -> float:
        """Of one sum, without what was `known`."""
        if not terms.startups:
            return 0.0
        step = terms.sent / terms.startups
        piece = next(piece for piece in self.pieces if piece.up_to is None or step <= piece.up_to)
        seconds = piece.once + terms.startups * piece.alpha + terms.sent * piece.beta
        return max(seconds, 0.5 * terms.sent * piece.beta)

    def to_json(self) -> dict[str, Any]:
        """As a file holds it."""
        return {
            "pieces": [vars(piece) for piece in self.pieces],
            "spread": self.spread,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Fit":
        """What `to_json` gave."""
        return cls(tuple(Piece(**piece) for piece in content["pieces"]), content["spread"])


@dataclass(frozen=True)
class _Table:
    """Points in the order of their steps. terms (points, 3) and wanted (points,) are parts of a point's seconds."""

    steps: Doubles
    terms: Doubles
    wanted: Doubles

    @property
    def varied(self) -> bool:
        """Whether some have more startups than others."""
        return float(np.ptp(self.terms[:, 1] / self.terms[:, 0])) >= 1e-9

    def part(self, rows: Any) -> "_Table":
        return _Table(self.steps[rows], self.terms[rows], self.wanted[rows])

    def errors(self, constants: Doubles) -> Doubles:
        """Relative errors of predictions by these constants."""
        return np.asarray(self.terms @ constants - self.wanted)


def fit(points: Sequence[Point], seed: int = 0) -> Fit:
    """Fit all points; breaks are looked for where there are enough of them. ValueError for none."""
    if not points:
        raise ValueError("there are no points to fit")
    points = sorted(points, key=lambda point: point.step)
    seconds = np.array([point.seconds for point in points])
    terms = np.array([[1.0, point.terms.startups, point.terms.sent] for point in points]) / seconds[:, None]
    wanted = 1 - np.array([point.known for point in points]) / seconds
    table = _Table(np.array([point.step for point in points]), terms, wanted)
    rng = np.random.default_rng(seed)
    return Fit(_pieces(table, rng), _spread(table, rng))


def _pieces(table: _Table, rng: np.random.Generator) -> tuple[Piece, ...]:
    parts = _split(table)
    limits = [float((a.steps[-1] * b.steps[0]) ** 0.5) for a, b in itertools.pairwise(parts)]
    return tuple(_piece(part, limit, rng) for part, limit in zip(parts, [*limits, None], strict=True))


def _piece(table: _Table, limit: float | None, rng: np.random.Generator) -> Piece:
    count = len(table.steps)
    draws = rng.integers(count, size=(BOOTSTRAPS, count))
    errors = np.std([_constants(table.part(draw)) for draw in draws], axis=0)
    return Piece(limit, *map(float, _constants(table)), *map(float, errors))


def _split(table: _Table) -> list[_Table]:
    """Cut in two where that makes the error smallest, if it is worth it; and those again."""
    now, fewest = _error(table), FEWEST_OF_THREE if table.varied else FEWEST
    cuts = np.unique(table.steps, return_index=True)[1].tolist()[fewest : -fewest + 1]
    if not cuts or now < LEAST:
        return [table]
    stride = -(-len(cuts) // CUTS)
    near = int(np.argmin([_cut_error(table, cut) for cut in cuts[::stride]])) * stride
    around = cuts[max(near - stride + 1, 0) : near + stride]
    errors = [_cut_error(table, cut) for cut in around]
    best = around[int(np.argmin(errors))]
    if min(errors) > min(WORTH * now, now - LEAST):
        return [table]
    return [*_split(table.part(slice(best))), *_split(table.part(slice(best, None)))]


def _cut_error(table: _Table, cut: int) -> float:
    first, rest = table.part(slice(cut)), table.part(slice(cut, None))
    return (_error(first) * cut + _error(rest) * len(rest.steps)) / len(table.steps)


def _error(table: _Table) -> float:
    """The mean relative error of these points' own fit."""
    return float(np.mean(np.abs(table.errors(_constants(table)))))


def _constants(table: _Table) -> Doubles:
    """once, alpha and beta of the least sum of relative errors, not of squares: outliers weigh little. beta is at least zero."""
    terms, weights = table.terms.copy(), np.ones(len(table.steps))
    if not table.varied:
        terms[:, 0] = 0
    for _ in range(ROUNDS):
        constants = _least_squares(terms * weights[:, None], table.wanted * weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(terms @ constants - table.wanted), 1e-3))
    return constants


def _least_squares(terms: Doubles, wanted: Doubles) -> Doubles:
    scale = np.sqrt((terms * terms).sum(0))
    scale[scale == 0] = 1
    constants = np.linalg.lstsq(terms / scale, wanted, rcond=None)[0] / scale
    if constants[2] < 0:
        constants[2] = 0
        constants[:2] = np.linalg.lstsq(terms[:, :2] / scale[:2], wanted, rcond=None)[0] / scale[:2]
    return np.asarray(constants)


def _spread(table: _Table, rng: np.random.Generator) -> float:
    """Relative, of points that a fit has not seen: every fourth is left out, in turn, at random."""
    groups = rng.permutation(len(table.steps)) % 4
    errors: list[float] = []
    for group in range(4):
        known, left_out = table.part(groups != group), table.part(groups == group)
        if len(known.steps) > 1:
            parts = _split(known)
            fitted = [_constants(part) for part in parts]
            errors += [
                _nearest_error(parts, fitted, left_out.part([row])) for row in range(len(left_out.steps))
            ]
    return float(np.quantile(np.abs(errors), 0.9) / NORMAL_90) if errors else UNKNOWN


def _nearest_error(parts: list[_Table], fitted: list[Doubles], one: _Table) -> float:
    step = one.steps[0]
    away = [max(part.steps[0] - step, step - part.steps[-1], 0.0) for part in parts]
    return float(one.errors(fitted[int(np.argmin(away))])[0])
