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
FEWEST = 5
"""Points that a piece has at least."""
WORTH = 0.8
"""A break is found where it lowers the mean error to this part of what it was, and by LEAST at least."""
LEAST = 0.002
BOOTSTRAPS = 40


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


def fit(points: Sequence[Point], seed: int = 0) -> Fit:
    """Fit all points; breaks are looked for where there are enough of them. ValueError for none."""
    if not points:
        raise ValueError("there are no points to fit")
    points = sorted(points, key=lambda point: point.step)
    rng = np.random.default_rng(seed)
    return Fit(_pieces(points, rng), _spread(points, rng))


def _pieces(points: Sequence[Point], rng: np.random.Generator) -> tuple[Piece, ...]:
    parts = _split(points)
    limits = [float((a[-1].step * b[0].step) ** 0.5) for a, b in itertools.pairwise(parts)]
    return tuple(_piece(part, limit, rng) for part, limit in zip(parts, [*limits, None], strict=True))


def _piece(points: Sequence[Point], limit: float | None, rng: np.random.Generator) -> Piece:
    constants = _constants(points)
    draws = rng.integers(len(points), size=(BOOTSTRAPS, len(points)))
    errors = np.std([_constants([points[i] for i in draw]) for draw in draws], axis=0)
    return Piece(limit, *map(float, constants), *map(float, errors))


def _split(points: Sequence[Point]) -> list[Sequence[Point]]:
    """Cut in two where that makes the error smallest, if it is worth it; and those again."""
    now = _error(points)
    cuts = [n for n in range(FEWEST, len(points) - FEWEST + 1) if points[n - 1].step < points[n].step]
    if not cuts:
        return [points]
    errors = [
        (_error(points[:cut]) * cut + _error(points[cut:]) * (len(points) - cut)) / len(points)
        for cut in cuts
    ]
    best = int(np.argmin(errors))
    if errors[best] > WORTH * now or errors[best] > now - LEAST:
        return [points]
    return [*_split(points[: cuts[best]]), *_split(points[cuts[best] :])]


def _error(points: Sequence[Point]) -> float:
    """The mean relative error of these points' own fit."""
    return float(np.mean(np.abs(_residuals(points, _constants(points)))))


def _residuals(points: Sequence[Point], constants: Doubles) -> Doubles:
    known, seconds = (np.array([getattr(point, name) for point in points]) for name in ("known", "seconds"))
    return np.asarray((_terms(points) @ constants + known) / seconds - 1)


def _terms(points: Sequence[Point]) -> Doubles:
    return np.array([[1.0, point.terms.startups, point.terms.sent] for point in points])


def _constants(points: Sequence[Point]) -> Doubles:
    """once, alpha and beta of the least sum of relative errors, not of squares: outliers weigh little. beta is at least zero."""
    seconds = np.array([point.seconds for point in points])
    terms = _terms(points) / seconds[:, None]
    if len({point.terms.startups for point in points}) == 1:
        terms[:, 0] = 0
    wanted = 1 - np.array([point.known for point in points]) / seconds
    weights, constants = np.ones(len(points)), np.zeros(3)
    for _ in range(12):
        constants = _least_squares(terms * weights[:, None], wanted * weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(terms @ constants - wanted), 1e-3))
    return constants


def _least_squares(terms: Doubles, wanted: Doubles) -> Doubles:
    scale = np.sqrt((terms * terms).sum(0))
    scale[scale == 0] = 1
    constants = np.linalg.lstsq(terms / scale, wanted, rcond=None)[0] / scale
    if constants[2] < 0:
        constants[2] = 0
        constants[:2] = np.linalg.lstsq(terms[:, :2] / scale[:2], wanted, rcond=None)[0] / scale[:2]
    return np.asarray(constants)


def _spread(points: Sequence[Point], rng: np.random.Generator) -> float:
    """Relative, of points that a fit has not seen: every fourth is left out, in turn, at random."""
    groups = rng.permutation(len(points)) % 4
    errors = []
    for group in range(4):
        known = [point for point, g in zip(points, groups, strict=True) if g != group]
        left_out = [point for point, g in zip(points, groups, strict=True) if g == group]
        if len(known) < 2 or not left_out:
            continue
        parts = _split(known)
        for point in left_out:
            near = min(parts, key=lambda part: _distance(part, point.step))
            errors += list(_residuals([point], _constants(near)))
    return float(np.quantile(np.abs(errors), 0.9) / NORMAL_90) if errors else 0.5


def _distance(part: Sequence[Point], step: float) -> float:
    return max(part[0].step - step, step - part[-1].step, 0.0)
