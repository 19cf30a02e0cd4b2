"""The IDX importer: what is in the files is in the store, and what is wrong in them leaves nothing behind."""

import gzip
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import finish
from idx_files import facts, idx_bytes, samples, write_idx, write_store

from distsgd.config import InputError
from distsgd.data import Description, Writer, describe, import_images, locate, read_labels, read_rows, verify

TRAIN, TEST = samples(40, seed=1), samples(11, seed=2)
PACKED_IMAGES = gzip.compress(idx_bytes(TRAIN[0][..., 0]))


def import_idx(folder: Path, out: Path) -> Description:
    return import_images(folder, out, "idx")[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_idx(tmp_path / "idx", TRAIN, TEST)
    return tmp_path / "idx"


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_import_makes_the_file_of_these_samples(tmp_path: Path, mark: str, end: str) -> None:
    write_idx(tmp_path / "some", TRAIN, TEST, mark, end)
    found = import_idx(tmp_path / "some", tmp_path / "out.h5")
    write_store(tmp_path / "expected.h5", TRAIN, TEST)
    assert facts(found) == facts(describe(tmp_path / "expected.h5")) == facts(verify(found.path))
    assert found.source == "IDX files in some"
    assert np.array_equal(read_rows(found.path, "test", np.arange(11)), TEST[0])


def changed(name: str, content: bytes) -> Callable[[Path], None]:
    """Return a change of the folder: the file has this content, packed."""
    return lambda folder: (folder / name).write_bytes(gzip.compress(content)) and None


def written(name: str, content: bytes) -> Callable[[Path], None]:
    """Return a change of the folder: the file has this content as it is."""
    return lambda folder: (folder / name).write_bytes(content) and None


def named(name: str) -> Callable[[Path], None]:
    """Return a change of the folder: the file has another name."""
    return lambda folder: (folder / name).rename(folder / "other") and None


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
WIDE = np.zeros((11, 4, 5), np.uint8)
WRONG = {
    "missing": (named(IMAGES), "missing train-images-idx3-ubyte .*has: other, t10k-images"),
    "labels as images": (
        changed(IMAGES, idx_bytes(TRAIN[1])),
        "begins with 00 00 08 01; wanted: 00 00 08 03",
    ),
    "images as labels": (changed(LABELS, idx_bytes(TEST[0][..., 0])), "begins with 00 00 08 03"),
    "not bytes": (changed(IMAGES, b"\0\0\x0d\3" + bytes(12)), "begins with 00 00 0d 03"),
    "empty": (changed(IMAGES, b""), "truncated"),
    "cut in the header": (changed(IMAGES, idx_bytes(TRAIN[0][..., 0])[:10]), "truncated: ends 6 bytes"),
    "cut in the images": (changed(IMAGES, idx_bytes(TRAIN[0][..., 0])[:-1]), "truncated: ends 1 bytes"),
    "cut in the labels": (changed(LABELS, idx_bytes(TEST[1])[:-2]), "truncated: ends 2 bytes"),
    "trailing image": (changed(IMAGES, idx_bytes(TRAIN[0][..., 0]) + b"\0"), "goes on behind the 40 entries"),
    "trailing label": (changed(LABELS, idx_bytes(TEST[1]) + b"\0"), "goes on behind the 11 entries"),
    "fewer labels": (changed(LABELS, idx_bytes(TEST[1][:-1])), "11 images, t10k-.* has 10 labels"),
    "no images": (changed(IMAGES, b"\0\0\x08\3" + bytes(3) + b"\x28" + bytes(8)), "at least one of each"),
    "large images": (
        changed(IMAGES, b"\0\0\x08\3" + bytes(3) + b"\x28" + b"\xff" * 8),
        "67,108,864 bytes an image",
    ),
    "another shape": (changed("t10k-images-idx3-ubyte.gz", idx_bytes(WIDE)), r"\(4, 5\), but \(5, 4\)"),
    "not gzip": (written(IMAGES, idx_bytes(TRAIN[0][..., 0])), "not gzip"),
    "cut gzip": (written(IMAGES, PACKED_IMAGES[: len(PACKED_IMAGES) // 2]), "truncated"),
    "cut gzip's end": (written(IMAGES, PACKED_IMAGES[:-4]), "truncated"),
    "bad gzip": (written(IMAGES, PACKED_IMAGES[:-8] + bytes(8)), "damaged"),
    "bad deflate": (written(IMAGES, PACKED_IMAGES[:10] + b"\xff" * 200), "damaged"),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named_and_leaves_nothing(
    folder: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    change(folder)
    with pytest.raises(InputError, match=said) as raised:
        import_idx(folder, tmp_path / "out.h5")
    assert str(folder) in str(raised.value)
    assert os.listdir(tmp_path) == ["idx"]


def test_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: not a folder"):
        import_idx(tmp_path / "none", tmp_path / "out.h5")


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "idx", (TRAIN[0][:0], TRAIN[1][:0]), TEST)
    with pytest.raises(InputError, match="train: no images"):
        import_idx(tmp_path / "idx", tmp_path / "out.h5")
    assert os.listdir(tmp_path) == ["idx"]


def test_an_interrupt_leaves_what_was_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_idx(folder, tmp_path / "out.h5")
    before, append = (tmp_path / "out.h5").read_bytes(), Writer.append

    def interrupted(self: Writer, split: str, *arrays: np.ndarray) -> None:
        append(self, split, *arrays)
        if split == "test":
            raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_idx(folder, tmp_path / "out.h5")
    assert sorted(os.listdir(tmp_path)) == ["idx", "out.h5"]
    assert (tmp_path / "out.h5").read_bytes() == before


PEAK = """
import re, sys
from pathlib import Path
from distsgd.data import import_images

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

import_images(sys.argv[1], sys.argv[2])
before = peak()
import_images(sys.argv[3], sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_set(folder: Path, tmp_path: Path) -> None:
    count, large = 120_000, tmp_path / "large"
    write_idx(large, TRAIN, (np.zeros((9, 28, 28, 1)), np.zeros(9)), end="")
    for kind, header, size in (("images-idx3", [count, 28, 28], 784), ("labels-idx1", [count], 1)):
        with (large / f"train-{kind}-ubyte").open("wb") as file:
            file.write(bytes([0, 0, 8, len(header)]) + np.array(header, ">u4").tobytes())
            file.truncate(file.tell() + count * size)
    found = finish([sys.executable, "-c", PEAK, str(folder), str(tmp_path / "out.h5"), str(large)])
    assert found.rc == 0, found.stderr
    assert int(found.stdout) < 32 * 2**20 < count * 784 / 2
    assert describe(tmp_path / "out.h5").counts == {"train": count, "test": 9}


def test_real_mnist_is_imported_whole(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    found = import_idx(real_data("mnist"), tmp_path / "mnist.h5")
    assert facts(found)[:3] == ((28, 28, 1), 10, {"train": 60_000, "test": 10_000})
    assert read_labels(found.path, "train")[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert np.bincount(read_labels(found.path, "test")).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    first = read_rows(found.path, "train", np.array([59_999, 0]))[1, ..., 0]
    assert (first.sum(), first[5, 12:16].tolist()) == (27525, [3, 18, 18, 18])


def test_the_embedded_set_is_what_its_script_makes(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    made = import_idx(real_data("fashion-mnist-small"), tmp_path / "small.h5")
    assert made.sha256 == describe(locate("fashion-mnist-small")).sha256
