"""Numba kernels: arrays in, arrays out. Importing this package loads them from the node's cache, which the first import fills."""

import importlib

from distsgd.kernels.compiled import filled_once, modules_to_compile

with filled_once(("rows fixedpoint update", "pairs pool order loss batch confusion probe"), ("winograd",)):
    if modules := modules_to_compile():
        for module in modules:
            importlib.import_module(f"distsgd.kernels.{module}")
    else:
        from distsgd.kernels import (
            batch,
            confusion,
            fixedpoint,
            loss,
            order,
            pairs,
            pool,
            probe,
            rows,
            taps,
            tile,
            update,
            winograd,
        )

__all__ = [
    "batch",
    "confusion",
    "fixedpoint",
    "loss",
    "order",
    "pairs",
    "pool",
    "probe",
    "rows",
    "taps",
    "tile",
    "update",
    "winograd",
]
