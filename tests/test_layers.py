"""Each layer forward and backward against its oracle, in buffers whose borders and neighbours hold canaries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import oracle
import pytest
from oracle import assert_close, rounding

from distsgd.config import InputError
from distsgd.kernels.vector import LANES
from distsgd.layers import (
    AveragePool,
    Border,
    Convolution,
    Dense,
    Dropout,
    Layer,
    MaxPool,
    Place,
    Program,
    ResponseNormalization,
    Shape,
    Values,
    convolution_bands,
    convolution_patches,
    convolution_shallow,
)

CANARY = np.float32(-12345.678)
DRAW = (2**63 + 5, 3, 41)
NUMBER = 4
WIDER = Border(1, 2, 3, 1)  # what another layer wants around its input, or around its output's gradient
NONE = Border()
AROUND = [(NONE, NONE), (NONE, WIDER), (WIDER, NONE), (WIDER, WIDER)]


@pytest.fixture(autouse=True)
def row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """No transforms (test_winograd.py, test_patches.py and test_shallow.py have them): whole numbers stay whole."""
    monkeypatch.setattr(convolution_bands, "HEIGHTS", ())
    monkeypatch.setattr(convolution_patches, "SIZES", ())
    monkeypatch.setattr(convolution_shallow, "SIZES", ())


@dataclass(frozen=True)
class Bench:
    """A layer with all its arrays: x, y, dx and dy inside canaries (zeros where the layer itself wants a border)."""

    layer: Layer
    place: Place
    images: int

    def inside(self, values: Values) -> np.ndarray:
        """What the layer works on, (channels, height, width, batch), a view."""
        _, height, width, _ = values.buffer.shape
        around = values.border
        return values.buffer[:, around.top : height - around.bottom, around.left : width - around.right]

    def run(self, program: Program) -> None:
        """Call the kernels; what they are given to read must be the same afterwards."""
        given = [self.place.x.buffer, self.place.dy.buffer, *self.place.weights]
        before = [array.copy() for array in given]
        for kernel, arguments in program:
            kernel(*arguments)
        for array, old in zip(given, before, strict=True):
            np.testing.assert_array_equal(array, old)

    def forward(self, training: bool = True) -> np.ndarray:
        """y of the images."""
        self.run(self.layer.forward(self.place, training))
        return self.inside(self.place.y)[..., : self.images]

    def backward(self) -> np.ndarray:
        """dx of the images; gradients of parameters are in place.gradients."""
        self.run(self.layer.backward(self.place))
        assert self.place.dx is not None
        return self.inside(self.place.dx)[..., : self.images]

    def give(self, x: np.ndarray, dy: np.ndarray, *weights: np.ndarray) -> None:
        """Set x and dy of the images, and the parameters."""
        self.inside(self.place.x)[..., : self.images] = x
        self.inside(self.place.dy)[..., : self.images] = dy
        for own, given in zip(self.place.weights, weights, strict=True):
            own[:] = given

    def assert_untouched(self) -> None:
        """Fail where anything was written outside of what the layer is to write."""
        place = self.place
        for values, outside in ((place.x, 0), (place.y, CANARY), (place.dx, CANARY), (place.dy, 0)):
            assert values is not None
            around = np.ones(values.buffer.shape, bool)
            self.inside(replace(values, buffer=around))[:] = False
            assert (values.buffer[around] == outside).all()
        for array in (place.scratch, place.own, *place.gradients):
            assert (array.base[array.size :] == CANARY).all()


def values(shape: Shape, lanes: int, border: Border, outside: float) -> Values:
    channels, height, width = shape
    size = (channels, border.top + height + border.bottom, border.left + width + border.right, lanes)
    made = Values(np.full(size, outside, np.float32), border)
    _, high, wide, _ = size
    made.buffer[:, border.top : high - border.bottom, border.left : wide - border.right] = 0
    return made


def guarded(size: int) -> np.ndarray:
    """A vector of canaries, with more canaries behind it."""
    return np.full(size + 64, CANARY)[:size]


def filled(size: int, value: float) -> np.ndarray:
    """A vector of one value, with canaries behind it."""
    own = guarded(size)
    own[:] = value
    return own


def bench(
    layer: Layer,
    shape: Shape,
    images: int,
    rectify: bool = False,
    rectified: bool = False,
    after: Border = NONE,
    before: Border = NONE,
) -> Bench:
    """Make room for a layer; `after` is the border in y, `before` that in dx."""
    lanes, output = -(-images // LANES) * LANES, layer.output(shape)
    weights = tuple(np.zeros(tensor.shape, np.float32) for tensor in layer.tensors(shape))
    gradients = tuple(guarded(array.size) for array in weights)
    place = Place(
        number=NUMBER,
        x=values(shape, lanes, layer.border(shape), 0),
        y=values(output, lanes, after, CANARY),
        dx=values(shape, lanes, before, CANARY),
        dy=values(output, lanes, layer.gradient_border(shape), 0),
        weights=weights,
        gradients=tuple(own.reshape(array.shape) for own, array in zip(gradients, weights, strict=True)),
        winners=np.zeros((*output, lanes) if pools(layer) else (0, 0, 0, 0), np.uint8),
        scratch=filled(layer.scratch(shape, lanes), np.nan),
        own=filled(layer.own(shape, lanes, first=False), 0),
        rectify=rectify,
        rectified=rectified,
        draw=np.array(DRAW, np.uint64),
    )
    return Bench(layer, place, images)


def pools(layer: Layer) -> bool:
    return isinstance(layer, MaxPool) or (isinstance(layer, Convolution) and layer.pool > 1)


def whole(seed: int, *shape: int, most: int = 4) -> np.ndarray:
    """Whole numbers so small that no sum here is rounded: one wrong tap is one wrong number."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float64)


