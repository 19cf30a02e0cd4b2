"""The one model of a run's settings: the same for a TOML file, for `--set section.key=value` and for Python."""

import copy
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator


class InputError(ValueError):
    """What a user gave is wrong: shown as one message without a traceback, exit code 2."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Data(_Section):
    """Which images, and how often they are dealt anew."""

    path: str = "fashion-mnist-small"
    """A file made by `distsgd data import`, or the name of an embedded set."""
    train_images: int | None = Field(None, ge=1)
    """Use only the first so many training images."""
    reshuffle: int = Field(0, ge=0)
    """Deal the images to the workers anew every so many epochs; 0: never."""
    validation: float | None = Field(None, gt=0, lt=1)
    """Hold out this part of the training images of each class; not given: the file's validation images, if it has any."""


class Augment(_Section):
    """How training images change at random, anew in every epoch."""

    shift: int = Field(0, ge=0)
    """Pixels by which an image is moved at most, up or down and left or right; what comes in is the mean."""
    mirror: bool = False
    """Whether every other image has left and right exchanged."""
    crop: int | None = Field(None, ge=1)
    """Train on squares of so many pixels anywhere in the image, and judge the one in its middle."""


class ConvolutionLayer(_Section):
    """See `layers.Convolution`."""

    kind: Literal["convolution"] = "convolution"
    filters: int = Field(ge=1)
    size: int = Field(ge=1)
    padding: Annotated[int, Field(ge=0)] | Literal["valid", "same", "full"] = "valid"
    stride: int = Field(1, ge=1)
    groups: int = Field(1, ge=1)


class MaxPoolLayer(_Section):
    """See `layers.MaxPool`."""

    kind: Literal["max_pool"] = "max_pool"
    size: int = Field(ge=1, le=16)
    stride: int | None = Field(None, ge=1)


class AveragePoolLayer(_Section):
    """See `layers.AveragePool`."""

    kind: Literal["average_pool"] = "average_pool"
    size: int | None = Field(None, ge=1)
    stride: int | None = Field(None, ge=1)


class DenseLayer(_Section):
    """See `layers.Dense`; without `units` it has one a class: the last layer."""

    kind: Literal["dense"] = "dense"
    units: int | None = Field(None, ge=1)
    bias: bool = True


class RectifierLayer(_Section):
    """See `layers.Rectifier`."""

    kind: Literal["rectifier"] = "rectifier"


class DropoutLayer(_Section):
    """See `layers.Dropout`."""

    kind: Literal["dropout"] = "dropout"
    rate: float = Field(ge=0, lt=1)


ListedLayer = Annotated[
    ConvolutionLayer | MaxPoolLayer | AveragePoolLayer | DenseLayer | RectifierLayer | DropoutLayer,
    Field(discriminator="kind"),
]


class Network(_Section):
    """Which network: one of the zoo, or layers one by one."""

    name: str = Field("chavan-3-16-100", pattern=r"^[\w.-]+$")
    """A network of the zoo; beside `layers` any name, for the run's folder."""
    dropout: float = Field(0.25, ge=0, lt=1)
    """Rate behind the hidden dense layers of a network of the zoo."""
    layers: tuple[ListedLayer, ...] | None = Field(None, strict=False)
    """From the images to the scores."""

    @model_validator(mode="before")
    @classmethod
    def _without_a_zoo(cls, values: Any) -> Any:
        listed = isinstance(values, dict) and values.get("layers") is not None
        return {"name": "layers", "dropout": 0.0, **values} if listed else values


