"""Whole networks against the oracle's, against PyTorch's, and against themselves: places, padding, memory."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import oracle
import pytest

from distsgd import zoo
from distsgd.config import InputError
from distsgd.kernels.compiled import FLOAT
from distsgd.kernels.loss import LOSS_UNIT
from distsgd.kernels.vector import aligned
from distsgd.layers import (
    AveragePool,
    Convolution,
    Dense,
    Dropout,
    Layer,
    MaxPool,
    Rectifier,
    ResponseNormalization,
    Shape,
)
from distsgd.network import Network, Stage, initialize, plan, tensors
from distsgd.optim import Adam

Layers = Sequence[Layer | Rectifier]
CLASSES = 10
ZOO = {
    "garg": (1, 14, 13),
    "rendon": (1, 9, 11),
    "chavan-5-50-100": (1, 9, 10),
    "chavan-2-7-13": (3, 8, 6),
    "lenet5": (1, 12, 13),
    "cifar": (3, 8, 9),
    "fer": (1, 16, 16),
}
FULL = {
    name: (3, 32, 32) if name == "cifar" else (1, 28, 28) for name in ("garg", "rendon", "lenet5", "cifar")
}
# In small, what AlexNet does: strides, groups, normalization, windows that overlap; and a mean over the image at the end.
NORMALIZATION = ResponseNormalization(alpha=0.5)  # enough that neighbours matter
SMALL_ALEXNET: Layers = [
    *(Convolution(8, 7, 2, stride=4), Rectifier(), NORMALIZATION, MaxPool(3, 2)),
    *(Convolution(12, 3, 1, groups=2), Rectifier(), ResponseNormalization(4, 0.3, 0.6, 1.5), MaxPool(3, 2)),
    *(Convolution(16, 3, 2, stride=2, groups=4), Rectifier(), AveragePool(), Dense(CLASSES)),
]
THINNED: Layers = [
    *(Convolution(6, 3, 1), Rectifier(), Dropout(0.3), ResponseNormalization(3, 0.5), MaxPool(3, 2)),
    *(Convolution(8, 3, "same"), ResponseNormalization(4, 0.4), MaxPool(2), Dropout(0.5)),
    *(Dense(30), Rectifier(), Dropout(0.4), Dense(CLASSES)),
]
# Orders of layers that the zoo does not have: each joins two buffers, or two borders, in another way.
STACKS: dict[str, Layers] = {
    "dense alone": [Dense(CLASSES)],
    "convolution into dense": [Convolution(5, 3, "same"), Dense(CLASSES)],
    "rectified convolution into dense": [
        Convolution(5, 2),
        Rectifier(),
        Dense(17),
        Rectifier(),
        Dense(CLASSES),
    ],
    "dropout between convolutions": [
        *(Convolution(4, 3, 1), Rectifier(), Dropout(0.3), Convolution(6, 4, "same"), Rectifier()),
        *(Dropout(0.5), MaxPool(2), Dropout(0.2), Dense(CLASSES)),
    ],
    "dropout on images": [Dropout(0.2), Convolution(3, 2, "same"), Dropout(0.4), Dense(CLASSES, bias=False)],
    "pooling between convolutions": [
        *(MaxPool(2), Convolution(7, 2, 1), MaxPool(2), Convolution(5, 3, 2), Rectifier()),
        *(MaxPool(3), Dense(CLASSES)),
    ],
    "dense into convolution": [
        Dense(20),
        Rectifier(),
        Convolution(5, 2, "same"),
        Dropout(0.5),
        Dense(CLASSES),
    ],
    "only convolutions": [
        Convolution(8, 5),
        Rectifier(),
        Convolution(9, 4),
        Rectifier(),
        Convolution(CLASSES, 1),
    ],
    "pooling before the rectifier": [
        *(Convolution(5, 3, "same"), MaxPool(2), Rectifier(), Convolution(6, 2), MaxPool(3), Rectifier()),
        Dense(CLASSES),
    ],
    "strides and groups": [
        *(Convolution(6, 3, 1, stride=2), Rectifier(), Convolution(8, 3, "full", groups=2), Rectifier()),
        *(MaxPool(3, 2), Convolution(4, 2, "same", stride=2, groups=4), Rectifier(), Dense(CLASSES)),
    ],
    "small maps": [
        *(Convolution(18, 3, 1, stride=2), Rectifier(), Convolution(40, 3, "same", groups=2), Rectifier()),
        *(MaxPool(2), Convolution(17, 2, "full"), Rectifier(), Dense(CLASSES)),
    ],
    "means": [
        *(Convolution(6, 3, "same"), Rectifier(), AveragePool(2), Convolution(5, 2), AveragePool(2, 1)),
        *(Convolution(7, 1), Rectifier(), AveragePool(), Dense(CLASSES)),
    ],
    "normalization between convolutions": [
        *(
            Convolution(9, 3, 1, groups=1),
            Rectifier(),
            NORMALIZATION,
            MaxPool(3, 2),
            Convolution(8, 3, "same"),
        ),
        *(ResponseNormalization(4, 0.2, 0.6, 1.0), Convolution(6, 3, "full", groups=2), Rectifier()),
        *(MaxPool(3, 2), Dropout(0.3), Dense(16), Rectifier(), Dropout(0.5), Dense(CLASSES)),
    ],
    "normalization of images and of pooled": [
        *(ResponseNormalization(3, 0.1, 1.0, 1.0), Convolution(3, 3, "same"), Rectifier(), MaxPool(2)),
        *(ResponseNormalization(9, 0.4, 0.5, 2.0), Dense(12), ResponseNormalization(5, 0.7), Dense(CLASSES)),
    ],
    "pooling twice": [Convolution(5, 3), Rectifier(), MaxPool(2), MaxPool(3), Dense(CLASSES)],
    "pooling the scores": [Convolution(CLASSES, 2), MaxPool(7)],
}
NETWORKS: dict[str, tuple[Layers, Shape]] = {
    **{name: (zoo.layers(name, CLASSES), shape) for name, shape in ZOO.items()},
    **{f"{name} thinned": (zoo.layers(name, CLASSES, 0.4), shape) for name, shape in ZOO.items()},
    **{name: (layers, (2, 8, 8)) for name, layers in STACKS.items()},
    "small alexnet": (SMALL_ALEXNET, (3, 47, 51)),
}
DRAW = (11, 5, 77)


class Data:
    """Random images of a shape, their labels, an order, and a scaling."""

    def __init__(self, shape: Shape, samples: int = 90) -> None:
        rng, (channels, height, width) = np.random.default_rng(7), shape
        self.images = rng.integers(0, 256, (samples, height, width, channels)).astype(np.uint8)
        self.labels = rng.integers(0, CLASSES, samples)
        self.order = rng.permutation(samples)
        self.scaling = np.array([[120 + c for c in range(channels)], [0.0125] * channels], FLOAT)

    def fill(self, network: Network, first: int, count: int) -> None:
        network.batches[0].fill(self.images, self.labels, self.order, first, count, self.scaling)

    def exact(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The same images and labels in float64."""
        rows = self.order[first : first + count]
        return oracle.fill(self.images, rows, *self.scaling.astype(np.float64), count), self.labels[rows]