def exact_border(layer: Convolution) -> oracle.Border:
    if layer.padding == "same":
        return oracle.same_border(layer.size)
    return (0 if layer.padding == "valid" else int(layer.padding),) * 4


def check_convolution(layer: Convolution, shape: Shape, images: int, numbers: int, **joined: object) -> None:
    """Forward, backward to weights, bias and input, in whole numbers, against the oracle."""
    rectify, rectified = numbers % 2 == 0, numbers % 3 == 0
    tried = bench(layer, shape, images, rectify, rectified, **joined)
    x, output = whole(numbers, *shape, images), layer.output(shape)
    x = np.maximum(x, 0) if rectified else x
    weights, bias = whole(1, shape[0], layer.size, layer.size, layer.filters), whole(2, layer.filters)
    dy, border = whole(3, *output, images), exact_border(layer)
    tried.give(x, dy, weights, bias)
    y = oracle.convolve(x, weights, bias, border)
    np.testing.assert_array_equal(tried.forward(), np.maximum(y, 0) if rectify else y)
    dx, dw, db = oracle.convolve_gradient(x, weights, dy, border)
    np.testing.assert_array_equal(tried.backward(), dx * (x > 0) if rectified else dx)
    np.testing.assert_array_equal(tried.place.gradients[0], dw)
    np.testing.assert_array_equal(tried.place.gradients[1], db)
    tried.assert_untouched()


@pytest.mark.parametrize("size", range(1, 7))
@pytest.mark.parametrize("padding", ["valid", "same", 0, 1, 2, 5])
@pytest.mark.parametrize(("after", "before"), AROUND)
def test_convolution_of_any_size_and_padding(
    after: Border, before: Border, padding: int | str, size: int
) -> None:
    if isinstance(padding, int) and padding >= size:
        with pytest.raises(InputError, match=f"padding {padding} of a {size}x{size} convolution"):
            Convolution(3, size, padding).output((1, 9, 9))
        return
    for number, (height, width) in enumerate(((size, size + 2), (7, 6), (9, 13))):
        if height >= size:
            layer = Convolution(5, size, padding)
            check_convolution(layer, (3, height, width), 19, number + size, after=after, before=before)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize(
    ("size", "padding", "pool"), [(3, "valid", 2), (2, "same", 3), (5, 2, 2), (4, 3, 4), (1, 0, 5)]
)
@pytest.mark.parametrize("images", [3, 16, 40, 64])
def test_convolution_and_pooling_in_one_pass(
    images: int, size: int, padding: int | str, pool: int, rectify: bool
) -> None:
    for shape, filters, around in (((3, 9, 11), 5, NONE), ((1, 8, 7), 4, WIDER), ((6, 6, 13), 8, NONE)):
        check_pooled(Convolution(filters, size, padding, pool=pool), shape, images, rectify, around)


