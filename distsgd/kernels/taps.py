"""Which inputs an output sees: the lists of taps that `rows` and `pairs` follow, in NumPy, made once when a network is built.

A filter at the border of an image looks at zeros. They add nothing, so their taps are left out: by rows of outputs, and by
columns as far as the lanes that are computed together allow. For a 5x5 filter on an image of 8x8 that is a quarter of all taps.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from distsgd.kernels import pairs, rows
from distsgd.kernels.vector import TAPS, VECTOR


@dataclass(frozen=True)
class Window:
    """A filter over channels of images in a buffer (channels, height, width, batch) with zeros around them.

    size: rows and columns of the filter. top, left: the zeros before the image, from the first output's window on (negative where
    that begins inside the image), which is `height` x `width`. outputs: rows and columns of outputs.

    With a stride the buffer holds phases, (channels x stride x stride, height, width, batch): every stride-th row and column of the
    image with its zeros, beginning with each. So a row of outputs still sees contiguous rows.
    """

    buffer: tuple[int, ...]
    size: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    outputs: tuple[int, int]
    stride: int = 1

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return self.buffer[0] // self.stride**2

    @property
    def step(self) -> int:
        """Values from one row of outputs to the next."""
        return self.buffer[2] * self.buffer[3]

    def places(self) -> np.ndarray:
        """(channels, row, column) of the filter: each tap's place in the buffer, from the first of its window on."""
        _, high, wide, batch = self.buffer
        channel, row, column = np.ogrid[: self.channels, : self.size[0], : self.size[1]]
        plane = (channel * self.stride + row % self.stride) * self.stride + column % self.stride
        return ((plane * high + row // self.stride) * wide + column // self.stride) * batch

    def of_one_row(self, bands: int) -> "Window":
        """What a filter of one row sees of that many rows, all of them image, of the same columns: what `winograd` spreads."""
        columns = self.outputs[1] + self.size[1] - 1
        buffer = (self.channels, bands, columns + (columns + 1) % 2, self.buffer[3])
        return Window(buffer, (1, self.size[1]), 0, self.left, bands, self.width, (bands, self.outputs[1]))

    def of_columns(self, first: int, last: int) -> "Window":
        """What the columns first..last of outputs see, from the first one's window on."""
        return replace(self, left=self.left - first, outputs=(self.outputs[0], last - first))

    def rows_that_count(self, output: int) -> tuple[int, int]:
        """The rows first..last of the filter that meet the image, for a row of outputs."""
        return _meeting(output * self.stride, self.size[0], self.top, self.height)

    def columns_that_count(self, first: int, last: int) -> tuple[int, int]:
        """The filter's columns that meet the image for any of the columns first..last (included) of outputs."""
        low = _meeting(last * self.stride, self.size[1], self.left, self.width)[0]
        high = _meeting(first * self.stride, self.size[1], self.left, self.width)[1]
        return low, max(low, high)

    def spans(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """For each row of the filter the rows first..last of outputs for which it meets the image; for each column the columns."""
        both = []
        for size, before, length, outputs in zip(
            self.size, (self.top, self.left), (self.height, self.width), self.outputs, strict=True
        ):
            taps = np.arange(size)[:, None]
            both.append([_span(tap, before, length, outputs, self.stride) for tap in taps])
        return both[0], both[1]


def _meeting(start: int, size: int, before: int, length: int) -> tuple[int, int]:
    first, last = max(0, before - start), min(size, before + length - start)
    return min(first, size), max(first, last)


class RowTaps(NamedTuple):
    """What `rows.sum_rows` follows."""

    taps: np.ndarray
    """(2, n) int64: places in x, rows of the weights."""
    strips: np.ndarray
    """(strips, 4): for each strip of lanes, where its list begins in `taps`, how many taps a row of the filter has there, its first
    lane and its registers, see `rows.strips`.
    """
    bands: np.ndarray
    """(rows, 2): for each row of outputs, the first and the last row of the filter that counts."""


def row_taps(window: Window, weights: np.ndarray | None = None) -> RowTaps:
    """Lists for every set of columns that occurs, each in the order row, channel, column: what a row leaves out is at its ends.

    weights: (channels, row, column) of the filter, the row of the weight matrix for each tap; as they lie if not given.
    """
    batch, lanes = window.buffer[3], window.outputs[1] * window.buffer[3]
    all_strips = rows.strips(lanes)
    sets = [
        window.columns_that_count(first // batch, (first + registers * VECTOR - 1) // batch)
        for first, registers in all_strips
    ]
    places = window.places()
    weights = np.arange(places.size).reshape(places.shape) if weights is None else weights
    both = np.stack([places, weights]).transpose(0, 2, 1, 3)
    lists = {columns: both[..., slice(*columns)].reshape(2, -1) for columns in dict.fromkeys(sets)}
    ends = np.cumsum([part.shape[1] for part in lists.values()])
    begins = dict(zip(lists, [0, *ends.tolist()]))
    of_rows = [(begins[columns], lists[columns].shape[1] // window.size[0]) for columns in sets]
    strips = [(*of_row, *strip) for of_row, strip in zip(of_rows, all_strips, strict=True)]
    bands = [window.rows_that_count(output) for output in range(window.outputs[0])]
    return RowTaps(np.concatenate([*lists.values()], axis=1), np.array(strips), np.array(bands))


def dense_row_taps(inputs: int, lanes: int, apart: int | None = None) -> RowTaps:
    """The taps of a dense layer: every row of (inputs, lanes), the rows `apart` from each other or one after another."""
    taps = np.stack([np.arange(inputs) * (apart or lanes), np.arange(inputs)])
    strips = [(0, inputs, *strip) for strip in rows.strips(lanes)]
    return RowTaps(taps, np.array(strips), np.array([(0, 1)]))


def pixel_taps(window: Window, row: int, column: int, filters: int, apart: int) -> RowTaps:
    """The taps of the gradient to the weights at a row and a column of the filter: all images' pixels that these see.

    `rows.sum_rows` finds the slopes of all filters `apart` values from those of the pixel before, and its weights in a plane of x.
    """
    of_rows, of_columns = window.spans()
    batch, (_, wide) = window.buffer[3], window.outputs
    i, j, n = np.ogrid[slice(*of_rows[row]), slice(*of_columns[column]), :batch]
    slopes, seen = ((i * wide + j) * batch + n) * apart, i * window.step + j * batch + n
    both = np.stack([slopes, window.places()[0, row, column] + seen]).reshape(2, -1)
    strips = [(0, both.shape[1], *strip) for strip in rows.strips(filters)]
    return RowTaps(both, np.array(strips), np.array([(0, 1)]))


class BandTaps(NamedTuple):
    """What `winograd` follows where some rows of outputs, a band, are computed together."""

    plane: int
    """Values from one channel to the next."""
    lanes: int
    """Values of a row that the windows see."""
    places: np.ndarray
    """(n,) int64: the rows that a band sees, from its first on."""
    meeting: np.ndarray
    """(bands, 2): the first and the last of them that meet the image."""


def band_taps(window: Window, height: int) -> BandTaps:
    """Bands of `height` rows of outputs; the last one may reach beyond them."""
    _, high, _, batch = window.buffer
    n = height + window.size[0] - 1
    bands = range(0, window.outputs[0], height)
    meeting = [_meeting(first, n, window.top, window.height) for first in bands]
    lanes = (window.outputs[1] + window.size[1] - 1) * batch
    return BandTaps(high * window.step, lanes, np.arange(n) * window.step, np.array(meeting))


class PairTaps(NamedTuple):
    """What `pairs.sum_pairs` follows: blocks of TAPS taps, the last one filled up."""

    offsets: np.ndarray
    """(blocks x TAPS,) places in x."""
    places: np.ndarray
    """(taps,) rows of dw."""
    spans: np.ndarray
    """(blocks, 4): rows first..last and lanes first..last where any tap of a block meets the image."""


def pair_taps(window: Window) -> PairTaps:
    """Taps grouped by channels, then row, then column: those of a block mostly miss the image together."""
    channels, (high, wide), batch = window.channels, window.size, window.buffer[3]
    groups = [range(first, min(first + TAPS, channels)) for first in range(0, channels, TAPS)]
    order = np.array([(c, r, s) for group in groups for r in range(high) for s in range(wide) for c in group])
    channel, row, column = order.T
    offsets, places = window.places()[channel, row, column], (channel * high + row) * wide + column
    spans = []
    for first in range(0, len(order), TAPS):
        of_rows = _span(
            row[first : first + TAPS], window.top, window.height, window.outputs[0], window.stride
        )
        block = column[first : first + TAPS]
        of_columns = _span(block, window.left, window.width, window.outputs[1], window.stride)
        spans.append((*of_rows, *(batch * place for place in of_columns)))
    return PairTaps(_whole_blocks(offsets), places, np.array(spans))


def _span(taps: np.ndarray, before: int, length: int, outputs: int, stride: int) -> tuple[int, int]:
    """The outputs first..last for which any of the filter's rows (or columns) meets the image."""
    first = min(outputs, max(0, -((int(taps.max()) - before) // stride)))
    last = min(outputs, (before + length - 1 - int(taps.min())) // stride + 1)
    return first, max(first, last)


def dense_pair_taps(inputs: int, lanes: int) -> PairTaps:
    """The taps of a dense layer: every row of (inputs, lanes)."""
    places = np.arange(inputs)
    offsets = _whole_blocks(places * lanes)
    return PairTaps(offsets, places, np.array([(0, 1, 0, lanes)] * (len(offsets) // TAPS)))


def _whole_blocks(offsets: np.ndarray) -> np.ndarray:
    return np.concatenate([offsets, np.repeat(offsets[-1:], -len(offsets) % TAPS)])


def pairs_room(taps: int, channels: int) -> int:
    """float32 values that `pairs.sum_pairs` needs for its chains."""
    return -(-channels // pairs.CHANNELS) * (-(-taps // TAPS) * pairs.ROOM + pairs.LANES_ROOM)