class _Descent(_Section):
    """What both optimizers have."""

    name: str
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """How the learning rate goes on after the warm-up."""
    step_epochs: int = Field(10, ge=1)
    """Schedule "step": epochs, from the first on, after which the learning rate is multiplied with step_factor, again and again."""
    step_factor: float = Field(0.1, gt=0, le=1)
    final: float = Field(0.0, ge=0, le=1)
    """Schedule "cosine": what is left of the learning rate at the end of the last epoch."""
    warmup: float = Field(0.0, ge=0)
    """Epochs, or a part of one, in which the learning rate rises linearly from zero."""
    scale: Literal["none", "linear", "sqrt"] = "none"
    """What else the learning rate is multiplied with: the number of workers (Goyal et al. 2017) or its square root.

    The linear rule is made for SGD with averaged gradients: one step on the workers' joined batches. Averaged parameters with
    period 1 are the same (without momentum exactly). In longer periods a worker takes the larger steps on its own small batches
    and must stand them until the next average: warm up, or use "sqrt", which is also for Adam (Malladi et al. 2022), or "none".
    """
    weight_decay: float = Field(0.0, ge=0)
    """Of weights. Biases are not decayed: few, they hardly overfit, and held back they underfit (Goodfellow et al. 2016, 7.1)."""
    clip: float | None = Field(None, gt=0)
    """The largest 2-norm of the whole gradient: of the average where gradients are averaged, else of a worker's own."""

    def problems(self, epochs: int) -> Iterator[str]:
        """What no single setting shows."""
        if self.warmup > epochs:
            yield f"optimizer.warmup = {self.warmup}: must be at most train.epochs, {epochs}"
        for key, schedule in (("step_epochs", "step"), ("step_factor", "step"), ("final", "cosine")):
            value = getattr(self, key)
            if schedule != self.schedule and value != type(self).model_fields[key].default:
                yield f"optimizer.{key} = {value}: is for {schedule!r}, but optimizer.schedule = {self.schedule!r}"