def check_pooled(layer: Convolution, shape: Shape, images: int, rectify: bool, around: Border) -> None:
    """Like the convolution, the rectifier and the pooling by themselves; dy is gated already, as the next layer does it."""
    tried = bench(layer, shape, images, rectify, False, after=around, before=around)
    x, weights = whole(1, *shape, images), whole(2, shape[0], layer.size, layer.size, layer.filters)
    bias, dy = whole(3, layer.filters), whole(4, *layer.output(shape), images)
    border = exact_border(layer)
    convolved = oracle.convolve(x, weights, bias, border)
    convolved = np.maximum(convolved, 0) if rectify else convolved
    y, winner = oracle.max_pool(convolved, layer.pool)
    tried.give(x, dy, weights, bias)
    np.testing.assert_array_equal(tried.forward(), y)
    spread = oracle.max_pool_gradient(winner, layer.pool, dy, convolved.shape)
    wanted = oracle.convolve_gradient(x, weights, spread, border)
    lanes = tried.place.x.buffer.shape[3]
    first = replace(tried.place, dx=None, own=np.zeros(layer.own(shape, lanes, first=True), np.float32))
    tried.run(layer.backward(first))  # as the first layer, which has no use for dx
    for got, exact in zip(tried.place.gradients, wanted[1:], strict=True):
        np.testing.assert_array_equal(got, exact)
        got[:] = CANARY
    for got, exact in zip((tried.backward(), *tried.place.gradients), wanted, strict=True):
        np.testing.assert_array_equal(got, exact)
    tried.assert_untouched()


STRIDED = [
    Convolution(4, 3, "valid", stride=2),
    Convolution(4, 3, "same", stride=2),
    Convolution(5, 1, "valid", stride=3),
    Convolution(2, 5, 2, stride=4),
    Convolution(6, 4, "same", stride=3, groups=2),
    Convolution(8, 11, 2, stride=4),
    Convolution(6, 2, "full", stride=2, groups=2),
    Convolution(4, 3, "full"),
    Convolution(4, 3, "same", groups=4),
    Convolution(6, 5, "valid", groups=2),
    Convolution(4, 3, 1, stride=2, pool=2),
    Convolution(6, 3, "same", groups=2, pool=3),
    Convolution(6, 6, "full", stride=2, groups=2, pool=2),
]


@pytest.mark.parametrize("images", [5, 16, 40, 64])
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("layer", STRIDED)
@pytest.mark.parametrize("around", [NONE, WIDER])
def test_strides_groups_and_full_padding(
    around: Border, layer: Convolution, rectified: bool, images: int
) -> None:
    for shape in ((4, 11, 14), (4, 12, 11), (8, 16, 13)):
        check_strided(layer, shape, images, rectified, around)


def check_strided(layer: Convolution, shape: Shape, images: int, rectified: bool, around: Border) -> None:
    """Forward and every gradient in whole numbers; as the first layer, too."""
    tried = bench(layer, shape, images, True, rectified, after=around, before=around)
    x, output = whole(1, *shape, images), layer.output(shape)
    x = np.maximum(x, 0) if rectified else x
    weights, bias = whole(2, *layer.tensors(shape)[0].shape), whole(3, layer.filters)
    dy = whole(4, *output, images)
    tried.give(x, dy, weights, bias)
    border = oracle.strided_border(shape, layer.size, layer.stride, layer.padding)
    grouped = weights.reshape(layer.groups, *weights.shape[-4:])
    convolved = np.maximum(oracle.strided_convolve(x, grouped, bias, border, layer.stride), 0)
    y, winner = oracle.max_pool(convolved, layer.pool)
    np.testing.assert_array_equal(tried.forward(), y)
    spread = oracle.max_pool_gradient(winner, layer.pool, dy, convolved.shape)
    dx, dw, db = oracle.strided_convolve_gradient(x, grouped, spread, border, layer.stride)
    wanted = (dx * (x > 0) if rectified else dx, dw.reshape(weights.shape), db)
    lanes = tried.place.x.buffer.shape[3]
    own = np.zeros(layer.own(shape, lanes, first=True), np.float32)
    first = replace(tried.place, dx=None, own=own)
    tried.run(layer.forward(first, True) + layer.backward(first))
    for got, exact in zip(tried.place.gradients, wanted[1:], strict=True):
        np.testing.assert_array_equal(got, exact)
        got[:] = CANARY
    for got, exact in zip((tried.backward(), *tried.place.gradients), wanted, strict=True):
        np.testing.assert_array_equal(got, exact)
    tried.assert_untouched()


