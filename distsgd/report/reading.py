"""What pictures are drawn from: run.json and metrics.jsonl, trusted in nothing."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distsgd.clock import PHASES
from distsgd.config import InputError
from distsgd.metrics import MOST_CONFUSED
from distsgd.record import read_bounded, read_summary

MOST_EPOCHS = 1_000_000
MOST_RANKS = 1_000_000
MOST_ROUNDS = 10_000
MOST_TEXT = 200
MOST_PATH = 4096
MOST_SETTINGS = 1 << 20

Text = Annotated[str, Field(max_length=MOST_TEXT)]
Count = Annotated[int, Field(ge=0, lt=2**40)]
Seconds = Annotated[float, Field(ge=0, lt=1e9)]
BySeconds = dict[Text, Seconds]
Rounds = Annotated[
    list[Annotated[list[Seconds], Field(max_length=len(PHASES))]], Field(max_length=MOST_ROUNDS)
]
Row = Annotated[list[Count], Field(max_length=MOST_CONFUSED)]


class Read(BaseModel):
    """What was read; unknown keys are nothing to it."""

    model_config = ConfigDict(frozen=True, strict=True)


class Part(Read):
    """Loss and accuracy of an epoch on training, validation or test images."""

    accuracy: float = Field(ge=0, le=1)
    loss: float | None = Field(ge=0, lt=1e9)


class Epoch(Read):
    """A line of metrics.jsonl. A run with validation images tests only its end."""

    epoch: int = Field(ge=1, lt=2**40)
    train: Part
    test: Part | None = None
    validation: Part | None = None


class FirstRounds(Read):
    """Seconds of each of `phases` in each of a run's first rounds, rank by rank; fewer rounds where the run had no more."""

    phases: Annotated[list[Text], Field(max_length=len(PHASES))] = []
    seconds_by_rank: Annotated[list[Rounds], Field(max_length=MOST_RANKS)] = []


class SlowRank(Read):
    """A rank that was found slow after a round."""

    rank: Count
    round: Count
    times: Seconds


class Machine(Read):
    """Where a run was."""

    host: Text = ""
    hosts: Annotated[list[Text], Field(max_length=MOST_RANKS)] = []
    mpi: Text = ""
    oversubscribed: bool | None = None


class Summary(Read):
    """Of run.json what is shown. A run that ended early has less of it."""

    outcome: Text
    version: Text = ""
    network: Text = ""
    parameters: Count = 0
    ranks: Count = 0
    workers: Count = 0
    epochs_done: Count = 0
    rounds: Count = 0
    rounds_timed: Count | None = None
    """Of which the seconds are: not those before the run was resumed. None: the run is of an earlier version."""
    ranks_lost: Count = 0
    test_accuracy: float | None = Field(None, ge=0, le=1)
    test_loss: Seconds | None = None
    images_per_second: float | None = Field(None, ge=0, lt=1e15)
    peak_memory_bytes: Count = 0
    weights_sha256: Text = ""
    data_sha256: Text = ""
    machine: Machine = Machine()
    machine_file: Annotated[str, Field(max_length=MOST_PATH)] = ""
    seconds: BySeconds = {}
    predicted_seconds: BySeconds | None = None
    predicted_interval: dict[Text, Annotated[list[Seconds], Field(min_length=2, max_length=2)]] | None = None
    first_rounds: FirstRounds = FirstRounds()
    slow_ranks: Annotated[list[SlowRank], Field(max_length=MOST_RANKS)] = []
    class_names: Annotated[list[Text], Field(max_length=MOST_CONFUSED)] = []
    confusion: Annotated[list[Row], Field(max_length=MOST_CONFUSED)] = []
    seconds_by_rank: Annotated[list[dict[Text, Seconds]], Field(max_length=MOST_RANKS)] = []


def read_run(folder: Path) -> tuple[Summary, list[Epoch]]:
    """The run's summary and its epochs. InputError where a file is not there, or something in it can't be."""
    content = read_summary(folder)
    if len(content.get("class_names") or []) > MOST_CONFUSED:
        content["class_names"] = []  # of so many there is no matrix to name
    summary: Summary = checked(folder / "run.json", Summary, content)
    classes = len(summary.confusion)
    if any(len(row) != classes for row in summary.confusion):
        raise InputError(f"{folder / 'run.json'}: confusion has rows of other than {classes} numbers")
    if classes and len(summary.class_names) not in (0, classes):
        raise InputError(
            f"{folder / 'run.json'}: {len(summary.class_names)} class_names for {classes} classes"
        )
    for rank in summary.seconds_by_rank:
        rank.setdefault("data", 0.0)  # earlier runs counted it as "load"
    if any(set(PHASES) - set(rank) for rank in summary.seconds_by_rank):
        raise InputError(f"{folder / 'run.json'}: seconds_by_rank lacks a phase; wanted: {', '.join(PHASES)}")
    first = summary.first_rounds
    if any(len(row) != len(first.phases) for rank in first.seconds_by_rank for row in rank):
        raise InputError(
            f"{folder / 'run.json'}: first_rounds has rows of other than {len(first.phases)} numbers"
        )
    return summary, _epochs(folder / "metrics.jsonl")


def read_settings(folder: Path) -> str:
    """The run's config.toml, as it is; nothing where there is none."""
    path = folder / "config.toml"
    return read_bounded(path)[:MOST_SETTINGS].decode(errors="replace") if path.is_file() else ""


def _epochs(path: Path) -> list[Epoch]:
    lines = read_bounded(path).splitlines() if path.exists() else []
    if len(lines) > MOST_EPOCHS:
        raise InputError(f"{path} has {len(lines):,} lines; at most {MOST_EPOCHS:,} are read")
    return [checked(path, Epoch, line, f"line {number + 1}: ") for number, line in enumerate(lines)]


def checked(path: Path, kind: type[BaseModel], content: Any, where: str = "") -> Any:
    """The content, JSON or what was read of it, as that kind. Raises InputError with the first fault."""
    try:
        if isinstance(content, bytes):
            return kind.model_validate_json(content)
        return kind.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        keys = ".".join(str(part) for part in fault["loc"])
        raise InputError(f"{path}: {where}{keys}{': ' if keys else ''}{fault['msg']}") from None
