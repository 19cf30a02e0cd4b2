"""`distsgd evaluate`: what a trained network says of a split of images, on every rank."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from distsgd import record, report
from distsgd.cli.ranks import BAD_INPUT, complain
from distsgd.comm import Ranks
from distsgd.config import InputError
from distsgd.metrics import mean
from distsgd.model import Model, load


def evaluate(run: Path, images: str, split: str, json_path: Path | None, ranks: Ranks) -> int:
    """Judge the split, say it, write it where asked; returns the exit code, the same on every rank."""
    model = _agreed(run, images, split, json_path, ranks)
    if model is None:
        return BAD_INPUT
    found = _found(model, images, split, ranks)
    if ranks.rank == 0:
        about = f"{found['images']:,} images of {found['data']}, split {split}"
        print(f"{run} on {about}; {ranks.size} rank{'s' * (ranks.size > 1)}\n\n{report.evaluation(found)}")
        if json_path is not None:
            record.write_whole(json_path, record.as_json({"run": str(run), **found}))
    return 0


def _agreed(run: Path, images: str, split: str, json_path: Path | None, ranks: Ranks) -> Model | None:
    """The network, where rank 0 has found all that was given right; None, after its one message, where it has not."""
    right, model = b"", None
    if ranks.rank == 0:
        try:
            model = load(run)
            model.fitting(images, split)
            if json_path is not None and not json_path.absolute().parent.is_dir():
                raise InputError(f"--json {json_path}: there is no folder {json_path.parent}")
            right = b"right"
        except InputError as error:
            complain(str(error))
    return (model or load(run)) if ranks.broadcast_bytes(right) else None


def _found(model: Model, images: str, split: str, ranks: Ranks) -> dict[str, Any]:
    """What the JSON file holds, the same on any number of ranks."""
    described, found = model.fitting(images, split), model.evaluate(images, split, ranks)
    by_class = found.by_class
    return {
        "data": described.path.name,
        "data_sha256": described.sha256,
        "split": split,
        "weights_sha256": record.weights_sha256(model.parameters),
        "images": found.score.samples,
        "accuracy": found.score.accuracy,
        "loss": found.score.loss,
        "mean_recall": mean(by_class.recall),
        "mean_precision": mean(by_class.precision),
        "class_names": list(model.class_names),
        **asdict(by_class),
    }