@pytest.mark.parametrize("images", [3, 16, 40])
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    "layer",
    [
        MaxPool(3, 2),
        MaxPool(2, 1),
        MaxPool(2, 3),
        AveragePool(2),
        AveragePool(3, 2),
        AveragePool(4, 5),
        AveragePool(),
    ],
)
@pytest.mark.parametrize(("after", "before"), AROUND)
def test_overlapping_and_average_pooling(
    after: Border, before: Border, layer: MaxPool | AveragePool, rectified: bool, images: int
) -> None:
    shape = (3, 9, 7)
    tried = bench(layer, shape, images, rectified=rectified, after=after, before=before)
    x, dy = whole(5, *shape, images), whole(6, *layer.output(shape), images)
    x = np.maximum(x, 0) if rectified else x
    tried.give(x, dy)
    y, back = oracle.forward([layer], [], x)
    y, dx = y.reshape(dy.shape), back(dy)[0]
    assert_close(tried.forward(), y, 1e-6 * abs(y))
    wanted = dx * (x > 0) if rectified else dx
    in_no_window = oracle.forward([layer], [], np.ones(x.shape))[1](np.ones(dy.shape))[0] == 0
    for _ in range(2):  # what the first left is not added to
        got = tried.backward()
        left_alone = in_no_window & (got == CANARY)
        assert_close(np.where(left_alone, 0, got), wanted, 1e-5)


@pytest.mark.parametrize("channels", range(1, 12))
@pytest.mark.parametrize("filters", [1, 2, 3, 5, 8, 11])
def test_convolution_with_any_number_of_channels(filters: int, channels: int) -> None:
    check_convolution(Convolution(filters, 3, "same"), (channels, 5, 4), 16, channels + filters)


@pytest.mark.parametrize("images", [1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 64, 70])
def test_convolution_of_any_batch(images: int) -> None:
    check_convolution(Convolution(4, 2, "same"), (2, 5, 7), images, images)
    check_convolution(Convolution(6, 3), (3, 4, 3), images, images + 1)


def test_convolution_with_more_taps_than_a_chunk_and_rows_longer_than_a_group() -> None:
    check_convolution(Convolution(7, 5, "same"), (9, 6, 11), 40, 6)  # 225 taps, 528 lanes
    check_convolution(Convolution(33, 2), (34, 4, 3), 20, 5)
    check_convolution(Convolution(2, 3, "same"), (1, 3, 61), 70, 4)  # longer than a block of pairs


def test_even_filters_look_further_to_the_right_and_down() -> None:
    # S4's "same": a single tap at the filter's last place moves the image up and to the left.
    tried = bench(Convolution(1, 2, "same"), (1, 3, 4), 1)
    x, weights = whole(1, 1, 3, 4, 1), np.zeros((1, 2, 2, 1))
    weights[0, 1, 1, 0] = 1
    tried.give(x, np.zeros((1, 3, 4, 1)), weights, np.zeros(1))
    wanted = np.zeros((1, 3, 4, 1))
    wanted[:, :-1, :-1] = x[:, 1:, 1:]
    np.testing.assert_array_equal(tried.forward(), wanted)


def test_convolution_of_real_numbers_is_right_within_float32() -> None:
    rng, layer, shape = np.random.default_rng(1), Convolution(8, 5), (8, 12, 12)
    tried = bench(layer, shape, 23)
    x, dy = rng.normal(size=(*shape, 23)), rng.normal(size=(8, 8, 8, 23))
    weights, bias = rng.normal(size=(8, 5, 5, 8)), rng.normal(size=8)
    x, dy, weights, bias = (array.astype(np.float32).astype(np.float64) for array in (x, dy, weights, bias))
    tried.give(x, dy, weights, bias)
    size = oracle.convolve(abs(x), abs(weights), abs(bias))
    assert_close(tried.forward(), oracle.convolve(x, weights, bias), rounding(200) * size)
    sizes = oracle.convolve_gradient(abs(x), abs(weights), abs(dy))
    exact = oracle.convolve_gradient(x, weights, dy)
    for got, wanted, size in zip((tried.backward(), *tried.place.gradients), exact, sizes, strict=True):
        assert_close(got, wanted, rounding(200) * size)


@pytest.mark.parametrize("units", [*range(1, 20), 31, 32, 33, 50, 64, 84, 100, 120, 127, 128, 130])
@pytest.mark.parametrize("bias", [True, False])
def test_dense_with_any_number_of_units(bias: bool, units: int) -> None:
    check_dense(Dense(units, bias), (2, 3, 4), 1 + units % 70, units)


