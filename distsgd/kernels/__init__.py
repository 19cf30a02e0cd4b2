"""Numba kernels: arrays in, arrays out. Importing this package compiles them, or loads them from the node's cache."""

from distsgd.kernels.compiled import filled_once

with filled_once():
    from distsgd.kernels import batch, fixedpoint, loss, order, pairs, pool, rows, tile, update

__all__ = ["batch", "fixedpoint", "loss", "order", "pairs", "pool", "rows", "tile", "update"]
