"""What is in a file of images, for people to read, and whether its content is whole."""

from pathlib import Path

import numpy as np

from distsgd.config import InputError
from distsgd.data.layout import FORMAT, SPLITS, ContentHash
from distsgd.data.store import Description, blocks, checked, describe, opened, read_labels


def verify(path: str | Path) -> Description:
    """Read all of train and test and compare their hash with the recorded one. Raises InputError."""
    description = describe(path)
    content = ContentHash((description.height, description.width, description.channels))
    with opened(description.path) as file:
        for split in SPLITS:
            for name in ("images", "labels"):
                for _, block in blocks(checked(description.path, file, split, name)):
                    content.update(split, name, block)
    if content.hexdigest() != description.sha256:
        raise InputError(
            f"{path}: content has sha256 {content.hexdigest()}; the file was made with {description.sha256}"
        )
    return description


def summary(path: str | Path) -> str:
    """Several lines about the file: where from, shape, counts, hash. Raises InputError if it is not whole."""
    description = verify(path)
    size = description.path.stat().st_size
    shape = " x ".join(map(str, (description.height, description.width, description.channels)))
    facts = {
        "path": str(description.path),
        "format": FORMAT,
        "source": description.source,
        "images": f"{shape} (height x width x channel), uint8",
        "counts": ", ".join(f"{count:,} {split}" for split, count in description.counts.items()),
        "classes": f"{description.classes:,}",
        "size": f"{size / 1e6:.1f} MB on disk ({size:,} bytes)",
        "sha256": f"{description.sha256} (content is whole)",
    }
    return "\n".join([*(f"{name:<8} {fact}" for name, fact in facts.items()), "", *_class_table(description)])


def _class_table(description: Description) -> list[str]:
    """A line for each class: its number, its name where known, how many samples each split has of it."""
    counts = [
        np.bincount(read_labels(description.path, split), minlength=description.classes) for split in SPLITS
    ]
    names = description.class_names or ("",) * description.classes
    titles = [f"{label} {name}".rstrip() for label, name in enumerate(names)]
    width = max(len("class"), *map(len, titles))
    lines = [f"{'class':<{width}}" + "".join(f"{split:>12}" for split in SPLITS)]
    for title, row in zip(titles, zip(*counts, strict=True), strict=True):
        lines.append(f"{title:<{width}}" + "".join(f"{count:>12,}" for count in row))
    return lines