@pytest.mark.parametrize("images", [1, 15, 16, 17, 32, 33, 48, 70])
@pytest.mark.parametrize("units", [10, 33])
@pytest.mark.parametrize("before", [NONE, WIDER])
def test_dense_of_any_batch(before: Border, units: int, images: int) -> None:
    check_dense(Dense(units), (3, 5, 1), images, images, before=before)


@pytest.mark.parametrize("units", [3, 20])
@pytest.mark.parametrize("inputs", [1, 2, 95, 96, 97, 193, 400])
def test_dense_with_any_number_of_inputs(inputs: int, units: int) -> None:
    check_dense(Dense(units), (inputs, 1, 1), 37, inputs)
    check_dense(Dense(units), (inputs, 1, 1), 300, inputs + 1)  # more lanes than a group


def check_dense(layer: Dense, shape: Shape, images: int, numbers: int, **joined: object) -> None:
    rectify, rectified = numbers % 2 == 0, numbers % 3 == 0
    tried = bench(layer, shape, images, rectify, rectified, **joined)
    x, inputs = whole(numbers, *shape, images), int(np.prod(shape))
    x = np.maximum(x, 0) if rectified else x
    weights, dy = whole(1, inputs, layer.units), whole(3, layer.units, 1, 1, images)
    bias = [whole(2, layer.units)] if layer.bias else []
    tried.give(x, dy, weights, *bias)
    y, back = oracle.forward([layer], [weights, *bias], x)
    y = y.reshape(layer.units, 1, 1, images)
    np.testing.assert_array_equal(tried.forward(), np.maximum(y, 0) if rectify else y)
    dx, gradients = back(dy)
    np.testing.assert_array_equal(tried.backward(), dx * (x > 0) if rectified else dx)
    for got, wanted in zip(tried.place.gradients, gradients, strict=True):
        np.testing.assert_array_equal(got, wanted)
    tried.assert_untouched()


@pytest.mark.parametrize("units", [1, 10, 15])
def test_dense_of_many_inputs_and_few_units(units: int) -> None:
    check_dense(Dense(units), (1030, 1, 1), 37, units)
    check_dense(Dense(units, bias=False), (16, 8, 8), 16, units)


@pytest.mark.parametrize("units", [5, 40])
def test_dense_of_real_numbers_is_right_within_float32(units: int) -> None:
    rng, tried = np.random.default_rng(2), bench(Dense(units), (300, 1, 1), 23)
    drawn = [rng.normal(size=size) for size in ((300, 1, 1, 23), (units, 1, 1, 23), (300, units), units)]
    x, dy, weights, bias = (array.astype(np.float32).astype(np.float64) for array in drawn)
    tried.give(x, dy, weights, bias)
    exact, magnitude = ([], [])
    for found, change in ((exact, np.positive), (magnitude, np.abs)):
        y, back = oracle.forward([Dense(units)], [change(weights), change(bias)], change(x))
        dx, gradients = back(change(dy))
        found += [y.reshape(dy.shape), dx, *gradients]
    found = [tried.forward(), tried.backward(), *tried.place.gradients]
    for got, wanted, size in zip(found, exact, magnitude, strict=True):
        assert_close(got, wanted, rounding(300) * size)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("images", [1, 16, 19, 40])
@pytest.mark.parametrize(("after", "before"), AROUND)
@pytest.mark.parametrize("rectified", [False, True])
def test_pooling(rectified: bool, after: Border, before: Border, images: int, size: int) -> None:
    shape = (3, 9, 6)
    tried = bench(MaxPool(size), shape, images, rectified=rectified, after=after, before=before)
    x = whole(size, *shape, images)
    x = np.maximum(x, 0) if rectified else x
    wanted, winner = oracle.max_pool(x, size)
    dy = whole(9, *wanted.shape)
    tried.give(x, dy)
    np.testing.assert_array_equal(tried.forward(), wanted)
    through = np.where(wanted > 0, dy, 0) if rectified else dy
    np.testing.assert_array_equal(tried.backward(), oracle.max_pool_gradient(winner, size, through, x.shape))
    tried.assert_untouched()


