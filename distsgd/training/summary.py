"""What a run came to, as its files say it."""

import json
import platform
from dataclasses import asdict
from typing import Any

from distsgd import __version__, network
from distsgd.clock import Clock, peak_memory
from distsgd.comm import Ranks
from distsgd.kernels.vector import FUSED, VECTOR
from distsgd.metrics import mean
from distsgd.record import weights_sha256
from distsgd.training.loop import Result, Training
from distsgd.training.timeline import PHASES


def description(training: Training) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the numbers in model.h5 are: each tensor's name and shape, the network, and how images are scaled."""
    experiment, images = training.experiment, training.experiment.images
    tensors = [{"name": tensor.name, "shape": tensor.shape} for tensor in network.tensors(experiment.stages)]
    about = {
        "network": experiment.config.network.model_dump(mode="json", exclude_none=True),
        "classes": images.classes,
        "class_names": images.class_names,
        "image_shape": [images.channels, images.height, images.width],
        "seen_shape": list(experiment.stages[0].shape),
        "scaling": training.scaling.tolist(),
    }
    return tensors, about


def conclude(training: Training, result: Result, ranks: Ranks, clock: Clock) -> dict[str, Any] | None:
    """What run.json holds, from what all ranks have to say; None on ranks but 0. All ranks call this together."""
    with clock.phase("wait"):
        ranks.barrier()
    part = {
        "seconds": clock.seconds(),
        "peak_memory_bytes": peak_memory(),
        "rounds": training.timeline.rounds,
    }
    parts = [json.loads(part) for part in ranks.gather_bytes(json.dumps(part).encode())]
    return _summary(training, ranks, result, parts) if parts else None


def diverged(training: Training, ranks: Ranks) -> dict[str, Any]:
    """What run.json holds of a run that came to no numbers."""
    about = {"version": __version__, "outcome": "diverged", "ranks": ranks.size, "ranks_lost": 0}
    return {**about, "workers": training.experiment.workers, "rounds": training.rounds_done}


def _summary(training: Training, ranks: Ranks, result: Result, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """`parts` are the ranks' own, in their order."""
    experiment, best = training.experiment, result.best
    settings = experiment.config
    validation = best.validation
    seconds = [part["seconds"] for part in parts]
    return {
        "version": __version__,
        "outcome": "finished",
        "network": settings.network.name,
        "parameters": int(result.parameters.size),
        "ranks": ranks.size,
        "threads": settings.train.threads,
        "workers": experiment.workers,
        "ranks_lost": 0,
        "resumed": [],
        "replay": settings.train.replay,
        "epochs": settings.train.epochs,
        "epochs_done": result.last.epoch,
        "best_epoch": best.epoch,
        "rounds": result.rounds,
        "rounds_timed": max(result.rounds - training.rounds_before, 0),
        "steps": result.steps,
        "test_accuracy": result.test.accuracy,
        "test_loss": result.test.loss,
        "validation_accuracy": validation.accuracy if validation else None,
        "validation_loss": validation.loss if validation else None,
        "train_accuracy": best.train.accuracy,
        "train_loss": best.train.loss,
        "mean_recall": mean(result.by_class.recall),
        "mean_precision": mean(result.by_class.precision),
        "images_per_second": result.last.images_per_second,
        "peak_memory_bytes": max(part["peak_memory_bytes"] for part in parts),
        "weights_sha256": weights_sha256(result.parameters),
        "data_sha256": experiment.images.sha256,
        "class_names": list(experiment.images.class_names),
        **asdict(result.by_class),
        "seconds": {phase: sum(rank[phase] for rank in seconds) / len(seconds) for phase in seconds[0]},
        "seconds_by_rank": seconds,
        "first_rounds": {"phases": PHASES, "seconds_by_rank": [part["rounds"] for part in parts]},
        "slow_ranks": [asdict(slow) for slow in training.slow],
        "machine": {
            "vector_lanes": VECTOR,
            "fused": FUSED,
            "mpi": ranks.mpi_library(),
            "algorithm": training.algorithm,
            "host": platform.node(),
        },
    }
