"""The zoo: each network's parameters counted by hand, its names, where dropout stands."""

import pytest

from distsgd import zoo
from distsgd.config import InputError, Network
from distsgd.layers import AveragePool, Convolution, Dense, Dropout, MaxPool, Rectifier, ResponseNormalization
from distsgd.network import plan, tensors
from distsgd.zoo import layers

GREY = 1, 28, 28
# Shapes of all tensors with 10 classes: convolutions (channels, height, width, filters), dense (inputs, units).
SHAPES = {
    "garg": [(1, 5, 5, 8), (8,), (8, 5, 5, 8), (8,), (8 * 10 * 10, 128), (128, 10)],
    "rendon": [(1, 2, 2, 4), (4,), (4, 2, 2, 4), (4,), (4 * 7 * 7, 128), (128,), (128, 10), (10,)],
    "chavan-5-50-100": [(1, 5, 5, 50), (50,), (50 * 12 * 12, 100), (100,), (100, 10), (10,)],
    "chavan-3-2-7": [(1, 3, 3, 2), (2,), (2 * 13 * 13, 7), (7,), (7, 10), (10,)],
    "lenet5": [
        *((1, 5, 5, 6), (6,), (6, 5, 5, 16), (16,)),
        *((16 * 5 * 5, 120), (120,), (120, 84), (84,), (84, 10), (10,)),
    ],
    "cifar": [
        *((3, 5, 5, 32), (32,), (32, 5, 5, 32), (32,), (32, 5, 5, 64), (64,)),
        *((64 * 4 * 4, 64), (64,), (64, 10), (10,)),
    ],
    "vgg11": [
        *((3, 3, 3, 64), (64,), (64, 3, 3, 128), (128,), (128, 3, 3, 256), (256,), (256, 3, 3, 256), (256,)),
        *(
            (256, 3, 3, 512),
            (512,),
            *((512, 3, 3, 512), (512,)) * 3,
            *((512, 512), (512,)) * 2,
            (512, 10),
            (10,),
        ),
    ],
    "alexnet-small": [
        *((3, 5, 5, 48), (48,), (2, 24, 5, 5, 64), (128,), (128, 3, 3, 192), (192,)),
        *((2, 96, 3, 3, 96), (192,), (2, 96, 3, 3, 64), (128,)),
        *((128 * 6 * 6, 512), (512,), (512, 512), (512,), (512, 10), (10,)),
    ],
    "alexnet": [
        *((3, 11, 11, 96), (96,), (2, 48, 5, 5, 128), (256,), (256, 3, 3, 384), (384,)),
        *((2, 192, 3, 3, 192), (384,), (2, 192, 3, 3, 128), (256,)),
        *((256 * 6 * 6, 4096), (4096,), (4096, 4096), (4096,), (4096, 10), (10,)),
    ],
}
COUNTS = {
    "garg": 105_496,
    "rendon": 26_594,
    "chavan-5-50-100": 1_300 + 720_100 + 1_010,
    "chavan-3-2-7": 20 + 2_373 + 80,
    "lenet5": 156 + 2_416 + 48_120 + 10_164 + 850,
    "cifar": 2_432 + 25_632 + 51_264 + 65_600 + 650,
    "vgg11": 1_792 + 73_856 + 885_248 + 3_539_968 + 4_719_616 + 2 * 262_656 + 5_130,
    "alexnet-small": 3_648 + 76_928 + 221_376 + 166_080 + 110_720 + 2_359_808 + 262_656 + 5_130,
    "alexnet": 34_944 + 307_456 + 885_120 + 663_936 + 442_624 + 37_752_832 + 16_781_312 + 40_970,
}

WRONG = [
    "",
    "Garg",
    "garg ",
    "alexnet-large",
    "chavan",
    "chavan-5-50",
    "chavan-5-50-100-2",
    "chavan-K-F-H",
    "xchavan-5-50-100",
]
WRONG += ["chavan-0-50-100", "chavan-5-0-1", "chavan-5-5-0", "chavan--5-50-100", "chavan-5.0-50-100"]


@pytest.mark.parametrize("name", COUNTS)
def test_parameters(name: str) -> None:
    found = tensors(plan(layers(name, 10), zoo.MADE_FOR.get(name, GREY)))
    assert [tensor.shape for tensor in found] == SHAPES[name]
    assert sum(tensor.size for tensor in found) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("classes", [2, 10, 47])
def test_one_score_a_class_and_none_is_rectified(classes: int, name: str) -> None:
    last = plan(layers(name, classes, 0.5), zoo.MADE_FOR.get(name, GREY))[-1]
    assert last.output == (classes, 1, 1)
    assert not last.rectify
    assert isinstance(last.layer, Dense)