class Sgd(_Descent):
    """Stochastic gradient descent with momentum; weight decay is a part of the gradient, as in PyTorch's SGD."""

    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(0.05, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    """Step by the gradient and the momentum that comes after it."""

    def problems(self, epochs: int) -> Iterator[str]:
        """What no single setting shows."""
        yield from super().problems(epochs)
        if self.nesterov and self.momentum == 0:
            yield "optimizer.nesterov = true: there must be momentum, but optimizer.momentum = 0"


class Adam(_Descent):
    """Adam (Kingma & Ba 2015); weight decay is apart from the gradient, as in AdamW (Loshchilov & Hutter 2019)."""

    name: Literal["adam"] = "adam"
    learning_rate: float = Field(0.001, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)


def _optimizer_name(section: Any) -> Any:
    return section.get("name", "adam") if isinstance(section, dict) else getattr(section, "name", None)


Optimizer = Annotated[
    Annotated[Sgd, Tag("sgd")] | Annotated[Adam, Tag("adam")], Discriminator(_optimizer_name)
]

Period = Annotated[int, Field(ge=1)] | Literal["epoch", "once"]


class Averaging(_Section):
    """How many workers there are, and when and how they are averaged."""

    workers: int | None = Field(None, ge=1)
    """Logical SGD processes; not given: as many as ranks."""
    period: Period | None = None
    """Local steps between two averages: a number, "epoch", or "once" (only at the end); not given: 8, or 1 for gradients."""
    what: Literal["parameters", "gradients"] = "parameters"
    topology: Literal["allreduce", "master"] = "allreduce"
    reduction: Literal["exact", "fast"] = "exact"

    @property
    def rounds_of(self) -> int | Literal["epoch", "once"]:
        """The period, given or not."""
        return self.period or (1 if self.what == "gradients" else 8)


class Train(_Section):
    """How long, in which batches, from which seed."""

    epochs: int = Field(20, ge=1)
    batch: int = Field(32, ge=1, le=65536)
    """Images in a worker's step."""
    seed: int = Field(0, ge=0, lt=2**63)
    patience: int | None = Field(None, ge=1)
    """End after so many epochs without a better loss on the validation images; not given: after all epochs."""
    class_weights: Literal["none", "balanced"] = "none"
    """What an image's loss is multiplied with; balanced: with the inverse frequency of its class, one in the mean over images."""


class Checkpoint(_Section):
    """How often a run saves all that it needs to go on, and how many of these files are kept."""

    every: float = Field(60.0, ge=0)
    """Seconds between two; 0: only when the run is told to stop."""
    keep: int = Field(3, ge=1)


class Config(_Section):
    """All settings of a run."""

    data: Data = Data()
    augment: Augment = Augment()
    network: Network = Network()
    optimizer: Optimizer = Adam()
    averaging: Averaging = Averaging()
    train: Train = Train()
    checkpoint: Checkpoint = Checkpoint()

    def with_workers(self, workers: int) -> "Config":
        """The same settings with the number of workers written down, so that they say the whole experiment."""
        return self.model_copy(update={"averaging": self.averaging.model_copy(update={"workers": workers})})

    def problems(self) -> list[str]:
        """What no single setting shows."""
        averaging, network = self.averaging, self.network
        problems = list(self.optimizer.problems(self.train.epochs))
        if averaging.what == "gradients" and averaging.rounds_of != 1:
            problems.append(
                f"averaging.period = {averaging.period!r}: gradients are averaged at every step, so it must be 1"
            )
        if network.layers == ():
            problems.append("network.layers = []: must hold at least one layer, the last of kind 'dense'")
        if network.layers and network.dropout:
            problems.append(
                f"network.dropout = {network.dropout}: beside network.layers, list layers of kind 'dropout'"
            )
        return problems


def read(path: Path | None, changes: Sequence[str] = ()) -> tuple[Config, list[str]]:
    """Read a TOML file (None: all defaults) and apply `section.key=value` changes.

    Returns the settings and all that is wrong with them, one text each; where something is, its setting has the default. InputError
    where the file can't be read or is no TOML.
    """
    table = _table(path) if path else {}
    problems = [problem for change in changes if (problem := _change(table, change))]
    config, found = _checked(table)
    return config, problems + found + config.problems()


def read_table(table: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """The settings in nested mappings, as `read` returns those of a file."""
    config, found = _checked(copy.deepcopy({**table}))
    return config, found + config.problems()


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "; settings are given with --set" if "=" in path.name else ""
        raise InputError(f"cannot read the config {path}: {error.strerror}{hint}") from None
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}") from None


def _change(table: dict[str, Any], change: str) -> str | None:
    key, equals, text = change.partition("=")
    names = key.strip().split(".")
    if not equals or len(names) != 2:
        return f"--set {change}: must be section.key=value, for example --set train.epochs=3"
    section = table.setdefault(names[0], {})
    if not isinstance(section, dict):
        return f"--set {change}: {names[0]} is not a section"
    section[names[1]] = _value(text.strip())
    return None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text  # a plain word is a string: nobody quotes twice in a shell


def _checked(table: dict[str, Any]) -> tuple[Config, list[str]]:
    """The settings that are right, with what is said of the others."""
    problems: list[str] = []
    while True:
        try:
            return Config.model_validate(table), problems
        except ValidationError as error:
            # One a setting: a union has several.
            faults = {_path(fault["loc"]): fault for fault in error.errors()}
            problems += [_fault(path, fault, table) for path, fault in faults.items()]
            for keys in dict.fromkeys(tuple(_keys(fault["loc"])) for fault in faults.values()):
                _remove(table, keys)


def _keys(location: Sequence[int | str]) -> list[str]:
    """Section and key of a location, without the names of a union's members that pydantic puts between and behind."""
    section, *rest = (str(part) for part in location)
    return [section, *(rest[1:2] if section == "optimizer" else rest[:1])]


def _path(location: Sequence[int | str]) -> str:
    """The setting as a user would write it; network.layers[2].size is the second layer's."""
    name = ".".join(_keys(location))
    if len(location) < 3 or not isinstance(location[2], int):
        return name
    return f"{name}[{location[2] + 1}]" + (f".{location[4]}" if len(location) > 4 else "")


def _fault(name: str, fault: Mapping[str, Any], table: dict[str, Any]) -> str:
    given, message, keys = fault["input"], fault["msg"], _keys(fault["loc"])
    if name.startswith("network.layers["):
        return f"{name}: {_layer_fault(fault)}"
    if fault["type"] == "extra_forbidden":
        return f"{name}: there is no such setting; {_choices(keys, table)}"
    if fault["type"].startswith("union_tag") and not isinstance(given, dict):
        return f"{name} = {given!r}: must be a section, for example optimizer.name = 'adam'"
    if fault["type"] == "union_tag_invalid":
        return f"optimizer.name = {given.get('name')!r}: must be 'sgd' or 'adam'"
    if fault["type"] == "string_pattern_mismatch":
        return f"{name} = {given!r}: must be letters, digits, '_', '.' and '-'"
    if name == "network.layers":
        return f"{name} = {given!r}: must be a list of layers, for example [{{ kind = 'dense' }}]"
    if name == "averaging.period":
        return f"{name} = {given!r}: must be a whole number, at least 1, or 'epoch' or 'once'"
    return f"{name} = {given!r}: {message[0].lower()}{message[1:]}".replace("input should be", "must be")


def _layer_fault(fault: Mapping[str, Any]) -> str:
    kinds = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(ListedLayer)[0])}
    given, place, message = fault["input"], fault["loc"], fault["msg"]
    if fault["type"].startswith("union_tag") or len(place) < 5:
        kind = given.get("kind") if isinstance(given, dict) else given
        return f"kind = {kind!r}: must be one of {', '.join(kinds)}"
    settings = ", ".join(name for name in kinds[str(place[3])].model_fields if name != "kind")
    if fault["type"] == "extra_forbidden":
        return f"there is no such setting; a {place[3]} has {settings or 'none'}"
    if fault["type"] == "missing":
        return f"must be given; a {place[3]} has {settings}"
    if place[4] == "padding":
        return f"{given!r}: must be 'valid', 'same', 'full' or a number of zeros"
    return f"{given!r}: {message[0].lower()}{message[1:]}".replace("input should be", "must be")


