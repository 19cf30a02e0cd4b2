"""How a kernel is shared out among threads: along which axes its arrays are cut, so that every value is made by one thread.

Never along an axis that is summed over, rows and images of a gradient to weights for example: the order of every sum, and so
every bit, stays what it is in one thread. (Patches are summed in runs that follow from shapes alone, whatever the number of
threads that take them: see `convolution_patches`.) Where there are two ways, the one whose largest part is smaller is taken.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from distsgd.kernels import (
    band_pairs,
    band_rows,
    normalization,
    order,
    pairs,
    patch_filters,
    patch_outputs,
    patches,
    pool,
    rows,
    shallow_pairs,
    shallow_rows,
    update,
)
from distsgd.kernels.pairs import CHANNELS
from distsgd.kernels.vector import LANES, TAPS
from distsgd.threads.turns import Call, Room

Given = dict[str, Any]
"""A kernel's arguments by name."""


def _nothing(given: Given, first: int, last: int) -> Given:
    return {}


@dataclass(frozen=True)
class Way:
    """A way to cut: `piece` pieces stay together."""

    axes: Mapping[str, int]
    """The axis along which each array is cut; there are as many pieces as the first is long there."""
    own: tuple[str, ...] = ()
    """Working memory of which each thread has its own."""
    piece: int = 1
    fits: Callable[[Given], bool] = field(default=lambda given: True)
    """Whether this is a way for these arguments."""
    more: Callable[[Given, int, int], Given] = field(default=_nothing)
    """Arguments that change otherwise, for pieces first..last."""
    repeated: float = 0.0
    """The part of the work, about, that every thread does for itself."""

    def count(self, given: Given) -> int:
        """How many pieces there are."""
        name, axis = next(iter(self.axes.items()))
        length: int = given[name].shape[axis]
        return length

    def ends(self, given: Given, threads: int) -> list[int]:
        """Where each thread's part ends."""
        count = self.count(given)
        blocks = -(-count // self.piece)
        return [min(count, blocks * (thread + 1) // threads * self.piece) for thread in range(threads)]

    def largest(self, given: Given, threads: int) -> float:
        """The largest part that any thread gets of the whole."""
        ends = self.ends(given, threads)
        part = float(max(np.diff([0, *ends]))) / max(1, ends[-1])
        return self.repeated + (1 - self.repeated) * part

    def part(self, given: Given, first: int, last: int, room: Room) -> Given:
        """The arguments for pieces first..last."""
        cut = {
            name: given[name][(slice(None),) * axis + (slice(first, last),)]
            for name, axis in self.axes.items()
        }
        return {
            **given,
            **{name: room(given[name]) for name in self.own},
            **cut,
            **self.more(given, first, last),
        }


def parts(call: Call, threads: int, rooms: list[Room]) -> list[Call | None]:
    """What each thread calls in place of a call; None: nothing."""
    kernel, arguments = call
    given = dict(zip(_names(kernel), arguments, strict=True))
    ways = [way for way in WAYS.get(kernel, ()) if way.fits(given)]
    if not ways:
        return [call, *[None] * (threads - 1)]
    best = min(ways, key=lambda way: way.largest(given, threads))
    ends, shared = best.ends(given, threads), []
    for first, last, room in zip([0, *ends], ends, rooms, strict=False):
        part = tuple(best.part(given, first, last, room).values())
        shared.append((kernel, part) if first < last else None)
    return shared


@cache
def _names(kernel: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kernel.py_func).parameters)


def _from(given: Given, first: int, last: int) -> Given:
    """Arrays that stay whole, or a place that random numbers depend on."""
    return {"first": first}


def _rows(given: Given, first: int, last: int) -> Given:
    """Rows of outputs of `sum_rows`."""
    return {"x": given["x"][first * given["step"] :]}


def _rows_of_windows(given: Given, first: int, last: int) -> Given:
    """Rows of windows, whose maxima it takes."""
    high = given["y"].shape[1]
    return {"bands": given["bands"][first * high : last * high], **_rows(given, first * high, last * high)}


def _bands(given: Given, first: int, last: int) -> Given:
    """Bands of rows of `sum_bands`."""
    high = len(given["outputs"])
    low, until = first * high, min(last * high, given["rows"])
    changed = {"x": given["x"][first * int(given["places"][high]) :], "rows": until - low}
    if _is_pooled(given):
        windows = slice(low // given["pool"], until // given["pool"])
        return {**changed, "pooled": given["pooled"][:, windows], "winner": given["winner"][:, windows]}
    return {**changed, "y": given["y"][:, low:until], "gate": given["gate"][:, low:until]}


def _shallow_rows(given: Given, first: int, last: int) -> Given:
    """Rows of `sum_shallow`, or of windows."""
    down = shallow_rows.SIDE if _is_pooled(given) else 1
    return {"x": given["x"][first * down * given["line"] :]}


def _channels(given: Given, first: int, last: int) -> Given:
    """Channels of `spread_patches`."""
    return {"x": given["x"][first * given["plane"] :]}


def _is_one_band(given: Given) -> bool:
    """Whether the patches of `spread_slopes` lie side by side."""
    return bool(given["slopes"].shape[1] == given["columns"])


def _columns(given: Given, first: int, last: int) -> Given:
    """Patches of its one band. Not filters: two cores that write neighbouring lines take them from each other."""
    return {
        "columns": last - first,
        "turned": given["turned"][:, first * patches.OUTPUTS : last * patches.OUTPUTS],
    }


def _points(given: Given, first: int, last: int) -> Given:
    """Points of `multiply_points`."""
    return {"spread": given["spread"][first * given["point"] :]}


def _pairs_at_points(given: Given, first: int, last: int) -> Given:
    """Points of `pair_points`."""
    slopes, spread = given["slopes"][first * given["point"] :], given["spread"][first * given["plane"] :]
    return {"slopes": slopes, "spread": spread}


def _blocks(given: Given, first: int, last: int) -> Given:
    """Blocks of taps of `sum_pairs`; the sums of lanes go with the first."""
    taps = slice(first * TAPS, last * TAPS)
    found = {"offsets": given["offsets"][taps], "places": given["places"][taps]}
    return found if first == 0 else {**found, "db": given["db"][:0]}


def _is_pooled(given: Given) -> bool:
    """Whether `y` is only room for the rows that maxima are taken of, or `dy` for those that they are spread over."""
    return bool(given["winner"].size)


def _where(pooled: bool) -> Callable[[Given], bool]:
    return lambda given: _is_pooled(given) == pooled


def _tensors(given: Given, first: int, last: int) -> Given:
    """Tensors, whole or in part, among the values first..last that an optimizer changes."""
    ends = np.clip(np.cumsum(given["lengths"]), first, last)
    lengths = np.diff(ends, prepend=first)
    return {"lengths": lengths[lengths > 0], "decayed": given["decayed"][lengths > 0]}


_FILTERS = {"y": 0, "gate": 0, "bias": 0, "pooled": 0, "winner": 0}
_OF_FILTERS = {"dy": 0, "pooled": 0, "winner": 0}
_CHANNELS = {"y": 0, "x": 0}
_STATE = {"parameters": 0, "gradient": 0}

WAYS: dict[Callable[..., object], tuple[Way, ...]] = {
    rows.sum_rows: (
        Way({"y": 1, "bands": 0, "gate": 1}, ("partial",), 1, _where(False), _rows),
        Way({"pooled": 1, "winner": 1}, ("partial", "y"), 1, _where(True), _rows_of_windows),
        Way({**_FILTERS, "weights": 1}, ("partial",), 4),
    ),
    band_rows.spread_filters: (Way({"spread": 0, "matrix": 0}),),
    band_rows.sum_bands: (
        Way({"meeting": 0}, ("spread", "partial", "products"), 1, _where(False), _bands),
        Way({"meeting": 0}, ("spread", "partial", "products", "y"), 1, _where(True), _bands),
        Way({**_FILTERS, "weights": 2, "products": 1}, ("spread", "partial"), 4, repeated=0.3),
    ),
    shallow_rows.spread_filters: (Way({"spread": 0, "weights": 3}),),
    shallow_rows.sum_shallow: (
        Way({"y": 1}, ("spread",), shallow_rows.OUTPUTS, _where(False), _shallow_rows),
        Way(
            {"pooled": 1, "winner": 1},
            ("spread",),
            shallow_rows.OUTPUTS // shallow_rows.SIDE,
            _where(True),
            _shallow_rows,
        ),
        Way({"bias": 0, "weights": 0, "y": 0, "pooled": 0, "winner": 0}, ("spread",), repeated=0.1),
    ),
    shallow_pairs.pair_shallow: (
        Way(
            {"products": 3, "pooled": 0, "winner": 0},
            ("spread", "slopes", "partial"),
            shallow_pairs.FILTERS,
            repeated=0.1,
        ),
    ),
    pairs.sum_pairs: (
        Way({**_OF_FILTERS, "dw": 1, "db": 0}, ("partial",), CHANNELS),
        Way({"spans": 0}, ("partial",), 1, _where(False), _blocks),
    ),
    pairs.sum_lanes: (Way({"dy": 0, "db": 0}, ("partial",)),),
    band_pairs.pair_bands: (
        Way({"inputs": 0, "outputs": 0, "spread": 0, "slopes": 0, "products": 0}, ("partial",)),
    ),
    band_pairs.gather_filters: (Way({"weights": 0}, more=_from),),
    patch_filters.spread_filters: (Way({"weights": 0}, ("room",), more=_from),),
    patches.unpool_piece: (Way({"y": 0, "slopes": 0, "winner": 0}),),
    patches.spread_patches: (Way({"spread": 1, "winner": 0}, ("room", "edge"), more=_channels),),
    patches.multiply_points: (Way({"products": 0, "weights": 0}, ("partial",), more=_points),),
    patch_outputs.gather_patches: (Way({"products": 1, **_FILTERS}, ("room", "edge")),),
    patches.spread_slopes: (
        Way({"slopes": 1}, ("room",), 1, _is_one_band, _columns),
        Way({"slopes": 2, "turned": 2}, ("room",)),
    ),
    patches.pair_points: (Way({"total": 0}, more=_pairs_at_points),),
    patch_filters.gather_filters: (Way({"weights": 0}, ("room",), more=_from),),
    pool.max_pool: (Way({**_CHANNELS, "winner": 0}),),
    pool.max_pool_gradient: (Way({"dx": 0, "dy": 0, "winner": 0, "y": 0}),),
    pool.average_pool: (Way(_CHANNELS),),
    pool.average_pool_gradient: (Way({"dx": 0, "dy": 0, "x": 0}),),
    normalization.normalize: (Way({"x": 1, "y": 1}, ("squares",)),),
    normalization.normalize_gradient: (Way({"x": 1, "dy": 1, "dx": 1}, ("squares", "passed")),),
    order.transpose: (Way({"y": 1, "x": 2}, (), LANES),),
    order.first_columns: (Way({"y": 0, "x": 0}),),
    order.turn_filters: (Way({"turned": 0, "weights": 3}),),
    order.drop: (Way({"x": 0, "y": 0}, ("room",), more=_from),),
    order.pass_back: (Way({**_CHANNELS, "gate": 0}), Way({"y": 1, "x": 1, "gate": 1})),
    order.copy: (Way(_CHANNELS), Way({"y": 1, "x": 1})),
    order.clear: (Way({"y": 0}), Way({"y": 1})),
    update.sgd: (Way({**_STATE, "velocity": 0}, (), LANES, more=_tensors),),
    update.adam: (Way({**_STATE, "mean": 0, "square": 0}, (), LANES, more=_tensors),),
}
"""By kernel. The loss, of few numbers, and a norm, a single sum, are not shared out."""