def start(stages: Sequence[Stage]) -> np.ndarray:
    """Random parameters, biases too."""
    parameters = aligned(sum(tensor.size for tensor in tensors(stages)))
    initialize(parameters, stages, 3)
    parameters += np.random.default_rng(4).normal(size=parameters.size) * 0.03
    return parameters


def split(vector: np.ndarray, stages: Sequence[Stage]) -> list[np.ndarray]:
    """A vector's tensors in float64."""
    sizes = np.cumsum([tensor.size for tensor in tensors(stages)])[:-1]
    parts = np.split(vector.astype(np.float64), sizes)
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors(stages), strict=True)]


def built(name: str, batch: int) -> tuple[Network, Data, Layers]:
    layers, shape = NETWORKS[name]
    stages = plan(layers, shape)
    return Network(stages, batch, start(stages)), Data(shape), layers


@pytest.mark.parametrize("batch", [23, 1, 48])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_gradient_is_the_oracles(name: str, batch: int) -> None:
    network, data, layers = built(name, batch)
    data.fill(network, 3, batch)
    network.learn(*DRAW)
    x, labels = data.exact(3, batch)
    given = split(network.parameters, network.stages)
    loss, wanted, _ = oracle.learn(layers, given, x, labels, draw=DRAW, lanes=network.lanes)
    for got, exact in zip(split(network.gradient, network.stages), wanted, strict=True):
        oracle.assert_close(got, exact, 1e-5 * abs(exact).max())
    assert network.totals[0] == batch
    assert abs(network.totals[2] * LOSS_UNIT / batch - loss) < 1e-5 * loss


