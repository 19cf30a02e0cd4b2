"""`distsgd doctor`: what it finds, on the screen and in a file."""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from distsgd import __version__, doctor, launcher
from distsgd.cli.ranks import FAILED, PATIENCE_SECONDS
from distsgd.clock import Clock
from distsgd.config import InputError
from distsgd.doctor import Finding, meeting


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `distsgd doctor`."""
    parser.set_defaults(command=run)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there as well")
    parser.add_argument(
        "--self-test", action="store_true", help=argparse.SUPPRESS
    )  # one of the ranks that it starts


def run(given: argparse.Namespace, clock: Clock) -> int:
    """Look, print, and return 0 where nothing prevents a run, else 1; under a launcher rank 0 speaks."""
    if given.self_test:
        print(meeting.answer(os.environ), flush=True)
        return 0
    findings = _findings()
    if not findings:  # not rank 0
        return 0
    print(
        f"distsgd {__version__} on {platform.node()}, {platform.platform()}",
        *doctor.lines(findings),
        sep="\n",
    )
    if given.json:
        _write(given.json, findings)
    return FAILED if any(finding.level == "problem" for finding in findings) else 0


def _findings() -> list[Finding]:
    if launcher.launched(os.environ) is None:
        return doctor.alone(os.environ)
    try:
        from distsgd import comm

        return doctor.together(comm.world(os.environ), os.environ)
    except (InputError, OSError) as error:
        if not launcher.is_first(os.environ):
            time.sleep(PATIENCE_SECONDS)  # a launcher may end the first with this one
            return []
        return doctor.strangers(str(error), os.environ)


def _write(path: Path, findings: Sequence[Finding]) -> None:
    """Beside, then renamed."""
    prevents = any(finding.level == "problem" for finding in findings)
    about = {
        "format": "distsgd-doctor-1",
        "version": __version__,
        "host": platform.node(),
        "prevents_a_run": prevents,
    }
    content = {**about, "findings": [asdict(finding) for finding in findings]}
    beside = path.with_name(path.name + ".partial")
    try:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise InputError(f"--json {path}: can't be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
