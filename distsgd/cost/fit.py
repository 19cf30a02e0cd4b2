"""Start-up and per-byte seconds from measured points, by least relative error, in as many pieces as the points show.

A point's seconds are once + startups * alpha + sent * beta + known. These may change where a step's message passes some length: a
protocol's limit, or a cache's. once and alpha may come out below zero, as where a network that was idle lets the first bytes pass
early; then no less than half of sent * beta is predicted. Where all points have as many startups, once is zero.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
SAME, RIDGE = 1e-9, 1e-12 * np.eye(3)
"""Startups that differ by less; what keeps equations solvable whose terms, of size 1, say the same."""
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
            "pieces": [dict(vars(piece)) for piece in self.pieces],
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

    def part(self, rows: Any) -> "_Table":
        return _Table(self.steps[rows], self.terms[rows], self.wanted[rows])

    def errors(self, constants: Doubles) -> Doubles:
        """Relative errors of predictions by these constants."""
        return np.asarray(self.terms @ constants - self.wanted)


def fit(points: Sequence[Point], seed: int = 0) -> Fit:
    """Fit all points; breaks are looked for where there are enough of them. ValueError for none."""
    if not points:
        raise ValueError("there are no points to fit")
    return _fitted(tuple(sorted(points, key=lambda point: point.step)), seed)


@lru_cache(maxsize=32)
def _fitted(points: tuple[Point, ...], seed: int) -> Fit:
    """Both reductions of an algorithm of ours come with the same points, one after the other."""
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
    drawn = np.array([np.bincount(draw, minlength=count) for draw in draws])
    errors = np.std(_constants(table, drawn), axis=0)
    return Piece(limit, *map(float, _constant(table)), *map(float, errors))


def _split(table: _Table) -> list[_Table]:
    """Cut in two where that makes the error smallest, if it is worth it; and those again."""
    now, fewest = float(_errors(table, np.ones((1, len(table.steps))))[0]), _fewest(table)
    cuts = np.unique(table.steps, return_index=True)[1][fewest : -fewest + 1]
    if not len(cuts) or now < LEAST:
        return [table]
    stride = -(-len(cuts) // CUTS)
    near = int(_cut_errors(table, cuts[::stride]).argmin()) * stride
    around = cuts[max(near - stride + 1, 0) : near + stride]
    errors = _cut_errors(table, around)
    if errors.min() > min(WORTH * now, now - LEAST):
        return [table]
    best = int(around[errors.argmin()])
    return [*_split(table.part(slice(best))), *_split(table.part(slice(best, None)))]


def _cut_errors(table: _Table, cuts: NDArray[np.int64]) -> Doubles:
    first = np.arange(len(table.steps)) < cuts[:, np.newaxis]
    share, both = first.mean(axis=1), _errors(table, np.concatenate([first, ~first]))
    return np.asarray(share * both[: len(cuts)] + (1 - share) * both[len(cuts) :])


def _fewest(table: _Table) -> int:
    startups = table.terms[:, 1] / table.terms[:, 0]
    return FEWEST_OF_THREE if np.ptp(startups) >= SAME else FEWEST


def _errors(table: _Table, counts: NDArray[Any]) -> Doubles:
    """(choices,) the mean relative error of each choice's own fit; see _constants."""
    away = np.abs(_constants(table, counts) @ table.terms.T - table.wanted)
    return np.asarray((away * counts).sum(axis=1) / counts.sum(axis=1))


def _constant(table: _Table) -> Doubles:
    """Of all points."""
    return np.asarray(_constants(table, np.ones((1, len(table.steps))))[0])


def _constants(table: _Table, counts: NDArray[Any]) -> Doubles:
    """(choices, 3): once, alpha and beta of the least sum of relative errors, not of squares: outliers weigh little.

    counts: (choices, points) how often each point counts. beta is at least zero; once is, where all have as many startups.
    """
    startups = table.terms[:, 1] / table.terms[:, 0]
    most = np.where(counts > 0, startups, -np.inf).max(axis=1)
    least = np.where(counts > 0, startups, np.inf).min(axis=1)
    free = np.ones((len(counts), 3))
    free[:, 0] = most - least >= SAME
    weights, terms = counts.astype(np.float64), table.terms
    products = (terms[:, :, np.newaxis] * terms[:, np.newaxis]).reshape(-1, 9)
    sides = terms * table.wanted[:, np.newaxis]
    for _ in range(ROUNDS):
        constants = _least_squares((weights @ products).reshape(-1, 3, 3), weights @ sides, free)
        weights = counts / np.maximum(np.abs(constants @ terms.T - table.wanted), 1e-3)
    return constants


def _least_squares(products: Doubles, sides: Doubles, free: Doubles) -> Doubles:
    """From normal equations, a choice each. free: (choices, 3), 0 for constants that are zero."""
    constants = _solved(products, sides, free)
    below = constants[:, 2] < 0
    if below.any():
        constants[below] = _solved(products[below], sides[below], free[below] * [1, 1, 0])
    return constants


def _solved(products: Doubles, sides: Doubles, free: Doubles) -> Doubles:
    """The constants of normal equations; of terms that say the same each gets a part."""
    sizes = np.sqrt(products[:, [0, 1, 2], [0, 1, 2]])
    scale = free / np.where(sizes > 0, sizes, 1)
    scaled = products * scale[:, :, None] * scale[:, None] + RIDGE
    return np.asarray(np.linalg.solve(scaled, (sides * scale)[..., None])[..., 0] * scale)


def _spread(table: _Table, rng: np.random.Generator) -> float:
    """Relative, of points that a fit has not seen: every fourth is left out, in turn, at random."""
    groups = rng.permutation(len(table.steps)) % 4
    errors: list[float] = []
    for group in range(4):
        known, left_out = table.part(groups != group), table.part(groups == group)
        if len(known.steps) > 1:
            parts = _split(known)
            fitted = [_constant(part) for part in parts]
            errors += [
                _nearest_error(parts, fitted, left_out.part([row])) for row in range(len(left_out.steps))
            ]
    return float(np.quantile(np.abs(errors), 0.9) / NORMAL_90) if errors else UNKNOWN


def _nearest_error(parts: list[_Table], fitted: list[Doubles], one: _Table) -> float:
    step = one.steps[0]
    away = [max(part.steps[0] - step, step - part.steps[-1], 0.0) for part in parts]
    return float(one.errors(fitted[int(np.argmin(away))])[0])
