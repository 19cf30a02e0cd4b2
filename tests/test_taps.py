"""Lists of taps against every lane's own: all that meet the image, and none that no lane of a strip or block needs."""

import itertools

import numpy as np
import pytest

from distsgd.kernels.rows import strips
from distsgd.kernels.taps import Window, dense_pair_taps, dense_row_taps, pair_taps, row_taps
from distsgd.kernels.vector import LANES, STRIP, TAPS, VECTOR


def window(
    channels: int,
    size: tuple[int, int],
    before: int,
    image: tuple[int, int],
    batch: int,
    outputs: tuple[int, int],
    stride: int = 1,
) -> Window:
    high, wide = (-(-(2 * abs(before) + length) // stride) for length in image)
    return Window((channels * stride**2, high, wide, batch), size, before, before, *image, outputs, stride)


WINDOWS = [
    window(1, (1, 1), 0, (3, 4), 16, (3, 4)),
    window(3, (3, 3), 1, (4, 5), 64, (4, 5)),
    window(2, (5, 5), 2, (8, 8), 64, (8, 8)),
    window(7, (5, 5), 4, (3, 2), 16, (7, 6)),
    window(6, (2, 2), 1, (5, 3), 48, (6, 4)),
    window(4, (4, 4), 0, (9, 7), 32, (4, 4)),
    window(3, (2, 3), -1, (6, 7), 64, (3, 3)),
    window(2, (5, 5), 4, (5, 5), 64, (12, 12)),
    window(3, (3, 3), 1, (9, 8), 16, (5, 4), stride=2),
    window(2, (5, 4), 2, (11, 12), 64, (4, 4), stride=3),
]


def meets(window: Window, row: int, column: int, tap: tuple[int, int, int]) -> bool:
    """Whether a tap (channel, row, column) of the window at an output is inside the image."""
    high = row * window.stride + tap[1] - window.top
    wide = column * window.stride + tap[2] - window.left
    return 0 <= high < window.height and 0 <= wide < window.width


def all_taps(window: Window) -> list[tuple[int, int, int]]:
    return list(itertools.product(range(window.channels), range(window.size[0]), range(window.size[1])))


def place(window: Window, tap: tuple[int, int, int]) -> int:
    _, high, wide, batch = window.buffer
    channel, (row, r), (column, c) = tap[0], divmod(tap[1], window.stride), divmod(tap[2], window.stride)
    return ((((channel * window.stride + r) * window.stride + c) * high + row) * wide + column) * batch


@pytest.mark.parametrize("window", WINDOWS)
def test_a_strip_has_the_taps_that_any_of_its_lanes_needs(window: Window) -> None:
    seen, batch, taps = row_taps(window), window.buffer[3], all_taps(window)
    lanes = window.outputs[1] * batch
    assert [(start, registers) for _, _, start, registers in seen.strips] == strips(lanes)
    for row, strip in itertools.product(range(window.outputs[0]), seen.strips):
        begin, of_row, start, registers = strip
        low, high = seen.bands[row]
        places, weights = seen.taps[:, begin + low * of_row : begin + high * of_row]
        columns = {lane // batch for lane in range(start, start + registers * VECTOR)}
        needed = {n for n, tap in enumerate(taps) if any(meets(window, row, c, tap) for c in columns)}
        assert set(weights) == needed
        assert [place(window, taps[n]) for n in weights] == places.tolist()
        order = [(taps[n][1], taps[n][0], taps[n][2]) for n in weights]
        assert order == sorted(order), "row, channel, column: the same order of additions in every strip"


@pytest.mark.parametrize("window", WINDOWS)
def test_a_block_of_pairs_spans_all_that_any_of_its_taps_needs(window: Window) -> None:
    seen, batch, taps = pair_taps(window), window.buffer[3], all_taps(window)
    assert sorted(seen.places) == list(range(len(taps)))
    assert len(seen.offsets) == len(seen.spans) * TAPS
    for n, (offset, weight) in enumerate(zip(seen.offsets, seen.places, strict=False)):
        assert offset == place(window, taps[weight])
        top, bottom, left, right = seen.spans[n // TAPS]
        for row, column in np.ndindex(window.outputs):
            if meets(window, row, column, taps[weight]):
                assert top <= row < bottom
                assert left <= column * batch < right
    for block, (top, bottom, left, right) in enumerate(seen.spans):
        mine = [taps[n] for n in seen.places[block * TAPS : (block + 1) * TAPS]]
        rows_and_columns = np.array(
            [found for found in np.ndindex(window.outputs) if needs(window, mine, found)]
        )
        assert (rows_and_columns.min(0) == (top, left // batch)).all()
        assert (rows_and_columns.max(0) + 1 == (bottom, right // batch)).all()


@pytest.mark.parametrize("length", [1, 2, 3])
def test_taps_that_no_output_needs_span_nothing(length: int) -> None:
    """Those of a filter that is more than twice as large as the image: behind the outputs there is nothing to read."""
    window = Window((TAPS, length + 6, length + 6, LANES), (7, 7), 3, 3, length, length, (length, length))
    for top, bottom, left, right in pair_taps(window).spans:
        assert 0 <= top <= bottom <= length
        assert 0 <= left <= right <= length * LANES


def needs(window: Window, taps: list[tuple[int, int, int]], output: tuple[int, ...]) -> bool:
    """Whether any tap meets the image in the output's row, and any in its column."""
    row, column = output[0] * window.stride, output[1] * window.stride
    return any(0 <= row + tap[1] - window.top < window.height for tap in taps) and any(
        0 <= column + tap[2] - window.left < window.width for tap in taps
    )


def test_a_border_of_zeros_costs_no_multiplications() -> None:
    window = WINDOWS[2]
    seen = row_taps(window)
    of_rows = sum(of_row * registers * VECTOR for _, of_row, _, registers in seen.strips)
    share = sum(high - low for low, high in seen.bands) * of_rows / (50 * 64 * 64)
    assert share <= (0.7225 if STRIP == 64 else 0.8)  # all that can be where one strip is one pixel
    kept = sum((s[1] - s[0]) * (s[3] - s[2]) for s in pair_taps(window).spans) * TAPS
    assert kept <= 0.9 * 50 * 64 * 64


def test_dense_layers_see_all_inputs() -> None:
    rows, pairs = dense_row_taps(7, 48), dense_pair_taps(7, 48)
    np.testing.assert_array_equal(rows.taps, [np.arange(7) * 48, np.arange(7)])
    assert rows.strips.tolist() == [[0, 7, *strip] for strip in strips(48)]
    assert rows.bands.tolist() == [[0, 1]]
    assert pairs.offsets[:7].tolist() == [n * 48 for n in range(7)]
    assert pairs.spans.tolist() == [[0, 1, 0, 48]] * (len(pairs.offsets) // TAPS)
