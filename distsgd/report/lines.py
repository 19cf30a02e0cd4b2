"""What a person reads: lines while a run goes on, and the table at its end."""

from collections.abc import Mapping, Sequence
from typing import Any

from distsgd.clock import PHASES
from distsgd.config import Config
from distsgd.training import EpochEnd, Progress, Result, Slow

LEAST_SECONDS = 0.001
"""Of a phase, below which the error of its prediction says nothing."""


def opening(config: Config, images: str, ranks: int, workers: int) -> str:
    """A run's first line: what is trained how, on what."""
    averaging, train = config.averaging, config.train
    periods = {"once": "once, at the end", "epoch": "every epoch", 1: "every step"}
    period = periods.get(averaging.rounds_of, f"every {averaging.rounds_of} steps")
    shared = f"{workers} worker{'s' * (workers > 1)} on {ranks} rank{'s' * (ranks > 1)}"
    shared += f" of {train.threads} threads" if train.threads > 1 else ""
    replayed = f"; steps sleep for seconds of {train.replay}: NOTHING IS LEARNED" if train.replay else ""
    if workers == 1:
        return f"{config.network.name} on {images}: {shared}, batch {train.batch}, {config.optimizer.name}{replayed}"
    return (
        f"{config.network.name} on {images}: {shared}, batch {train.batch}, {config.optimizer.name}; "
        f"{averaging.what} averaged {period} ({averaging.topology}, {averaging.reduction})" + replayed
    )


def round_line(progress: Progress) -> str:
    """A line for a round."""
    where = f"epoch {progress.epoch}  step {progress.steps_done}/{progress.steps}  round {progress.round}"
    return f"{where}  loss {number(progress.loss)}  {progress.images_per_second:,.0f} images/s"


def epoch_line(end: EpochEnd, epochs: int) -> str:
    """A line for an epoch."""
    judged = "validation" if end.validation else "test"
    score = end.validation or end.test
    seen = f"; {judged} loss {number(score.loss)}, accuracy {score.accuracy:.2%}" if score else ""
    return f"epoch {end.epoch}/{epochs}: train loss {number(end.train.loss)}{seen}; {end.images_per_second:,.0f} images/s"


def slow_line(slow: Slow, hosts: Sequence[str]) -> str:
    """A line for a rank that holds up the others. `hosts`: of the ranks, or nothing on ranks that do not know them."""
    where = f" on {hosts[slow.rank]}" if hosts else ""
    return (
        f"rank {slow.rank}{where} is slow: it computes {slow.times:.1f} times as long for an image as the others "
        f"(seen after round {slow.round})"
    )


def stop_line(result: Result) -> str:
    """A line for a run that ended before all its epochs."""
    waited, kept = result.last.epoch - result.best.epoch, result.best.epoch
    return f"stopped: no better validation loss for {waited} epoch{'s' * (waited > 1)} (train.patience); epoch {kept} is kept"


def table(summary: Mapping[str, Any]) -> str:
    """A run's result and its seconds by phase: the mean over ranks, and the least and the most where there are several."""
    rows = [
        ("test accuracy", f"{summary['test_accuracy']:.2%}"),
        ("test loss", number(summary["test_loss"])),
        *_by_class(summary),
        ("images/s", f"{summary['images_per_second']:,.0f}"),
        ("network", f"{summary['network']}, {summary['parameters']:,} parameters"),
        ("ranks, workers", f"{summary['ranks']}, {summary['workers']}"),
        *_validation(summary),
        ("epochs, rounds", f"{summary['epochs_done']}, {summary['rounds']}"),
        ("peak memory", f"{summary['peak_memory_bytes'] / 1e6:,.0f} MB a rank"),
        ("weights", f"sha256 {summary['weights_sha256'][:16]}…"),
    ]
    return "\n".join([*(f"  {name:<16}{value}" for name, value in rows), "", *_seconds(summary)])


def _validation(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    if summary["validation_accuracy"] is None:
        return []
    loss = f"loss {number(summary['validation_loss'])}"
    return [
        ("validation", f"accuracy {summary['validation_accuracy']:.2%}, {loss}"),
        ("best epoch", f"{summary['best_epoch']} of {summary['epochs_done']}: its parameters are kept"),
    ]


def _by_class(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Means over classes, and the class that fares worst; nothing where there are too many classes to have been told apart."""
    rows = []
    if summary.get("top5_accuracy") is not None:
        rows.append(("top-5 accuracy", f"{summary['top5_accuracy']:.2%}"))
    known = [(recall, place) for place, recall in enumerate(summary.get("recall", ())) if recall is not None]
    if known:
        recall, worst = min(known)
        means = f"{summary['mean_recall']:.2%}, precision {summary['mean_precision']:.2%}"
        rows.append(("mean recall", f"{means}; worst class {title(summary, worst)}, {recall:.2%}"))
    return rows


def title(summary: Mapping[str, Any], number: int) -> str:
    """A class as people know it: its number, and its name where it has one."""
    names = summary["class_names"]
    return f"{number} {names[number]}" if names and names[number] != str(number) else str(number)


def number(value: float | None) -> str:
    """A loss, if there is one."""
    return "not finite" if value is None else f"{value:.4f}"


def _seconds(summary: Mapping[str, Any]) -> list[str]:
    """Measured, and beside it what was predicted, if it was."""
    every, mean, predicted = summary["seconds_by_rank"], summary["seconds"], summary.get("predicted_seconds")
    spread = len(every) > 1
    heading = f"  {'seconds':<16}{'mean':>9}{'share':>8}" + (f"{'least':>9}{'most':>9}" if spread else "")
    lines = [heading + (f"{'predicted':>11}{'error':>9}" if predicted else "")]
    for phase in (*PHASES, "total"):
        line = f"  {phase:<16}{mean[phase]:>9.3f}{mean[phase] / mean['total']:>8.1%}"
        values = [seconds[phase] for seconds in every]
        line += f"{min(values):>9.3f}{max(values):>9.3f}" if spread else ""
        lines.append(line + (_beside(predicted[phase], mean[phase]) if predicted else ""))
    return lines


def _beside(predicted: float, measured: float) -> str:
    error = f"{predicted / measured - 1:>+9.1%}" if measured >= LEAST_SECONDS else f"{'':>9}"
    return f"{predicted:>11.3f}{error}"
