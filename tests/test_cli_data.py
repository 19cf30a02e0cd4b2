"""`distsgd data` as a user meets it."""

import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import finish, room
from idx_files import NAMES, samples, write_store
from test_data_importers import as_folder, grey_set

from distsgd.cli import main
from distsgd.data import describe

TRAIN, TEST = samples(23, seed=1), samples(7, seed=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_store(tmp_path / "images.h5", TRAIN, TEST)
    return tmp_path / "images.h5"


def test_import_says_what_it_made_and_what_it_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = as_folder(tmp_path / "set", {**grey_set(), "train/ant/0.png": b"none", "val/ant/0.png": b""})
    arguments = ["data", "import", str(source), str(tmp_path / "out.h5")]
    assert main(arguments) == 2
    message = capsys.readouterr()
    assert message.out == ""
    assert message.err.count("\n") == 1
    assert "train/ant/0.png" in message.err
    assert main([*arguments, "--skip-broken", "--size", "4x6", "--compress"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines[:3]] == [
        "passed over",
        "passed over",
        "passed over 2 files that can not be used",
    ]
    assert "images   4 x 6 x 1 (height x width x channel), uint8" in lines
    assert "counts   5 train, 6 test" in lines
    assert describe(tmp_path / "out.h5").height == 4


def test_options_that_make_no_sense_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (
        ["--size", "0"],
        ["--size", "4x"],
        ["--test-fraction", "1"],
        ["--split-pattern", "dev=*"],
        ["--split-pattern", "test"],
        ["--as", "pickle"],
        ["--blurred", "3.3"],
        ["--blurred", "dev=3.3"],
        ["--blurred", "train=0"],
        ["--blurred", "train=-1"],
        ["--blurred", "train=100"],
        ["--blurred", "train=nan"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["data", "import", "a", "b", *options])
        assert stopped.value.code == 2
        assert options[0] in capsys.readouterr().err


def test_info_shows_pixels_as_they_are(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", str(path)]) == 0
    mean, deviation = TRAIN[0].mean(dtype=float), TRAIN[0].std(dtype=float)
    assert f"pixels   mean {mean:.2f}, deviation {deviation:.2f} (train," in capsys.readouterr().out


def laplacian(images: np.ndarray) -> float:
    values = images.astype(float)
    inner = 4 * values[:, 1:-1, 1:-1] - values[:, :-2, 1:-1] - values[:, 2:, 1:-1]
    return float(np.sqrt(np.mean((inner - values[:, 1:-1, :-2] - values[:, 1:-1, 2:]) ** 2)))


def test_info_says_when_splits_are_not_equally_sharp(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"edges    {laplacian(TRAIN[0]):.2f} train, {laplacian(TEST[0]):.2f} test (root" in shown
    assert "NOT EQUALLY SHARP" not in shown
    write_store(tmp_path / "soft.h5", ((TRAIN[0] // 8).astype(np.uint8), TRAIN[1]), TEST)
    assert main(["data", "info", str(tmp_path / "soft.h5")]) == 0
    assert re.search("NOT EQUALLY SHARP, .* --blurred SPLIT=SIGMA", capsys.readouterr().out)


def test_a_full_disk_is_told(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = as_folder(tmp_path / "set", grey_set())
    out, sheet = tmp_path / "out.h5", tmp_path / "sheet.png"
    with room(0):
        assert main(["data", "import", str(source), str(out)]) == 2
        assert main(["data", "info", str(path), "--plot", str(sheet)]) == 2
    said = capsys.readouterr().err
    assert said == "".join(f"distsgd: {file}: can not be written: File too large\n" for file in (out, sheet))
    assert not out.exists()
    assert not sheet.exists()


@pytest.mark.parametrize("kind", [".png", ".svg"])
def test_info_draws_samples(
    path: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="no matplotlib: no sheet is drawn")
    out = tmp_path / f"sheet{kind}"
    assert main(["data", "info", str(path), "--plot", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert out.read_bytes().startswith(b"\x89PNG" if kind == ".png" else b"<?xml")
    assert main(["data", "info", str(path), "--plot", str(tmp_path / "sheet.txt")]) == 2
    assert "choose .png, .svg, .pdf" in capsys.readouterr().err


def test_a_sheet_has_a_row_for_each_class(path: Path) -> None:
    pytest.importorskip("matplotlib", reason="no matplotlib: no sheet is drawn")
    from distsgd.data.sheet import _sheet

    sheet = _sheet(describe(path))
    assert sheet.shape == (len(NAMES) * 7, 10 * 6)
    for label in range(len(NAMES)):
        chosen = TRAIN[0][TRAIN[1] == label][..., 0]
        assert np.array_equal(sheet[label * 7 : label * 7 + 5, 6:10], chosen[1])


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("PIL", ["import", "set", "out.h5"], "distsgd[images]"),
        ("matplotlib", ["info", "images.h5", "--plot", "a.png"], "distsgd[plot]"),
    ],
)
def test_what_is_not_installed_is_named(
    path: Path, tmp_path: Path, missing: str, arguments: list[str], extra: str
) -> None:
    as_folder(tmp_path / "set", grey_set())
    program = f"import sys\nsys.modules[{missing!r}] = None\nfrom distsgd.cli import main\nsys.exit(main())"
    done = finish([sys.executable, "-c", program, "data", *arguments], cwd=tmp_path)
    assert done.rc == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"pip install '{extra}'" in done.stderr


def external_link(file: h5py.File) -> None:
    del file["train"]
    file["train"] = h5py.ExternalLink("/etc/hostname", "/")


def claims_a_billion(file: h5py.File) -> None:
    file["train/images"].resize(10**9, axis=0)


def cut(file: h5py.File) -> None:
    path = Path(file.filename)
    file.close()
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("command", [["data", "info"], ["train", "--set"]], ids=["info", "train"])
@pytest.mark.parametrize("change", [external_link, claims_a_billion, cut])
def test_a_hostile_file_is_one_message_soon(path: Path, change: object, command: list[str]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)  # type: ignore[operator]
    last = str(path) if command[0] == "data" else f"data.path={path}"
    done = finish([sys.executable, "-m", "distsgd", *command, last], timeout=30, cwd=path.parent)
    assert done.rc == 2, done.stderr
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if "compiling kernels" not in line]
    assert len(said) == 1
    assert said[0].startswith(f"distsgd: {path}: ")
    assert [entry.name for entry in path.parent.iterdir()] == ["images.h5"]
