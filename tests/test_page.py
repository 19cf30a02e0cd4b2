"""The page of `distsgd report`: what it says, that it needs nothing but itself, and what may not get into it."""

import html.parser
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_pictures import write

from distsgd.cli import main
from distsgd.clock import PHASES
from distsgd.report import page, prediction
from distsgd.report.page import Shown, Study
from distsgd.report.reading import Summary, read_run
from distsgd.report.scaling import Scale, read_scale

GOLDEN = Path(__file__).parent / "golden_report"
SECONDS = {phase: 1.0 + number for number, phase in enumerate(PHASES)} | {"total": 55.0}
RUN: dict[str, Any] = {
    "outcome": "finished",
    "version": "0.1.0",
    "network": "garg",
    "parameters": 105496,
    "ranks": 2,
    "workers": 4,
    "epochs_done": 3,
    "rounds": 10,
    "test_accuracy": 0.98765,
    "test_loss": 0.0432,
    "images_per_second": 12345.6,
    "peak_memory_bytes": 123_456_789,
    "weights_sha256": "ab" * 32,
    "machine": {"host": "node1", "hosts": ["node1", "node2"], "mpi": "Open MPI v5", "oversubscribed": False},
    "seconds": SECONDS,
    "predicted_seconds": {phase: 1.1 * value for phase, value in SECONDS.items()},
    "predicted_interval": {"compute": [5.0, 7.0], "wait": [0.0, 0.5]},
    "slow_ranks": [{"rank": 1, "round": 12, "times": 2.04}],
}


def shown(**changes: Any) -> Shown:
    summary = Summary.model_validate({**RUN, **changes})
    return Shown(
        Path("runs/first"), summary, "[train]\nepochs = 3\n", {"epochs": b"<svg/>", "round": b"<svg/>"}
    )


def scale() -> Scale:
    return read_scale(GOLDEN)


def golden(name: str, text: str) -> None:
    """Where a change is meant: DISTSGD_TEST_GOLDEN=write writes the files anew, and the diff is to be read."""
    if os.environ.get("DISTSGD_TEST_GOLDEN") == "write":
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_golden_page() -> None:
    text = page.page(
        [shown(), shown(predicted_seconds=None)], [Study(Path("scaling/garg"), scale(), {"scale": b"<svg/>"})]
    )
    golden("report.html", text.replace(page.STYLE.read_text(), ""))


class Elements(html.parser.HTMLParser):
    """What tags there are, that all are closed, and what they refer to."""

    EMPTY = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    text = (folder / "report" / "report.html").read_text()
    elements = Elements(text)
    assert elements.open == []
    assert elements.seen.count("img") == 5
    assert all(link.startswith("data:image/svg+xml;base64,") for link in elements.links)
    assert not {"script", "link", "iframe", "object"} & set(elements.seen)
    assert "default-src 'none'" in text
    assert "url(" not in re.sub(r"base64,[^\"]*", "", text)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_nothing_of_a_run_becomes_markup(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\"'&"
    folder = write(
        tmp_path / "a<b>&", network=bad, outcome=bad, machine={"mpi": bad, "host": bad}, weights_sha256=bad
    )
    (folder / "config.toml").write_text(f"# {bad}</pre>")
    assert main(["report", str(folder), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "script" not in Elements(text).seen
    assert "&lt;script&gt;" in text
    assert Elements(text).open == []


def test_runs_and_studies_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, study = write(tmp_path / "one"), write(tmp_path / "two"), tmp_path / "study"
    study.mkdir()
    (study / "scale.json").write_bytes((GOLDEN / "scale.json").read_bytes())
    assert main(["report", str(one), str(two), str(study), "--format", "svg"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.parent for path in paths} == {one / "report"}
    assert {"1-epochs.svg", "2-epochs.svg", "report.html"} < {path.name for path in paths}
    text = paths[-1].read_text()
    assert text.count("<h2>") == 3
    assert text.count("<img") == 11


def test_a_study_alone(tmp_path: Path) -> None:
    (tmp_path / "scale.json").write_bytes((GOLDEN / "scale.json").read_bytes())
    assert main(["report", str(tmp_path)]) == 0
    assert "speed-up against ranks" in (tmp_path / "report" / "report.html").read_text()


def test_errors_of_a_prediction() -> None:
    rows = {row.phase: row for row in prediction.phases(Summary.model_validate(RUN))}
    assert list(rows) == [*PHASES, "total"]
    assert rows["compute"].error == pytest.approx(0.1)
    assert (rows["compute"].inside, rows["wait"].inside, rows["load"].inside) == (True, False, None)
    nothing = replace(rows["compute"], measured=0.0)
    assert nothing.error is None


def test_a_round_is_of_those_whose_seconds_were_counted() -> None:
    """A resumed run tells of its rounds from then on."""
    whole, resumed = (Summary.model_validate({**RUN, **more}) for more in ({}, {"rounds_timed": 4}))
    for each, one in zip(prediction.of_a_round(resumed), prediction.of_a_round(whole), strict=True):
        assert each.measured == pytest.approx(one.measured * whole.rounds / 4)


def test_a_run_of_before_has_a_page(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    content = json.loads((folder / "run.json").read_text())
    for key in ("seconds", "rounds", "first_rounds"):
        del content[key]
    (folder / "run.json").write_text(json.dumps(content))
    read_run(folder)
    assert main(["report", str(folder)]) == 0
    assert Elements((folder / "report" / "report.html").read_text()).seen.count("img") == 3