@pytest.mark.parametrize("images", [3, 40])
@pytest.mark.parametrize(("after", "before"), AROUND)
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_response_normalization(
    size: int, rectified: bool, after: Border, before: Border, images: int
) -> None:
    for channels, beta in ((1, 0.75), (2, 0.5), (4, 1.0), (7, 0.6), (11, 2.25)):
        layer, shape = ResponseNormalization(size, 0.3, beta, 1.5), (channels, 5, 4)
        tried = bench(layer, shape, images, rectified=rectified, after=after, before=before)
        x, dy = whole(channels, *shape, images), whole(size, *shape, images)
        x = np.maximum(x, 0) if rectified else x
        tried.give(x, dy)
        y, back = oracle.forward([layer], [], x)
        assert_close(tried.forward(), y.reshape(x.shape), 1e-6 * abs(x))
        assert_close(tried.backward(), back(dy)[0].reshape(x.shape) * ((x > 0) if rectified else 1), 1e-5)
        tried.assert_untouched()


@pytest.mark.parametrize("images", [1, 16, 23])
@pytest.mark.parametrize(("after", "before"), AROUND)
@pytest.mark.parametrize("rectified", [False, True])
def test_dropout_drops_the_same_on_the_way_back(
    rectified: bool, after: Border, before: Border, images: int
) -> None:
    shape, rate = (3, 5, 4), 0.4
    tried = bench(Dropout(rate), shape, images, rectified=rectified, after=after, before=before)
    x, dy = whole(1, *shape, images), whole(2, *shape, images)
    x = np.maximum(x, 0) if rectified else x
    lanes = tried.place.x.buffer.shape[3]
    mask = oracle.dropout_mask((*shape, lanes), DRAW, NUMBER, rate)[..., :images]
    tried.give(x, dy)
    assert_close(tried.forward(), x * mask, 4e-7 * abs(x))
    assert_close(tried.backward(), dy * mask * ((x > 0) if rectified else 1), 4e-7 * abs(dy))
    np.testing.assert_array_equal(tried.forward(training=False), x)
    tried.assert_untouched()


@pytest.mark.parametrize(
    "layer",
    [Convolution(3, 3, "same"), Dense(5), Dense(20), MaxPool(2), Dropout(0.5), ResponseNormalization()],
)
def test_nothing_goes_back_to_the_images(layer: Layer) -> None:
    tried = bench(layer, (2, 4, 4), 16)
    tried.run(layer.backward(replace(tried.place, dx=None)))
    assert tried.place.dx is not None
    assert not tried.inside(tried.place.dx).any()