@pytest.mark.parametrize("name", NETWORKS)
def test_the_oracles_gradients_are_its_slopes(name: str) -> None:
    # Along one random direction through all values of each tensor, and of the images.
    layers, shape = NETWORKS[name]
    rng, stages, data = np.random.default_rng(8), plan(layers, shape), Data(shape)
    x, labels = data.exact(0, 5)
    x += rng.normal(size=x.shape)  # no two bytes of a window are equal: the maximum would have no slope
    given = split(start(stages), stages)
    _, gradients, dx = oracle.learn(layers, given, x, labels, draw=DRAW, lanes=16)
    for place, slope in enumerate([dx, *gradients]):
        direction, step = rng.normal(size=slope.shape), 1e-6
        losses = []
        for sign in (1, -1):
            moved = [x, *given]
            moved[place] = moved[place] + sign * step * direction
            losses.append(oracle.learn(layers, moved[1:], moved[0], labels, draw=DRAW, lanes=16)[0])
        wanted = (losses[0] - losses[1]) / (2 * step)
        assert abs((slope * direction).sum() - wanted) < 1e-6 * (1 + np.linalg.norm(slope))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_to_a_layers_input_are_the_oracles(name: str) -> None:
    # The images' own gradient is never made: a convolution that hands them on shows it in its weights' and bias' gradients.
    layers, shape = NETWORKS[name]
    in_front: Layers = [Convolution(shape[0], 1), *layers]
    stages, data = plan(in_front, shape), Data(shape)
    network = Network(stages, 16, start(stages))
    network.parameters[: shape[0] ** 2] = np.eye(shape[0]).reshape(-1)
    network.parameters[shape[0] ** 2 : shape[0] ** 2 + shape[0]] = 0
    given = split(network.parameters, stages)
    for image in range(3):
        data.fill(network, image, 1)
        network.learn(*DRAW)
        x, labels = data.exact(image, 1)
        _, wanted, _ = oracle.learn(in_front, given, x, labels, draw=DRAW, lanes=16)
        for got, exact in zip(split(network.gradient, stages)[:2], wanted[:2], strict=True):
            oracle.assert_close(
                got, exact, 5e-4 * abs(exact).max()
            )  # of one channel it is one number, much of it cancelled


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", [*FULL, "small alexnet", "thinned"])
def test_pytorch_finds_the_same_loss_and_gradients(name: str) -> None:
    torch = pytest.importorskip("torch", reason="NO SECOND OPINION: PyTorch is not installed")
    # From the 24th image on: the two largest of a window of the 12th and 23rd differ by 2e-7, where float32 may take the other.
    layers = zoo.layers(name, CLASSES) if name in FULL else {"thinned": THINNED}.get(name, SMALL_ALEXNET)
    first, count, shape = 23, 21, FULL.get(name, (3, 47, 51))
    stages, data = plan(layers, shape), Data(shape)
    network = Network(stages, count, start(stages))
    data.fill(network, first, count)
    network.learn(*DRAW)
    x, labels = data.exact(first, count)
    given = [torch.tensor(part, requires_grad=True) for part in split(network.parameters, stages)]
    scores = in_pytorch(torch.nn.functional, layers, given, torch.tensor(x.transpose(3, 0, 1, 2)))
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor(labels))
    loss.backward()
    assert abs(network.totals[2] * LOSS_UNIT / count - loss.item()) < 1e-5 * loss.item()
    for got, tensor in zip(split(network.gradient, stages), given, strict=True):
        wanted = tensor.grad.numpy()
        oracle.assert_close(got, wanted, 1e-5 * abs(wanted).max())


