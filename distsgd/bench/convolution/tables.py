"""What was measured, as text: a line for each way as it ends, and tables beside what the documents printed."""

from collections.abc import Mapping, Sequence
from typing import Any

from distsgd.bench.convolution import printed
from distsgd.bench.convolution.measuring import Measured
from distsgd.bench.convolution.printed import Printed

SERIAL = {printed.MATRIX_PARALLEL: printed.MATRIX, printed.UNROLLED_PARALLEL: printed.UNROLLED}
Rows = list[list[str]]


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
    line = f"{one.network}, batch {one.batch}, {one.way}: {_time(one.seconds)} s an iteration ({steps})"
    if one.test_accuracy is not None:
        return f"{line}, test accuracy {one.test_accuracy:.2%}"
    return line if one.finished else f"{line}, an epoch would take {_time(one.epoch_seconds)} s"


def garg(found: Sequence[Measured]) -> str:
    """Garg, Joshi and Sahu's tables 1 and 2."""
    batches, by_way = list(dict.fromkeys(one.batch for one in found)), _by_way(found)
    head = [f"batch {batch}" for batch in batches]
    speeds = [f"{text}, {batch}" for text in ("over naive", "over serial") for batch in batches]
    seconds: Rows = [["way", *head, *speeds, "|", *head, *speeds[: len(batches)], ""]]
    shares: Rows = [["way", *head, "|", *head, ""]]
    for way, ones in by_way.items():
        mine = [_time(one.seconds) for one in ones]
        mine += [_times(speedup(found, one, printed.NAIVE)) for one in ones]
        mine += [_times(speedup(found, one, SERIAL.get(way))) for one in ones]
        for number, said in enumerate(printed.GARG.get(way, [Printed({})])):
            theirs = _seconds(said, batches) + _printed_speedups(said, batches)
            here = [way, *mine] if number == 0 else [""] * (1 + len(mine))
            seconds.append([*here, "|", *theirs, said.label])
        theirs = [_share(said.accuracy.get(batch)) for batch in batches]
        shares.append([way, *(_share(one.test_accuracy) for one in ones), "|", *theirs, said.label])
    return "\n".join(
        [
            "\ngarg: seconds a training iteration, times as fast as the naive loops and as the same way in one process",
            "(right of the bar: as printed by Garg, Joshi and Sahu)",
            *_aligned(seconds),
            *_scaled(found),
            "\ngarg: test accuracy after one epoch (right of the bar: as printed, on MNIST)",
            *_aligned(shares),
            *_unfinished(found),
        ]
    )


def rendon(found: Sequence[Measured]) -> str:
    """Rendon and Sanseviero's table."""
    many = f"of {printed.RENDON_IMAGES:,}"
    rows: Rows = [["way", "epoch", many, "accuracy", "|", many, "accuracy", ""]]
    for one in found:
        (said,) = printed.RENDON.get(one.way, [Printed({})])
        whole = one.epoch_seconds * printed.RENDON_IMAGES / one.epoch_images
        mine = [_time(one.epoch_seconds), _time(whole), _share(one.test_accuracy)]
        theirs = [*_seconds(said, [one.batch]), _share(said.accuracy.get(one.batch)), said.label]
        rows.append([one.way, *mine, "|", *theirs])
    heading = (
        f"\nrendon: seconds of an epoch of {found[0].epoch_images:,} images in batches of {found[0].batch}, scaled to "
        f"{printed.RENDON_IMAGES:,}, and test accuracy after it\n(right of the bar: as printed by Rendon and Sanseviero)"
    )
    return "\n".join([heading, *_aligned(rows), *_unfinished(found)])


def chavan(found: Sequence[Measured]) -> str:
    """The measurement behind Chavan and Kulkarni's figure 3, which prints no numbers."""
    by_way = {way: {one.network: one for one in ones} for way, ones in _by_way(found).items()}
    ours, torch = by_way[printed.OURS], by_way.get(printed.PYTORCH, {})
    rows: Rows = [["network", printed.OURS, *([printed.PYTORCH, "ratio"] if torch else [])]]
    for name, one in ours.items():
        row = [name, f"{one.seconds * 1e3:.2f}"]
        if torch:
            row += [f"{torch[name].seconds * 1e3:.2f}", _times(torch[name].seconds / one.seconds)]
        rows.append(row)
    heading = f"\nchavan-K-F-H: milliseconds a training iteration, batch {found[0].batch}"
    return "\n".join([heading, *_aligned(rows)])


def speedup(found: Sequence[Measured], one: Measured, way: str | None) -> float | None:
    """How many times as fast as that way with the same batch; None where there is none."""
    for other in found:
        if (other.way, other.batch) == (way, one.batch):
            return other.seconds / one.seconds
    return None


def _by_way(found: Sequence[Measured]) -> dict[str, list[Measured]]:
    return {way: [one for one in found if one.way == way] for way in dict.fromkeys(one.way for one in found)}


def _printed_speedups(said: Printed, batches: Sequence[int]) -> list[str]:
    """Over the naive loops."""
    (naive,) = printed.GARG[printed.NAIVE]
    return [
        _times(naive.seconds[batch] / said.seconds[batch]) if batch in said.seconds else ""
        for batch in batches
    ]


def _seconds(said: Printed, batches: Sequence[int]) -> list[str]:
    return [f"{said.seconds[batch]:,}" if batch in said.seconds else "" for batch in batches]


def _scaled(found: Sequence[Measured]) -> list[str]:
    few = {one.way: one for one in found if one.images < one.batch}
    return [
        f"{way}: {one.steps} steps of {one.images} images, times batch / {one.images}"
        for way, one in few.items()
    ]


def _unfinished(found: Sequence[Measured]) -> list[str]:
    longest = {one.way: one.epoch_seconds for one in found if not one.finished}
    return [f"{way}: no epoch, which would take {_time(time)} s" for way, time in longest.items()]


def _time(seconds: float) -> str:
    """With three digits."""
    digits = next((digits for digits, least in ((0, 100), (1, 10), (2, 1), (3, 0.1)) if seconds >= least), 4)
    return f"{seconds:,.{digits}f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:,.{0 if ratio >= 100 else 2}f}"


def _share(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{accuracy:.2%}"


def _aligned(rows: Rows) -> list[str]:
    """The first column to the left, the others to the right, a rule under the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    return [
        lines[0].rstrip(),
        "-" * (sum(widths) + 2 * len(widths) - 2),
        *(line.rstrip() for line in lines[1:]),
    ]