def _choices(keys: Sequence[str], table: dict[str, Any]) -> str:
    sections: dict[str, type[BaseModel]] = {
        "data": Data,
        "augment": Augment,
        "network": Network,
        "averaging": Averaging,
        "train": Train,
        "checkpoint": Checkpoint,
    }
    sections["optimizer"] = Sgd if _optimizer_name(table.get("optimizer", {})) == "sgd" else Adam
    if len(keys) > 1 and keys[0] in sections:
        section = sections[keys[0]]
        which = f" {section.model_fields['name'].default!r}" if keys[0] == "optimizer" else ""
        return f"{keys[0]}{which} has {', '.join(section.model_fields)}"
    return f"the sections are {', '.join(Config.model_fields)}"


def _remove(table: dict[str, Any], keys: Sequence[str]) -> None:
    section, *key = keys
    if key:
        table[section].pop(key[0])
    elif section == "optimizer" and isinstance(
        table[section], dict
    ):  # its name is wrong: look at the rest all the same
        table[section]["name"] = "sgd" if "momentum" in table[section] else "adam"
    else:
        table.pop(section)


def differences(config: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """What each setting that is not the same is in the two, by "section.key"."""
    sections = config.model_dump(), other.model_dump()
    both = [
        {f"{name}.{key}": value for name in part for key, value in part[name].items()} for part in sections
    ]
    keys = dict.fromkeys([*both[0], *both[1]])
    return {key: (both[0].get(key), both[1].get(key)) for key in keys if both[0].get(key) != both[1].get(key)}


def to_toml(config: Config) -> str:
    """The settings as TOML, every one of them."""
    sections = []
    for name, section in config.model_dump(exclude_none=True).items():
        lines = [f"{key} = {_toml(value)}" for key, value in section.items()]
        sections.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(sections) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(part)}' for key, part in value.items())} }}"
    if isinstance(value, list | tuple):
        return "[\n" + "".join(f"    {_toml(part)},\n" for part in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