@pytest.mark.parametrize("name", COUNTS)
def test_every_hidden_layer_is_rectified(name: str) -> None:
    stages = plan(layers(name, 10), zoo.MADE_FOR.get(name, GREY))
    assert all(stage.rectify for stage in stages[:-1] if stage.tensors)


@pytest.mark.parametrize("name", COUNTS)
def test_dropout_stands_behind_the_rectifiers_of_hidden_dense_layers(name: str) -> None:
    plain, thinned = layers(name, 10), layers(name, 10, 0.25)
    assert [layer for layer in thinned if not isinstance(layer, Dropout)] == plain
    places = [place for place, layer in enumerate(thinned) if isinstance(layer, Dropout)]
    assert len(places) == (2 if name in ("lenet5", "vgg11", "alexnet-small", "alexnet") else 1)
    for place in places:
        assert thinned[place] == Dropout(0.25)
        assert isinstance(thinned[place - 1], Rectifier)
        assert isinstance(thinned[place - 2], Dense)
        assert isinstance(thinned[place + 1], Dense)


@pytest.mark.parametrize(
    ("name", "given", "rate"),
    [("garg", None, 0.25), ("alexnet", None, 0.5), ("alexnet-small", None, 0.5), ("alexnet", 0.1, 0.1)],
)
def test_an_alexnet_drops_half_as_its_paper_does(name: str, given: float | None, rate: float) -> None:
    found = zoo.chosen(Network(name=name, dropout=given), 10)
    assert {layer.rate for layer in found if isinstance(layer, Dropout)} == {rate}


def test_no_dropout_unless_it_is_asked_for() -> None:
    assert not any(isinstance(layer, Dropout) for name in COUNTS for layer in layers(name, 10, 0.0))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_is_refused_and_the_right_ones_are_shown(name: str) -> None:
    with pytest.raises(InputError) as error:
        layers(name, 10)
    assert repr(name) in str(error.value)
    for right in ("garg", "rendon", "lenet5", "cifar", "chavan-K-F-H", "chavan-5-50-100"):
        assert right in str(error.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("garg", (1, 9, 28)), ("rendon", (1, 3, 3)), ("lenet5", (1, 11, 28)), ("cifar", (3, 7, 32))],
)
def test_images_that_are_too_small_are_refused(name: str, shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=r"layer \d+: a .* does not fit an input of"):
        plan(layers(name, 10), shape)


def test_alexnet_is_that_of_2012() -> None:
    stages = plan(layers("alexnet", 1000), (3, 224, 224))
    assert sum(tensor.size for tensor in tensors(stages)) == 60_965_224
    kinds = [type(stage.layer).__name__ for stage in stages[:7]]
    first = ["Convolution", "ResponseNormalization", "MaxPool"]
    assert kinds == [*first, *first, "Convolution"]
    normalization = stages[1].layer
    assert isinstance(normalization, ResponseNormalization)
    size, alpha, beta, k = (getattr(normalization, name) for name in ("size", "alpha", "beta", "k"))
    assert (size, alpha / size, beta, k) == (5, 1e-4, 0.75, 2)  # the paper's alpha is the factor of the sum
    assert stages[1].rectified
    maps = [stage.output for stage in stages if stage.output[1] > 1]
    assert maps[::3] == [(96, 55, 55), (256, 27, 27), (384, 13, 13), (256, 6, 6)]


def test_a_listed_network_is_the_same_as_one_by_name() -> None:
    listed = [
        {"kind": "convolution", "filters": 4, "size": 2, "padding": "same"},
        {"kind": "rectifier"},
        {"kind": "convolution", "filters": 4, "size": 2, "padding": "same"},
        {"kind": "rectifier"},
        {"kind": "max_pool", "size": 4},
        {"kind": "dense", "units": 128},
        {"kind": "rectifier"},
        {"kind": "dense"},
    ]
    assert zoo.chosen(Network.model_validate({"layers": listed}), 10) == layers("rendon", 10)


def test_a_list_may_hold_every_kind_of_layer() -> None:
    listed = [
        {"kind": "convolution", "filters": 4, "size": 3, "padding": 1, "stride": 2, "groups": 2},
        {"kind": "max_pool", "size": 3, "stride": 2},
        {"kind": "response_normalization", "size": 3, "k": 1.0},
        {"kind": "average_pool"},
        {"kind": "dropout", "rate": 0.5},
        {"kind": "dense", "bias": False},
    ]
    assert zoo.chosen(Network.model_validate({"layers": listed}), 7) == [
        Convolution(4, 3, 1, 2, 2),
        MaxPool(3, 2),
        ResponseNormalization(3, k=1.0),
        AveragePool(),
        Dropout(0.5),
        Dense(7, False),
    ]