@pytest.mark.parametrize("layer", [Convolution(3, 3, "same"), Dense(5), Dense(20), MaxPool(2)])
@pytest.mark.parametrize("rectify", [False, True])
def test_a_nan_image_stays_visible_and_alone(rectify: bool, layer: Layer) -> None:
    tried = bench(layer, (2, 4, 4), 16, rectify=rectify and not isinstance(layer, MaxPool), rectified=rectify)
    tried.give(
        whole(1, 2, 4, 4, 16), whole(2, *layer.output((2, 4, 4)), 16), *map(np.ones_like, tried.place.weights)
    )
    tried.inside(tried.place.x)[..., 7] = np.nan
    y, dx = tried.forward(), tried.backward()
    assert np.isnan(y[..., 7]).all()
    assert np.isfinite(np.delete(y, 7, 3)).all()
    assert np.isfinite(dx).all()  # a rectifier that saw a NaN lets the gradient through
    assert all(np.isnan(gradient).all() for gradient in tried.place.gradients[:1])
    tried.inside(tried.place.dy)[..., 3] = np.nan
    assert np.isnan(tried.backward()[..., 3]).any()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Convolution(3, 6), (1, 5, 9), "a 6x6 convolution does not fit an input of 5x9"),
        (Convolution(3, 6), (1, 9, 5), "a 6x6 convolution does not fit an input of 9x5"),
        (Convolution(3, 8, 1), (1, 5, 9), "a 8x8 convolution does not fit an input of 5x9"),
        (MaxPool(4), (1, 3, 9), "a 4x4 pooling does not fit an input of 3x9"),
        (MaxPool(17), (1, 30, 30), "pooling size 17: must be 1 to 16"),
        (MaxPool(0), (1, 30, 30), "pooling size 0: must be 1 to 16"),
        (Dropout(1.0), (1, 3, 9), "dropout rate 1.0: must be at least 0 and below 0.99999"),
        (Dropout(0.999995), (1, 3, 9), "dropout rate 0.999995: must be at least 0 and below 0.99999"),
        (Dropout(-0.1), (1, 3, 9), "dropout rate -0.1: must be at least 0 and below 0.99999"),
        (Dropout(float("nan")), (1, 3, 9), "dropout rate nan: must be at least 0 and below 0.99999"),
        (ResponseNormalization(0), (1, 3, 9), "response normalization over 0 channels: must be 1 to 1024"),
        (ResponseNormalization(1025), (1, 3, 9), "over 1025 channels: must be 1 to 1024"),
        (ResponseNormalization(k=0.0), (1, 3, 9), "k 0.0: alpha must be at least 0, beta above 0"),
        (ResponseNormalization(alpha=-1.0), (1, 3, 9), "alpha -1.0, beta 0.75, k 2.0: alpha must be"),
        (ResponseNormalization(beta=float("nan")), (1, 3, 9), "beta nan, k 2.0: alpha must be"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused(layer: Layer, shape: Shape, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layer.output(shape)


@pytest.mark.parametrize(
    ("layer", "shape", "output"),
    [
        (Convolution(3, 5), (1, 5, 9), (3, 1, 5)),
        (Convolution(3, 4, "same"), (2, 1, 1), (3, 1, 1)),
        (Convolution(7, 3, 2), (2, 1, 4), (7, 3, 6)),
        (MaxPool(3), (4, 3, 8), (4, 1, 2)),
        (Dense(9), (4, 3, 8), (9, 1, 1)),
        (Dropout(0.5), (4, 3, 8), (4, 3, 8)),
        (ResponseNormalization(), (4, 3, 8), (4, 3, 8)),
    ],
)
def test_shapes(layer: Layer, shape: Shape, output: Shape) -> None:
    assert layer.output(shape) == output


@pytest.mark.parametrize("height", range(1, 5))
@pytest.mark.parametrize("width", range(1, 5))
@pytest.mark.parametrize(
    "layer",
    [
        Convolution(2, 1),
        Convolution(2, 2, "same"),
        Convolution(2, 3, 1),
        Convolution(2, 4, "same"),
        MaxPool(1),
    ],
)
def test_planes_lie_an_odd_number_of_pixels_apart(layer: Layer, height: int, width: int) -> None:
    # An even number, often a power of two, would put all channels of a pixel into a few sets of the cache.
    shape = (3, height, width)
    around = [(layer.border(shape), height, width)]
    if isinstance(layer, Convolution):
        _, high, wide = layer.output(shape)
        around.append((layer.gradient_border(shape), high, wide))
    for border, high, wide in around:
        assert (border.top + high + border.bottom) % 2 == 1
        assert (border.left + wide + border.right) % 2 == 1


def sloped(layer: Layer, shape: Sequence[int], tensors: int) -> None:
    """Fail unless the oracle's gradients of a layer are its slopes."""
    rng = np.random.default_rng(len(shape) + tensors)
    arrays = [rng.normal(size=(*shape, 2)), *(rng.normal(size=t.shape) for t in layer.tensors(tuple(shape)))]
    assert len(arrays) == 1 + tensors
    dy = rng.normal(size=oracle.forward([layer], arrays[1:], arrays[0])[0].shape)

    def total(place: int, changed: np.ndarray) -> float:
        given = [*arrays[:place], changed, *arrays[place + 1 :]]
        return float((oracle.forward([layer], given[1:], given[0])[0] * dy).sum())

    dx, gradients = oracle.forward([layer], arrays[1:], arrays[0])[1](dy)
    for place, got in enumerate((dx, *gradients)):
        wanted = oracle.slopes(lambda array, place=place: total(place, array), arrays[place])
        np.testing.assert_allclose(got, wanted, atol=1e-7)


@pytest.mark.parametrize("padding", ["valid", "same", 1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_oracles_convolution_gradient_is_its_slope(size: int, padding: int | str) -> None:
    if not isinstance(padding, int) or padding < size:
        sloped(Convolution(3, size, padding), (2, 5, 4), tensors=2)


@pytest.mark.parametrize("bias", [True, False])
def test_the_oracles_dense_gradient_is_its_slope(bias: bool) -> None:
    sloped(Dense(4, bias), (2, 3, 2), tensors=1 + bias)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_the_oracles_response_normalization_gradient_is_its_slope(size: int) -> None:
    sloped(ResponseNormalization(size, 0.4, 0.6, 1.2), (6, 2, 3), tensors=0)