def in_pytorch(functional: object, layers: Layers, given: list, x: object) -> object:
    """The zoo's layers by PyTorch's functions; "same" is PyTorch's own."""
    rest = iter(given)
    number = -1
    for layer in layers:
        number += not isinstance(layer, Rectifier)
        if isinstance(layer, Convolution):
            weights = next(rest)  # (groups, channels, size, size, filters of a group)
            weights = weights.reshape(layer.groups, *weights.shape[-4:]).permute(0, 4, 1, 2, 3).flatten(0, 1)
            strides = {"padding": layer.padding, "stride": layer.stride, "groups": layer.groups}
            x = functional.conv2d(x, weights, next(rest), **strides)
        elif isinstance(layer, Dense):
            x = functional.linear(x.flatten(1), next(rest).T, next(rest) if layer.bias else None)
        elif isinstance(layer, ResponseNormalization):
            x = functional.local_response_norm(x, layer.size, layer.alpha, layer.beta, layer.k)
        elif isinstance(layer, Dropout):
            x = thinned(layer, number, x)
        elif isinstance(layer, AveragePool):
            x = functional.avg_pool2d(x, layer.size or x.shape[2:], layer.stride)
        else:
            x = functional.relu(x) if isinstance(layer, Rectifier) else pooled(functional, layer, x)
    return x


