"""What a run's folder says of it, read back. Anybody may have written it: nothing in it is trusted."""

import json
from pathlib import Path
from typing import Any

from distsgd.config import InputError

FORMAT = "distsgd-run-1"
MOST_SUMMARY_BYTES = 64 << 20


def read_summary(folder: Path) -> dict[str, Any]:
    """What run.json holds. Raises InputError where it is not there, too large, or no run's."""
    path = folder / "run.json"
    if not path.exists():
        raise InputError(
            f"{folder} holds no run.json; wanted: the folder of a run that `distsgd train` ended"
        )
    data = read_bounded(path)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {str(error).partition(chr(10))[0]}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a run's; this version reads format {FORMAT!r}")
    return content


def read_bounded(path: Path) -> bytes:
    """The bytes of a file that is not beyond all sense. Raises InputError."""
    try:
        if path.is_file() and path.stat().st_size > MOST_SUMMARY_BYTES:
            raise InputError(
                f"{path} has {path.stat().st_size:,} bytes; at most {MOST_SUMMARY_BYTES:,} are read"
            )
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
