"""Winograd's transforms as operations on register tiles: to the points of a product of polynomials, and back. See `winograd`.

A tile's rows are the values that go in, its columns registers of independent lanes. The matrices are constants of the machine
code: zeros cost nothing, and what two points p and -p have in common is computed once.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from distsgd.kernels import vector, winograd
from distsgd.kernels.tile import Tile, cells_of, pack
from distsgd.kernels.vector import LANES


def _linear(builder: Any, factors: np.ndarray, cells: Sequence[Any]) -> Any:
    """The sum of factors times cells, first to last; zeros are left out."""
    total = None
    for factor, cell in zip(factors.tolist(), cells, strict=True):
        if factor == 0:
            continue
        constant = ir.Constant(vector.REGISTER, [ir.Constant(vector.VALUE, factor)] * vector.VECTOR)
        if total is None:
            total = cell if factor == 1 else builder.fmul(constant, cell)
        elif abs(factor) == 1:
            total = (builder.fadd if factor == 1 else builder.fsub)(total, cell)
        else:
            total = vector.multiply_add(builder, constant, cell, total)
    return total


def _opposite(matrix: np.ndarray) -> list[int]:
    """The rows p that, with the next one, belong to two points of opposite sign: equal but for the sign of every second factor."""
    return [p for p in range(1, len(matrix) - 1, 2) if (abs(matrix[p]) == abs(matrix[p + 1])).all()]


def _to_points(builder: Any, matrix: np.ndarray, cells: Sequence[Any]) -> list[Any]:
    """matrix @ cells, where rows are points: those of opposite sign are the sum and the difference of two halves."""
    points: list[Any] = [None] * len(matrix)
    for p in _opposite(matrix):
        even, odd = (_linear(builder, (matrix[p] + sign * matrix[p + 1]) / 2, cells) for sign in (1, -1))
        points[p : p + 2] = builder.fadd(even, odd), builder.fsub(even, odd)
    return [_linear(builder, row, cells) if x is None else x for x, row in zip(points, matrix, strict=True)]


def _from_points(builder: Any, matrix: np.ndarray, cells: Sequence[Any]) -> list[Any]:
    """matrix @ cells, where columns are points: the sum and the difference of those of opposite sign are used instead."""
    cells, matrix = list(cells), matrix.copy()
    for p in _opposite(matrix.T):
        cells[p : p + 2] = (of(*cells[p : p + 2]) for of in (builder.fadd, builder.fsub))
        matrix[:, p : p + 2] = matrix[:, p : p + 2] @ [[0.5, 0.5], [0.5, -0.5]]
    return [_linear(builder, row, cells) for row in matrix]


def _along_columns(way: Any, matrix: np.ndarray, tile: Tile, builder: Any, value: Any) -> Any:
    """A tile of which every column is transformed."""
    cells = cells_of(builder, value)
    columns = [way(builder, matrix, cells[c :: tile.columns]) for c in range(tile.columns)]
    return pack(builder, [column[r] for r in range(len(matrix)) for column in columns])


def _matrices(outputs: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of outputs and inputs of `winograd.transforms`, in float64; inputs follow from the number of points alone."""
    of_outputs, _, of_inputs = winograd.transforms(outputs, points - outputs + 1)
    return of_outputs.astype(np.float64), of_inputs.astype(np.float64)


@intrinsic
def inputs_to_points(typing, tile):
    """A tile of as many points as it has rows of inputs."""

    def generate(context, builder, signature, args):
        return _along_columns(_to_points, _matrices(2, tile.rows)[1], tile, builder, args[0])

    return tile(tile), generate


@intrinsic
def outputs_from_points(typing, tile, outputs):
    """A tile of outputs, so many as the second has rows, from one of points."""
    made = Tile(outputs.rows, tile.columns)

    def generate(context, builder, signature, args):
        return _along_columns(_from_points, _matrices(made.rows, tile.rows)[0], tile, builder, args[0])

    return made(tile, outputs), generate


@intrinsic
def slopes_to_points(typing, tile, points):
    """A tile of as many points as the second has rows, from one of outputs' slopes: the dual of `outputs_from_points`."""
    made = Tile(points.rows, tile.columns)

    def generate(context, builder, signature, args):
        matrix = _matrices(tile.rows, made.rows)[0].T
        return _along_columns(_to_points, matrix, tile, builder, args[0])

    return made(tile, points), generate


def _of_filters(taps: int, points: int) -> np.ndarray:
    """The matrix of filters of `winograd.transforms`, in float64."""
    return winograd.transforms(points - taps + 1, taps)[1].astype(np.float64)


@intrinsic
def filters_to_points(typing, tile, points):
    """A tile of as many points as the second has rows, from one of a filter's taps."""
    made = Tile(points.rows, tile.columns)

    def generate(context, builder, signature, args):
        return _along_columns(_to_points, _of_filters(tile.rows, made.rows), tile, builder, args[0])

    return made(tile, points), generate


@intrinsic
def filters_from_points(typing, tile, taps):
    """A tile of taps, so many as the second has rows, from one of points: the dual of `filters_to_points`."""
    made = Tile(taps.rows, tile.columns)

    def generate(context, builder, signature, args):
        return _along_columns(_from_points, _of_filters(made.rows, tile.rows).T, tile, builder, args[0])

    return made(tile, taps), generate


@intrinsic
def multiply_pixels(typing, tile, outputs, x, place, point, weights, first):
    """tile[p, c] += sum over s of weights[first + p * taps + s] * x[place + p * point + (c + s) * LANES : ...].

    A row is a point, a column a pixel. `outputs`, a tile, tells by its rows how many outputs a band has: a filter is as wide as
    points - outputs + 1, and as high.
    """
    taps = tile.rows - outputs.rows + 1

    def generate(context, builder, signature, args):
        cells = cells_of(builder, args[0])
        pixels = vector.address(context, builder, x, args[2], args[3])
        weight = vector.address(context, builder, weights, args[5], args[6])
        for p in range(tile.rows):
            vector.keep_order(builder)
            factors = vector.splats(builder, weight, taps)
            for seen, pixel in enumerate(vector.loads(builder, pixels, tile.columns + taps - 1, LANES)):
                for c in range(max(0, seen - taps + 1), min(tile.columns, seen + 1)):
                    i = p * tile.columns + c
                    cells[i] = vector.multiply_add(builder, factors[seen - c], pixel, cells[i])
            pixels = builder.gep(pixels, [args[4]])
            weight = builder.gep(weight, [ir.Constant(vector.INDEX, taps)])
        return pack(builder, cells)

    return tile(tile, outputs, x, place, point, weights, first), generate