def thinned(layer: Dropout, number: int, x: object) -> object:
    """Times what is drawn, for lanes of whole registers; the rest is PyTorch's."""
    count, *shape = x.shape
    shape += [1] * (3 - len(shape))
    mask = oracle.dropout_mask((*shape, -(-count // 16) * 16), DRAW, number, layer.rate)[..., :count]
    return x * x.new_tensor(mask.transpose(3, 0, 1, 2).reshape(x.shape))


def pooled(functional: object, layer: MaxPool, x: object) -> object:
    return functional.max_pool2d(x, layer.size, layer.stride)


@pytest.mark.parametrize("name", NETWORKS)
def test_padded_images_of_a_batch_add_nothing(name: str) -> None:
    # 16 images fill 16 lanes; the same 16 in wider batches, after other images were there, give the same bits.
    layers, shape = NETWORKS[name]
    layers = [layer for layer in layers if not isinstance(layer, Dropout)]  # it depends on the place
    stages, data = plan(layers, shape), Data(shape)
    found = []
    for batch in (16, 23, 48, 70):
        network = Network(stages, batch, start(stages))
        data.fill(network, 20, batch)
        network.learn(*DRAW)
        network.totals[:] = 0
        data.fill(network, 3, 16)
        network.learn(*DRAW)
        found.append((network.gradient.tobytes(), network.totals.tolist()))
    assert found == [found[0]] * 4


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_do_not_depend_on_an_images_place_or_on_the_batch(name: str) -> None:
    layers, shape = NETWORKS[name]
    stages, data = plan(layers, shape), Data(shape)
    parameters, found = start(stages), []
    turned = np.random.default_rng(1).permutation(60)
    for batch, order in (
        (60, data.order[:60]),
        (60, data.order[:60][turned]),
        (7, data.order[:60]),
        (20, data.order),
    ):
        network, scores = Network(stages, batch, parameters), {}
        for first in range(0, 60, batch):
            count = min(batch, 60 - first)
            network.batches[0].fill(data.images, data.labels, order, first, count, data.scaling)
            network.judge()
            columns = network.scores.units[:, :count].T
            scores |= dict(zip(order[first : first + count].tolist(), columns.copy(), strict=True))
        assert network.totals[0] == 60
        found.append((network.totals.tolist(), {row: scores[row].tobytes() for row in sorted(scores)}))
    assert found == [found[0]] * 4


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_of_a_batch_is_left_for_the_next(name: str) -> None:
    # Not even of one that was nothing but NaN: what was to stay zero is zero.
    network, data, _ = built(name, 23)
    data.fill(network, 0, 23)
    network.learn(*DRAW)
    wanted = network.gradient.tobytes()
    network.batches[0].fill(data.images, data.labels, data.order, 30, 23, np.full_like(data.scaling, np.nan))
    network.learn(*DRAW)
    assert np.isnan(network.gradient).any()
    assert network.totals[3] > 0
    data.fill(network, 0, 23)
    network.learn(*DRAW)
    assert network.gradient.tobytes() == wanted


@pytest.mark.parametrize("name", NETWORKS)
def test_one_nan_parameter_reaches_the_loss_and_the_gradient(name: str) -> None:
    network, data, _ = built(name, 16)
    first = tensors(network.stages)[0].size
    for place in (0, first - 1, network.parameters.size - 1):
        kept, network.parameters[place] = network.parameters[place], np.nan
        data.fill(network, 0, 16)
        network.totals[:] = 0
        network.learn(*DRAW)
        network.parameters[place] = kept
        assert np.isnan(network.gradient).any()
        assert network.totals[3] > 0


@pytest.mark.parametrize("name", ["garg thinned", "lenet5 thinned", "dropout between convolutions"])
def test_each_draw_drops_other_values_and_judging_none(name: str) -> None:
    network, data, layers = built(name, 32)
    data.fill(network, 0, 32)

    def gradient(*draw: int) -> bytes:
        network.learn(*draw)
        return network.gradient.tobytes()

    draws = [(11, 5, 77), (12, 5, 77), (11, 6, 77), (11, 5, 78)]
    assert len({gradient(*draw) for draw in draws}) == 4
    assert gradient(*DRAW) == gradient(*DRAW)
    network.judge()
    plain = [layer for layer in layers if not isinstance(layer, Dropout)]
    other = Network(plan(plain, network.stages[0].shape), 32, network.parameters)
    data.fill(other, 0, 32)
    other.judge()
    assert other.scores.units.tobytes() == network.scores.units.tobytes()


@pytest.mark.parametrize(
    "name", ["garg thinned", "cifar", "dropout between convolutions", "dense into convolution"]
)
@pytest.mark.parametrize("batches", [1, 2])
def test_a_training_step_allocates_nothing(name: str, batches: int) -> None:
    network, data, _ = built(name, 70)
    state = aligned(3 * network.parameters.size)
    network = Network(network.stages, 70, state[: network.parameters.size], batches)
    initialize(network.parameters, network.stages, 1)
    steps = Adam(0.001, 0.9, 0.999, 1e-8).bind(state, network.gradient)
    arrays = (
        state,
        network.gradient,
        network.labels,
        network.totals,
        network.images.buffer,
        network.scores.buffer,
    )
    places = [array.ctypes.data for array in arrays]

    def step(number: int) -> None:
        network.turn()
        data.fill(network, number % 20, 70)
        network.learn(1, 2, number)
        steps.step(number + 1)

    for number in range(3):
        step(number)
    tracemalloc.start()
    step(3)
    before, most = tracemalloc.get_traced_memory()[0], 0
    for number in range(4, 54):
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        step(number)
        most = max(most, tracemalloc.get_traced_memory()[1] - held)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert most < 600, "views may come and go, but a copy of the labels alone is 640 bytes"
    assert after - before < 250
    assert places == [array.ctypes.data for array in arrays]


def test_totals_are_added_up_and_learning_reads_the_parameters_only() -> None:
    network, data, _ = built("rendon", 20)
    before = network.parameters.copy()
    data.fill(network, 0, 20)
    network.learn(*DRAW)
    once = network.totals.copy()
    network.judge()
    np.testing.assert_array_equal(network.totals, 2 * once)
    np.testing.assert_array_equal(network.parameters, before)


def test_a_batch_of_nothing_has_no_gradient() -> None:
    network, data, _ = built("lenet5", 20)
    data.fill(network, 0, 0)
    network.learn(*DRAW)
    assert not network.gradient.any()
    assert not network.totals.any()


@pytest.mark.parametrize("size", [1, 15, 17, (3, 5, 7), 1000])
def test_memory_begins_at_a_cache_line(size: int | tuple[int, ...]) -> None:
    for dtype in (np.float32, np.uint8):
        array = aligned(size, dtype)
        assert array.ctypes.data % 64 == 0
        assert array.dtype == dtype
        assert array.shape == (size if isinstance(size, tuple) else (size,))
        assert not array.any()


# Recorded once. They change only if every experiment's results may change.
GOLDEN_START = [0.6002326607704163, -1.21479070186615, -0.29987621307373047]


def test_he_start() -> None:
    stages = plan(zoo.layers("garg", CLASSES), (1, 28, 28))
    parameters = np.full(sum(tensor.size for tensor in tensors(stages)), 9, np.float32)
    initialize(parameters, stages, seed=5)
    for part, tensor in zip(split(parameters, stages), tensors(stages), strict=True):
        if tensor.name.endswith("bias"):
            assert not part.any()
            continue
        inputs = tensor.size // tensor.shape[-1]
        limit = (6 / inputs) ** 0.5
        assert abs(part).max() <= np.float32(limit)
        assert abs(part).max() > 0.95 * limit
        assert abs(part.mean()) < 4 * limit / (3 * part.size) ** 0.5
        assert abs(part.std() / limit * 3**0.5 - 1) < 3 / part.size**0.5


def test_the_start_is_the_one_it_always_was_and_every_seed_and_tensor_has_its_own() -> None:
    stages = plan([Dense(50), Dense(50, bias=False)], (50, 1, 1))
    starts = [np.zeros(5050, np.float32) for _ in range(3)]
    for parameters, seed in zip(starts, (0, 0, 1), strict=True):
        initialize(parameters, stages, seed)
    np.testing.assert_array_equal(starts[0], starts[1])
    assert np.mean(starts[0][:2500] == starts[2][:2500]) < 0.01
    assert np.mean(starts[0][:2500] == starts[0][2550:]) < 0.01
    small = np.zeros(4, np.float32)
    initialize(small, plan([Dense(1)], (3, 1, 1)), 42)
    assert small.tolist() == [*GOLDEN_START, 0]


def test_poolings_and_rectifiers_join_the_convolution_before_them() -> None:
    layers = [
        Convolution(2, 3),
        MaxPool(2),
        Rectifier(),
        Convolution(3, 2),
        Rectifier(),
        MaxPool(2),
        MaxPool(1),
    ]
    stages = plan([*layers, Dense(4)], (1, 10, 10))
    joined = [Convolution(2, 3, pool=2), Convolution(3, 2, pool=2), MaxPool(1), Dense(4)]
    assert [stage.layer for stage in stages] == joined
    assert [stage.number for stage in stages] == [1, 3, 5, 6]
    assert [stage.rectify for stage in stages] == [True, True, False, False]
    assert [stage.output for stage in stages] == [(2, 4, 4), (3, 1, 1), (3, 1, 1), (4, 1, 1)]


def test_tensors_are_named_by_the_layers_number() -> None:
    stages = plan([Convolution(2, 3), Rectifier(), MaxPool(2), Dense(4), Dense(5, bias=False)], (1, 8, 8))
    names = ["1.weights", "1.bias", "3.weights", "3.bias", "4.weights"]
    assert [tensor.name for tensor in tensors(stages)] == names


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [Rectifier(), Dense(3)],
            "layer 1: a rectifier must follow a convolution, a max pooling without overlap",
        ),
        ([Dense(3), Dropout(0.5), Rectifier()], "layer 3: a rectifier must follow a convolution"),
        ([Convolution(3, 2), MaxPool(2), MaxPool(2), Rectifier()], "layer 4: a rectifier must follow"),
        (
            [Convolution(3, 2), MaxPool(3, 2), Rectifier()],
            "layer 3: .* a max pooling without overlap behind one",
        ),
        ([MaxPool(2), Rectifier()], "layer 2: .* a max pooling without overlap behind one, or a dense layer"),
        ([Convolution(3, 2), Rectifier(), MaxPool(9)], "layer 3: a 9x9 pooling does not fit an input of 7x7"),
        ([MaxPool(2), Convolution(3, 6)], "layer 2: a 6x6 convolution does not fit an input of 4x4"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(layers: Layers, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(layers, (1, 8, 8))
