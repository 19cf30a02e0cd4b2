"""What was measured, as text: a line for each way as it ends, and tables beside what the documents printed."""

from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from typing import Any

from distsgd.bench.convolution import printed
from distsgd.bench.convolution.measuring import Measured
from distsgd.bench.convolution.printed import Printed

SERIAL = {printed.MATRIX_PARALLEL: printed.MATRIX, printed.UNROLLED_PARALLEL: printed.UNROLLED}
"""What a parallel way is in one process."""
NOTHING = Printed({})
Shown = tuple[Callable[[Measured], str], Callable[[str, Printed, int], str]]
"""A column's text: of what was measured, and of what was printed of a way and batch."""


def heading(about: Mapping[str, Any]) -> str:
    """Where, and on what."""
    torch = f", PyTorch {about['torch_version']}" if about["torch_version"] else ""
    return (
        f"{about['processor']}, {about['vector_lanes']} vector lanes{torch}; one thread, parallel ways "
        f"in {about['processes']} processes\nimages: {about['images']}\n"
    )


def progress(one: Measured) -> str:
    """What a way came to."""
    steps = f"{one.steps} steps"
    if one.images < one.batch:
        steps += f" of {one.images} images, scaled"
    line = f"{one.network}, batch {one.batch}, {one.way}: {in_seconds(one.seconds)} s an iteration ({steps})"
    if one.test_accuracy is not None:
        return f"{line}, test accuracy {one.test_accuracy:.2%}"
    return line if one.finished else f"{line}; an epoch would take {in_seconds(one.epoch_seconds)} s"


def garg(found: Sequence[Measured]) -> str:
    """Garg, Joshi and Sahu's tables 1 and 2, and the speed-ups that follow from the first."""
    naive: Shown = (
        lambda one: _times(over_naive(found, one)),
        lambda way, said, batch: _printed_times(printed.NAIVE, said, batch),
    )
    serial: Shown = (
        lambda one: _times(over_serial(found, one)),
        lambda way, said, batch: _printed_times(SERIAL[way], said, batch),
    )
    return "\n".join(
        [
            "\ngarg, seconds a training iteration; right of the bar, here and below, as printed by Garg, Joshi and Sahu",
            *_beside(found, SECONDS),
            *_scaled(found),
            "\ngarg, times as fast as the naive loops",
            *_beside(found, naive),
            "\ngarg, times as fast as the same way in one process",
            *_beside([one for one in found if one.way in SERIAL], serial),
            "\ngarg, test accuracy after one epoch; as printed: on MNIST",
            *_beside(found, ACCURACY),
            *_unfinished(found),
        ]
    )


def rendon(found: Sequence[Measured]) -> str:
    """Rendon and Sanseviero's table."""
    rows = [["way", "seconds", "scaled", "accuracy", "|", "seconds", "accuracy", ""]]
    for one in found:
        (said,) = printed.RENDON.get(one.way, [NOTHING])
        mine = [in_seconds(one.epoch_seconds), in_seconds(scaled(one)), ACCURACY[0](one)]
        theirs = [show[1](one.way, said, one.batch) for show in (SECONDS, ACCURACY)]
        rows.append([one.way, *mine, "|", *theirs, said.label])
    first, many = found[0], f"{printed.RENDON_IMAGES:,}"
    heading = f"\nrendon, an epoch of {first.epoch_images:,} images in batches of {first.batch}, and scaled to {many}"
    heading += f"\n(right of the bar, as printed by Rendon and Sanseviero: {many} of MNIST's)"
    return "\n".join([heading, *_aligned(rows), *_unfinished(found)])


def chavan(found: Sequence[Measured]) -> str:
    """The measurement behind Chavan and Kulkarni's figure 3, which prints no numbers."""
    ways = list(_by_way(found))
    rows = [["network", *ways, *([f"{ways[1]} / {ways[0]}"] if ways[1:] else [])]]
    for name in dict.fromkeys(one.network for one in found):
        seconds = [one.seconds for one in found if one.network == name]
        ratio = [_times(seconds[1] / seconds[0])] if seconds[1:] else []
        rows.append([name, *(f"{each * 1e3:.2f}" for each in seconds), *ratio])
    heading = f"\nchavan-K-F-H, milliseconds a training iteration, batch {found[0].batch}"
    return "\n".join([heading, *_aligned(rows)])


def over_naive(found: Sequence[Measured], one: Measured) -> float | None:
    """How many times as fast as the naive loops with the same batch; None where they were not measured."""
    return _over(found, one, printed.NAIVE)


def over_serial(found: Sequence[Measured], one: Measured) -> float | None:
    """How many times as fast as the same way in one process with the same batch; None where it is in one."""
    return _over(found, one, SERIAL.get(one.way))


def _over(found: Sequence[Measured], one: Measured, way: str | None) -> float | None:
    for other in found:
        if (other.way, other.batch) == (way, one.batch):
            return other.seconds / one.seconds
    return None


def scaled(one: Measured) -> float:
    """Seconds of as many images as Rendon and Sanseviero's epoch had."""
    return one.epoch_seconds * printed.RENDON_IMAGES / one.epoch_images


def _beside(found: Sequence[Measured], shown: Shown) -> list[str]:
    """A table of ways and batches, what was measured to the left and what was printed to the right."""
    batches = list(dict.fromkeys(one.batch for one in found))
    head = [f"batch {batch}" for batch in batches]
    rows = [["way", *head, "|", *head, ""]]
    for way, ones in _by_way(found).items():
        mine = [way, *(shown[0](one) for one in ones)]
        for said in printed.GARG.get(way, [NOTHING]):
            rows.append([*mine, "|", *(shown[1](way, said, batch) for batch in batches), said.label])
            mine = [""] * len(mine)
    return _aligned(rows)


def _by_way(found: Sequence[Measured]) -> dict[str, list[Measured]]:
    return {way: [one for one in found if one.way == way] for way in dict.fromkeys(one.way for one in found)}


def _printed_times(than: str, said: Printed, batch: int) -> str:
    (other,) = printed.GARG[than]
    return _times(other.seconds[batch] / said.seconds[batch]) if batch in said.seconds else ""


def _scaled(found: Sequence[Measured]) -> list[str]:
    few = {one.way: one for one in found if one.images < one.batch}
    return [
        f"{way}: {one.steps} steps of {one.images} images, times batch / {one.images}"
        for way, one in few.items()
    ]


def _unfinished(found: Sequence[Measured]) -> list[str]:
    longest = {one.way: one.epoch_seconds for one in found if not one.finished}
    return [f"{way}: not finished, an epoch would take {in_seconds(time)} s" for way, time in longest.items()]


def in_seconds(seconds: float) -> str:
    """With three digits, or all before the point."""
    return f"{seconds:,.{max(0, 2 - floor(log10(max(seconds, 1e-9))))}f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:,.{0 if ratio >= 100 else 2}f}"


def _share(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2%}"


SECONDS: Shown = (
    lambda one: in_seconds(one.seconds),
    lambda way, said, batch: f"{said.seconds[batch]:,}" if batch in said.seconds else "",
)
ACCURACY: Shown = (
    lambda one: _share(one.test_accuracy),
    lambda way, said, batch: _share(said.accuracy.get(batch)),
)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right, a rule under the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    for place, row in enumerate(rows):
        lines[place] = (row[0].ljust(widths[0]) + lines[place][widths[0] :]).rstrip()
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
