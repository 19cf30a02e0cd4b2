"""Where benchmarks write: looked at before anything is measured, as what was measured would be lost."""

from pathlib import Path

from distsgd.config import InputError


def check_file(option: str, path: Path | None) -> None:
    """InputError where no file can be written there."""
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.absolute().parent}")
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder, wanted is a file")


def check_picture(path: Path | None) -> None:
    """InputError where no picture can be drawn there."""
    check_file("--plot", path)
    if path is None:
        return
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise InputError("pictures are drawn by matplotlib: pip install 'distsgd[plot]'") from None
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise InputError(f"--plot {path}: the name must end with one of {', '.join(sorted(known))}")
