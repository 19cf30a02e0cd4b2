"""What an evaluation came to, as tables in text."""

from collections.abc import Mapping
from typing import Any

from distsgd.report.lines import number, title

MOST_COLUMNS = 20
"""A matrix of more classes does not fit on a screen."""
MOST_ROWS = 100
MOST_MISTAKES = 20
LONGEST_TITLE = 24


def evaluation(found: Mapping[str, Any]) -> str:
    """The whole text: the score, a line a class, and what was taken for what."""
    rows = [
        ("accuracy", f"{found['accuracy']:.2%}"),
        ("loss", number(found["loss"])),
        ("top-5 accuracy", _percent(found["top5_accuracy"])),
        ("mean recall", _percent(found["mean_recall"])),
        ("mean precision", _percent(found["mean_precision"])),
    ]
    parts = ["\n".join(f"  {name:<16}{value}" for name, value in rows if value)]
    if found["recall"]:
        parts += [
            _classes(found),
            _matrix(found) if len(found["recall"]) <= MOST_COLUMNS else _mistakes(found),
        ]
    return "\n\n".join(parts)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _classes(found: Mapping[str, Any]) -> str:
    """A line a class; of very many, only those that fare worst."""
    recall, precision, images = found["recall"], found["precision"], found["images_by_class"]
    shown = list(range(len(recall)))
    if len(shown) > MOST_ROWS:
        shown = sorted((row for row in shown if images[row]), key=lambda row: recall[row])[:MOST_MISTAKES]
    titles = _titles(found, shown)
    width = max(len(text) for text in (*titles, "class"))
    lines = [f"  {'class':<{width}}{'images':>10}{'recall':>10}{'precision':>11}"]
    for text, row in zip(titles, shown, strict=True):
        shares = f"{_percent(recall[row]) or '-':>10}{_percent(precision[row]) or '-':>11}"
        lines.append(f"  {text:<{width}}{images[row]:>10,}{shares}")
    if len(shown) < len(recall):
        lines.append(f"  (the {len(shown)} of least recall among {len(recall):,} classes)")
    return "\n".join(lines)


def _titles(found: Mapping[str, Any], rows: list[int]) -> list[str]:
    return [_short(title(found, row)) for row in rows]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TITLE else text[: LONGEST_TITLE - 1] + "…"


def _matrix(found: Mapping[str, Any]) -> str:
    """A row a class, a column a class that its images were taken for; nothing is shown as a dot."""
    confusion = found["confusion"]
    titles = _titles(found, list(range(len(confusion))))
    name = max(len(text) for text in titles)
    width = (
        max(len(str(count)) for count in (len(confusion), *(count for row in confusion for count in row))) + 1
    )
    heads = "".join(f"{column:>{width}}" for column in range(len(confusion)))
    lines = [
        "  images of the class in a row, taken for the class of the column",
        "",
        f"  {'':<{name}}{heads}",
    ]
    for text, row in zip(titles, confusion, strict=True):
        lines.append(f"  {text:<{name}}" + "".join(f"{count or '.':>{width}}" for count in row))
    return "\n".join(lines)


def _mistakes(found: Mapping[str, Any]) -> str:
    """The pairs of classes that were taken for one another most often."""
    confusion = found["confusion"]
    pairs = sorted(
        (-count, row, column)
        for row, counts in enumerate(confusion)
        for column, count in enumerate(counts)
        if count and row != column
    )[:MOST_MISTAKES]
    lines = ["  the most frequent mistakes (--json FILE has the whole matrix)", ""]
    for count, row, column in pairs:
        taken, given = _short(title(found, row)), _short(title(found, column))
        lines.append(f"  {-count:>8,}  {taken} taken for {given}")
    return "\n".join(lines)
