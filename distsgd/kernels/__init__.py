"""Numba kernels: arrays in, arrays out. Importing this package loads them from the node's cache, which the first import fills."""

import importlib

from distsgd.kernels.compiled import filled_once, modules_to_compile

with filled_once(
    "rows band_rows normalization fixedpoint together update",
    "pairs band_pairs patches pool order loss batch confusion probe extremes",
):
    if modules := modules_to_compile():
        for module in modules:
            importlib.import_module(f"distsgd.kernels.{module}")
    else:
        from distsgd.kernels import (
            band_pairs,
            band_rows,
            batch,
            confusion,
            extremes,
            fixedpoint,
            loss,
            normalization,
            order,
            pairs,
            patches,
            pool,
            probe,
            rows,
            taps,
            tile,
            together,
            update,
            winograd,
        )

__all__ = [
    "band_pairs",
    "band_rows",
    "batch",
    "confusion",
    "extremes",
    "fixedpoint",
    "loss",
    "normalization",
    "order",
    "pairs",
    "patches",
    "pool",
    "probe",
    "rows",
    "taps",
    "tile",
    "together",
    "update",
    "winograd",
]
