"""A sheet of samples, to see with one's own eyes what a file of images holds."""

from pathlib import Path

import numpy as np

from distsgd.config import InputError
from distsgd.data.store import Description, describe, read_labels, read_rows
from distsgd.data.writer import replacing

KINDS = (".png", ".svg", ".pdf")
_MOST_CLASSES, _SAMPLES, _MOST_PIXELS = 20, 10, 224
_GAP = 2


def draw_samples(path: str | Path, out: Path) -> None:
    """Draw the first training images of each class, a row a class (20 at most), into `out`, .png, .svg or .pdf.

    Raises InputError where the file is not whole enough, matplotlib is missing or `out` can not be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "sheets are drawn with matplotlib, which is missing: pip install 'distsgd[plot]'"
        ) from error
    kind = out.suffix.lower()
    if kind not in KINDS:
        raise InputError(f"{out}: ends in {out.suffix!r}; choose {', '.join(KINDS)}")
    description = describe(path)
    sheet, names = _sheet(description), _names(description)
    figure = Figure(figsize=(0.9 * _SAMPLES, 0.9 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255)
    step = sheet.shape[0] / len(names)
    axes.set_yticks(
        [step * (row + 0.5) for row in range(len(names))], [name.replace("$", r"\$") for name in names]
    )
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    with replacing(out) as partial:
        figure.savefig(partial, format=kind[1:], dpi=150)


def _names(description: Description) -> list[str]:
    shown = min(description.classes, _MOST_CLASSES)
    return list(description.class_names[:shown]) or [str(label) for label in range(shown)]


def _sheet(description: Description) -> np.ndarray:
    """White paper with images on it: uint8 (height, width) or (height, width, 3)."""
    labels = read_labels(description.path, "train")
    every = -(
        -max(description.height, description.width) // _MOST_PIXELS
    )  # of large images every so many pixels
    rows = [np.flatnonzero(labels == label)[:_SAMPLES] for label in range(len(_names(description)))]
    images = read_rows(description.path, "train", np.concatenate(rows))[:, ::every, ::every]
    height, width = images.shape[1] + _GAP, images.shape[2] + _GAP
    sheet = np.full((len(rows) * height, _SAMPLES * width, description.channels), 255, np.uint8)
    places = [(row, column) for row, chosen in enumerate(rows) for column in range(len(chosen))]
    for (row, column), image in zip(places, images, strict=True):
        top, left = row * height, column * width
        sheet[top : top + height - _GAP, left : left + width - _GAP] = image
    return sheet if description.channels in (3, 4) else sheet[..., 0]
