"""The sets of images that come with the package."""

from pathlib import Path

from distsgd.config import InputError

EMBEDDED = {"fashion-mnist-small": "fashion_mnist_small.h5"}


def locate(name_or_path: str | Path) -> Path:
    """The file of the embedded set of that name, else the path itself. Raises InputError if it is no file."""
    if str(name_or_path) in EMBEDDED:
        return _embedded(str(name_or_path))
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise InputError(
            f"data {str(name_or_path)!r} is not a file; give one that `distsgd data import` made, or {', '.join(EMBEDDED)}"
        )
    return path


def _embedded(name: str) -> Path:
    """In the installed package, or beside the package where that is a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "datasets", package.parent / "datasets"):
        if (folder / EMBEDDED[name]).is_file():
            return folder / EMBEDDED[name]
    raise InputError(
        f"the embedded set {name!r} is missing from this installation; wanted: datasets/{EMBEDDED[name]}"
    )
