"""The bar on a terminal, lines everywhere else; runs behind a pseudo-terminal, as a person would start them."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from pathlib import Path

import pytest
from conftest import ROOT, Launch, clean_environment

from distsgd.cli import progress
from distsgd.training import Progress

FEW = ("--set", "data.train_images=300", "--set", "network.name=rendon")
LONG = ("--set", "network.name=rendon", "--set", "train.epochs=100000")
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


def on_terminal(
    columns: int, *arguments: str, interrupt: int = 0, python: str = sys.executable, **environment: str
) -> tuple[int, bytes]:
    """Run the command on a terminal of its own; `interrupt`: press Ctrl-C so many times once the bar is there."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        added = {"TERM": "xterm-256color", **environment}
        os.execve(python, [python, "-m", "distsgd", *arguments], clean_environment(added))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    seen, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                part = os.read(terminal, 1 << 16)
            except OSError:  # Linux: the other side is closed
                break
            seen += part
        while interrupt and b"images/s" in seen:
            os.write(terminal, b"\x03")
            interrupt -= 1
            time.sleep(0.8 * bool(interrupt))
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), seen


def plain(output: bytes) -> list[str]:
    """What is left in the lines of a terminal without what moves the cursor or colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode()).splitlines()


@pytest.fixture(params=["alone", "1 openmpi", "2 openmpi", "3 openmpi", "2 mpich"])
def how(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    """A Python, and how many ranks its command is to start."""
    if request.param == "alone":
        return sys.executable, []
    ranks, name = request.param.split()
    return request.getfixturevalue(name).python, ["--ranks", ranks]


def test_a_bar_on_a_terminal(how: tuple[str, list[str]], tmp_path: Path) -> None:
    python, ranks = how
    arguments = [*FEW, *ranks, "--set", "train.epochs=2", "--out", str(tmp_path / "run")]
    code, output = on_terminal(80, "train", *arguments, python=python)
    shown = "\n".join(plain(output))
    assert code == 0, shown
    assert output.count(HIDE) == output.count(SHOW) == 1
    assert re.search(r"epoch 1/2 [━╺╸]+ +\d+% \d:\d\d left", shown)
    assert re.search(r"round 1  loss \d\.\d{4}  [\d,]+ images/s  averaging [\d.]+%  waiting [\d.]+%", shown)
    for number in (1, 2):
        assert len(re.findall(rf"epoch {number}/2: train loss", shown)) == 1
    assert "test accuracy" in shown


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_a_narrow_terminal_loses_facts_and_no_line(ranks: str, openmpi: Launch, tmp_path: Path) -> None:
    arguments = [*FEW, "--ranks", ranks, "--set", "train.epochs=1", "--out", str(tmp_path / "run")]
    code, output = on_terminal(40, "train", *arguments)
    assert code == 0
    bars = [line for line in plain(output) if "━" in line or line.startswith("round ")]
    assert bars
    assert max(len(line.rpartition("\r")[2]) for line in bars if "train loss" not in line) <= 40
    assert "images/s" in "".join(bars)
    assert "waiting" not in "".join(bars)


def test_ctrl_c_saves_the_run_and_gives_the_cursor_back(how: tuple[str, list[str]], tmp_path: Path) -> None:
    python, ranks = how
    began = time.monotonic()
    arguments = [*LONG, *ranks, "--out", str(tmp_path / "run")]
    code, output = on_terminal(80, "train", *arguments, interrupt=1, python=python)
    assert (code, output.count(HIDE)) == (130, 1)
    assert output.rfind(SHOW) > output.rfind(HIDE) >= 0
    assert b"Traceback" not in output
    assert b"go on with: distsgd train --resume" in output
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    assert time.monotonic() - began < 20


SLOW_CHECKPOINTS = """
import time
from distsgd.record import checkpoint
checkpoint.write = lambda *_: time.sleep(30)
"""


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_a_second_ctrl_c_gives_the_cursor_back_too(ranks: str, openmpi: Launch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_CHECKPOINTS)
    arguments = [*LONG, "--ranks", ranks, "--out", str(tmp_path / "run")]
    path = f"{tmp_path}:{ROOT}"
    code, output = on_terminal(80, "train", *arguments, interrupt=2, PYTHONPATH=path)
    assert code == 130
    assert output.rfind(SHOW) > output.rfind(HIDE) >= 0


def test_no_colour_where_none_is_wanted(tmp_path: Path) -> None:
    _, output = on_terminal(
        80, "train", *FEW, "--set", "train.epochs=1", "--out", str(tmp_path / "run"), NO_COLOR="1"
    )
    assert b"\xe2\x94\x81" in output
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9;]*m", output)


def test_a_terminal_that_can_not_draw_gets_lines(tmp_path: Path) -> None:
    code, output = on_terminal(
        80, "train", *FEW, "--set", "train.epochs=1", "--out", str(tmp_path / "run"), TERM="dumb"
    )
    assert code == 0
    assert b"\x1b" not in output
    assert b"epoch 1  step 8/10  round 1  loss " in output


def test_files_and_pipes_get_lines(openmpi: Launch, tmp_path: Path) -> None:
    alone = openmpi.alone("-m", "distsgd", "train", *FEW, "--set", "train.epochs=1", cwd=tmp_path)
    ranks = openmpi(2, "-m", "distsgd", "train", *FEW, "--set", "train.epochs=1", "--out", tmp_path / "run")
    arguments = ["--set", "train.epochs=1", "--ranks", "2", "--out", tmp_path / "started"]
    started = openmpi.alone("-m", "distsgd", "train", *FEW, *arguments)
    for done in (alone, ranks, started):
        assert done.rc == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "round 1  loss " in done.stdout


def test_as_many_facts_as_there_is_room_for() -> None:
    facts = ["round 1", "loss 0.5", "12,345 images/s", "waiting 1%"]
    assert progress.fitting(facts, 80) == "round 1  loss 0.5  12,345 images/s  waiting 1%"
    assert progress.fitting(facts, 30) == "round 1  loss 0.5  waiting 1%"
    assert progress.fitting(facts, 18) == "round 1  loss 0.5"
    assert progress.fitting(facts, 5) == "roun"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (360000, "100:00:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_a_line_a_round_but_not_more_than_people_read(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    quiet: list[str] = []
    every: list[str] = []
    few, all_of_them = progress.Lines(quiet.append, always=False), progress.Lines(every.append, always=True)
    for tenth in range(50):
        now[0] = tenth / 10
        for lines in (few, all_of_them):
            lines.after_round(Progress(1, tenth + 1, 1, 50, 0.5, 1.0))
    assert [line.split()[5] for line in quiet] == ["1", "21", "41"]
    assert len(every) == 50
