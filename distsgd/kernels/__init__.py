"""Numba kernels: arrays in, arrays out. Importing this package loads them from the node's cache, which the first import fills.

To be read in this order:

- `vector`, the processor's registers and to what a batch is rounded up, and `tile`, the register tile, with its picture (and
  `tile_bytes`, `tile_windows`);
- `taps` and `rows`: which inputs an output sees, and the one loop that sums them, of convolutions, of dense layers, and of their
  gradients to data; `pairs`, its dual, of gradients to weights;
- `winograd` and `points`: the same sums with fewer multiplications, by bands of rows (`band_rows`, `band_pairs`; of few
  channels `shallow_rows`, `shallow_pairs`) or by `patches` (`patch_filters`, `patch_outputs`);
- what lies between: `windows` and `pool`, `normalization`, `order`, `loss`, `update`, and `batch`, which images come in by;
  `confusion` and `extremes` look at what came out;
- averages: `fixedpoint`, and `together` where ranks share memory; `threads` and `waiting`: lists of kernels, for one thread of a
  rank or several;
- `compiled`: how each is compiled and kept. `probe` and `scalar` are what the others are measured against.

Tried, measured and dropped: tiles of 12 and 16 rows of one register; tiles of HIGH rows in `patches`; pooling a few channels
while the nearest cache holds them, and fetching ahead where pooled rows go; windows of 2x2 without loops in `pool`; chunks of
weights' gradients that fit the nearest cache where they lie by rows; other distances to fetch ahead, and no fetching of rows
on pages of their own, nor of slopes in dot products, nor of what others add to an average; rectifying by one instruction; the
place of a maximum kept through the loss's loop; huge pages; in registers, images innermost in place of LANES at a time, or the
gradient to weights without pooling; by patches, inputs fetched ahead, and for threads, slopes and inputs of a piece shared out
by channels and filters, where each core waits for lines that the other has just written; with AVX2 longer chunks of taps,
slopes of sixteen pixels, and fetching ahead into the nearest cache. None was faster in a whole step, some
were slower by 5 %.
"""

import importlib

from distsgd.kernels.compiled import filled_once, modules_to_compile

with filled_once(
    (
        "rows band_rows normalization fixedpoint together update",
        "pairs band_pairs shallow_pairs shallow_rows patches patch_filters patch_outputs pool order loss batch confusion probe"
        " extremes",
    ),
    ("threads",),  # whose code names all others
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
            patch_filters,
            patch_outputs,
            patches,
            pool,
            probe,
            rows,
            shallow_pairs,
            shallow_rows,
            taps,
            threads,
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
    "patch_filters",
    "patch_outputs",
    "patches",
    "pool",
    "probe",
    "rows",
    "shallow_pairs",
    "shallow_rows",
    "taps",
    "threads",
    "tile",
    "together",
    "update",
    "winograd",
]
