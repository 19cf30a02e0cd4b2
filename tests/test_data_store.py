"""The store: what is written is read back in any order, and nothing wrong in a file gets past the door."""

import hashlib
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import finish
from idx_files import CLASSES, SHAPE, samples, write_store

from distsgd.config import InputError
from distsgd.data import (
    describe,
    layout,
    locate,
    read_labels,
    read_rows,
    store,
    summary,
    verify,
    writing,
)

TRAIN, TEST = samples(23, seed=1), samples(7, seed=2)
KINDS = ("images", "labels")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "images.h5"
    write_store(path, TRAIN, TEST)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "images.h5"
    write_store(path, TRAIN, TEST, compress)
    for split, (images, labels) in (("train", TRAIN), ("test", TEST)):
        assert np.array_equal(read_rows(path, split, np.arange(len(images))), images)
        assert np.array_equal(read_labels(path, split), labels)
        assert read_labels(path, split).dtype == np.int64
    assert [entry.name for entry in tmp_path.iterdir()] == ["images.h5"]


def test_describe_says_what_is_in_the_file(path: Path) -> None:
    found = describe(str(path))
    assert (found.path, found.height, found.width, found.channels) == (path, *SHAPE)
    assert (found.classes, found.class_names) == (CLASSES, ("ant", "bee", "cat"))
    assert (found.counts, found.source) == ({"train": 23, "test": 7}, "random numbers")
    verify(path)


def test_a_validation_split_is_kept_counted_and_in_the_hash(path: Path, tmp_path: Path) -> None:
    extra = samples(5, seed=3)
    with writing(tmp_path / "more.h5", SHAPE, "random numbers", ("ant", "bee", "cat")) as writer:
        for split, arrays in (("validation", extra), ("train", TRAIN), ("test", TEST)):
            writer.append(split, *arrays)
    found = verify(tmp_path / "more.h5")
    assert found.counts == {"train": 23, "test": 7, "validation": 5}
    assert found.sha256 != describe(path).sha256
    assert np.array_equal(read_rows(found.path, "validation", np.arange(5)), extra[0])
    assert np.array_equal(read_labels(found.path, "validation"), extra[1])
    assert ["class", "train", "test", "validation"] in [
        line.split() for line in summary(found.path).splitlines()
    ]
    with h5py.File(found.path, "r+") as file:
        file["validation/labels"][0] = 2
    with pytest.raises(InputError, match="content has sha256"):
        verify(found.path)


def test_the_hash_is_the_one_that_the_format_states(path: Path) -> None:
    lines = ["images 5 4 1"]
    for split, arrays in (("train", TRAIN), ("test", TEST)):
        for name, values in zip(("images", "labels"), arrays, strict=True):
            lines.append(f"{split}/{name} {len(values)} {hashlib.sha256(values.tobytes()).hexdigest()}")
    assert describe(path).sha256 == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_equal_content_makes_equal_bytes(path: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "again.h5", TRAIN, TEST)
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
@pytest.mark.parametrize(
    "rows", [[], [22], [0, 1, 2], [22, 0, 5, 4, 21, 6], [3, 3, 1, 3], list(range(22, -1, -1)), [11, 12]]
)
def test_rows_come_in_the_order_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[int], block_bytes: int
) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 2 * 20)
    monkeypatch.setattr(layout, "BLOCK_BYTES", block_bytes)
    write_store(tmp_path / "images.h5", TRAIN, TEST)
    found = read_rows(tmp_path / "images.h5", "train", np.array(rows, np.int64))
    assert found.shape == (len(rows), *SHAPE)
    assert np.array_equal(found, TRAIN[0][rows])


@pytest.mark.parametrize("row", [-1, 23])
def test_a_row_that_is_not_there_is_an_error(path: Path, row: int) -> None:
    with pytest.raises(IndexError, match="23 images in train"):
        read_rows(path, "train", np.array([0, row]))


def test_reading_rows_takes_the_result_and_a_block(tmp_path: Path) -> None:
    images = np.zeros((30_000, 28, 28, 1), np.uint8)
    with writing(tmp_path / "images.h5", (28, 28, 1), "zeros") as writer:
        for split in ("train", "test"):
            writer.append(split, images, np.zeros(len(images), np.int64))
    rows = np.arange(29_999, -1, -3)
    tracemalloc.start()
    read_rows(tmp_path / "images.h5", "train", rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(rows) * 784 + 9 * 2**20


def replaced(name: str, **options: object) -> Callable[[h5py.File], None]:
    """Return a change of a file: data set `name` made anew with `options`, else as it should be."""

    def change(file: h5py.File) -> None:
        usual: dict[str, object] = {"chunks": (1, *file[name].shape[1:]), "fletcher32": True}
        if "shape" not in options and "data" not in options:
            usual["data"] = file[name][:]
        del file[name]
        file.create_dataset(name, **{**usual, **options})

    return change


def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    """Return a change of a file: the root attribute set, or removed for None."""

    def change(file: h5py.File) -> None:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value

    return change


def link(name: str, target: object) -> Callable[[h5py.File], None]:
    """Return a change of a file: `name` is a link."""

    def change(file: h5py.File) -> None:
        if name in file:
            file.move(name, "elsewhere")
        file[name] = target

    return change


def virtual(file: h5py.File) -> None:
    origin = h5py.VirtualSource("other.h5", "images", shape=(23, *SHAPE))
    origin_layout = h5py.VirtualLayout((23, *SHAPE), np.uint8)
    origin_layout[:] = origin
    del file["train/images"]
    file.create_virtual_dataset("train/images", origin_layout)


def empty(file: h5py.File) -> None:
    for name in ("images", "labels"):
        file[f"test/{name}"].resize(0, axis=0)


def other_shape(file: h5py.File) -> None:
    replaced("test/images", data=np.zeros((7, 4, 5, 1), np.uint8), chunks=(7, 4, 5, 1))(file)


def a_billion(file: h5py.File) -> None:
    for name in ("images", "labels"):
        file[f"train/{name}"].resize(10**9, axis=0)


def labelled(split: str, label: int) -> Callable[[h5py.File], None]:
    """Return a change of a file: the last label of `split`."""

    def change(file: h5py.File) -> None:
        file[f"{split}/labels"][-1] = label

    return change


def removed(name: str) -> Callable[[h5py.File], None]:
    """Return a change of a file: `name` is not there."""
    return lambda file: file.__delitem__(name)


def claiming(size: int) -> Callable[[h5py.File], None]:
    """Return a change of a file: its first chunk of images is said to lie there in so many bytes."""

    def change(file: h5py.File) -> None:
        path, stored = Path(file.filename), file["train/images"].id.get_chunk_info(0).size
        file.close()
        key = struct.pack("<II5Q", stored, 0, 0, 0, 0, 0, 0)
        data = path.read_bytes()
        assert data.count(key) == 2  # of train and of test
        path.write_bytes(data.replace(key, struct.pack("<II5Q", size, 0, 0, 0, 0, 0, 0), 1))

    return change


def packed_twice(file: h5py.File) -> None:
    """Gzip, over and over: each layer could unpack to a thousand times its size."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((23, *SHAPE))
    creation.set_deflate(1)
    creation.set_deflate(1)
    creation.set_fletcher32()
    space = h5py.h5s.create_simple((23, *SHAPE))
    del file["train/images"]
    h5py.h5d.create(file["train"].id, b"images", h5py.h5t.STD_U8LE, space, creation)


WRONG = {
    "no group": (removed("test"), "no /test;"),
    "no labels": (removed("train/labels"), "no /train/labels;"),
    "soft link": (link("train", h5py.SoftLink("/elsewhere")), "/train is a SoftLink"),
    "soft link below": (link("train/labels", h5py.SoftLink("/test/labels")), "/train/labels is a SoftLink"),
    "external link": (link("test", h5py.ExternalLink("o.h5", "/test")), "/test is a ExternalLink"),
    "external link below": (
        link("train/images", h5py.ExternalLink("o.h5", "/i")),
        "/train/images is a ExternalLink",
    ),
    "not a group": (link("train", np.zeros(3)), "/train is a Dataset"),
    "not a data set": (lambda file: link("train/images", file["test"])(file), "/train/images is a Group"),
    "images float": (replaced("train/images", dtype="f4"), "is float32"),
    "images signed": (replaced("test/images", dtype="i1", data=np.zeros((7, *SHAPE), "i1")), "is int8"),
    "images grey": (replaced("train/images", data=TRAIN[0][..., 0], chunks=(23, 5, 4)), r"\(23, 5, 4\)"),
    "labels int32": (replaced("train/labels", dtype="i4"), "is int32"),
    "labels swapped": (replaced("train/labels", dtype=">i8"), "is >i8"),
    "labels square": (
        replaced("train/labels", data=np.zeros((23, 2), "i8"), chunks=(23, 2)),
        "int64.*wanted: int64",
    ),
    "labels scalar": (replaced("train/labels", data=1, chunks=None, fletcher32=None), "one label for each"),
    "labels none": (
        replaced("train/labels", data=h5py.Empty("i8"), chunks=None, fletcher32=None),
        "one label for each",
    ),
    "references": (
        replaced("train/labels", shape=(23,), dtype=h5py.ref_dtype, fletcher32=None),
        "is object",
    ),
    "lengths differ": (replaced("train/labels", data=TRAIN[1][:-1]), "one label for each image"),
    "shapes differ": (other_shape, "different shapes"),
    "empty split": (empty, "has 0 samples"),
    "external storage": (
        replaced(
            "train/images",
            shape=(23, *SHAPE),
            dtype="u1",
            chunks=None,
            fletcher32=None,
            external=[("/etc/hostname", 0, 460)],
        ),
        "other files",
    ),
    "virtual": (virtual, "other files"),
    "contiguous": (replaced("train/images", chunks=None, fletcher32=None), "chunks None"),
    "chunks of pieces": (replaced("train/images", chunks=(23, 5, 2, 1)), "chunks of whole samples"),
    "no checksums": (replaced("train/images", fletcher32=None), "wanted: fletcher32"),
    "unknown filter": (replaced("train/images", compression="lzf"), "32000"),
    "a billion": (a_billion, "has 1,000,000,000 samples"),
    "a large image": (
        replaced("train/images", shape=(23, 2**20, 2**20, 3), dtype="u1", chunks=(1, 2**20, 2**20, 1)),
        "chunks",
    ),
    "a large image in a chunk": (
        replaced("train/images", shape=(23, 2**14, 2**13, 1), dtype="u1", chunks=(1, 2**14, 2**13, 1)),
        "67,108,864 bytes an image",
    ),
    "a large chunk": (
        replaced(
            "train/images", shape=(23, *SHAPE), dtype="u1", chunks=(2**26, *SHAPE), maxshape=(None, *SHAPE)
        ),
        "67,108,864 bytes at most",
    ),
    "a missing chunk": (
        replaced("train/images", shape=(23, *SHAPE), dtype="u1", chunks=(5, *SHAPE)),
        "0 of its 5 chunks",
    ),
    "a chunk larger than the file": (claiming(2**31), "chunk number 1 has a wrong size"),
    "a chunk of nothing": (claiming(0), "chunk number 1 has a wrong size"),
    "gzip twice": (packed_twice, r"filters \(1, 1, 3\)"),
    "label too high": (labelled("test", 3), "test has labels 0 to 3; wanted: 0 to 2"),
    "label negative": (labelled("train", -1), "train has labels -1 to 2"),
    "no format": (attribute("format", None), "no file of images"),
    "another format": (
        attribute("format", np.bytes_(b"distsgd-images-9")),
        "'distsgd-images-9'; this version reads",
    ),
    "text in a heap": (attribute("format", "distsgd-images-1"), "fixed length"),
    "no classes": (attribute("classes", None), "attribute classes"),
    "classes zero": (attribute("classes", 0), "from 1 to"),
    "classes many": (attribute("classes", 2**40), "from 1 to"),
    "classes real": (attribute("classes", 3.0), "attribute classes"),
    "classes several": (attribute("classes", [3, 3]), "from 1 to"),
    "names too few": (attribute("class_names", np.array([b"ant", b"bee"])), "wanted: 3 names"),
    "names numbers": (attribute("class_names", np.arange(3)), "wanted: 3 names"),
    "names escape": (attribute("class_names", np.array([b"\x1b[2J", b"b", b"c"])), "wanted: 3 names"),
    "no source": (attribute("source", None), "attribute source"),
    "source escapes": (attribute("source", np.bytes_(b"\x1b[2J")), "one line of text"),
    "source not text": (attribute("source", np.bytes_(b"\xff")), "can not be read"),
    "hash not a hash": (attribute("sha256", np.bytes_(b"12")), "64 hexadecimal digits"),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_in_a_file_is_refused(
    path: Path, change: Callable[[h5py.File], None], said: str
) -> None:
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=said) as raised:
        describe(path)
    assert str(path) in str(raised.value)


def test_a_bad_split_is_refused_by_each_reader(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        virtual(file)
        labelled("test", 3)(file)
    with pytest.raises(InputError, match="other files"):
        read_rows(path, "train", np.arange(3))
    with pytest.raises(InputError, match="labels 0 to 3"):
        read_labels(path, "test")
    with pytest.raises(InputError, match="no /validation"):
        read_labels(path, "validation")
    with pytest.raises(InputError, match="choose train, test, validation"):
        read_labels(path, "valid")


def test_a_validation_group_is_looked_at_like_the_others(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["validation"] = h5py.ExternalLink("other.h5", "/")
    for read in (describe, lambda path: read_labels(path, "validation")):
        with pytest.raises(InputError, match="/validation is a ExternalLink"):
            read(path)


def test_a_truncated_file_is_refused_wherever_it_ends(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"images\.h5"):
            verify(path)


@pytest.mark.parametrize("content", [b"", b"label,pixels\n3,0 0 0\n", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_not_hdf5_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match="not HDF5"):
        describe(path)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a file"):
        describe(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_labels(tmp_path / "none.h5", "train")


def test_a_damaged_chunk_is_refused_when_it_is_read(path: Path) -> None:
    with h5py.File(path) as file:
        offset = file["train/images"].id.get_chunk_info(0).byte_offset
    damaged = bytearray(path.read_bytes())
    damaged[offset + 100] ^= 1
    path.write_bytes(damaged)
    describe(path)
    for read in (lambda: read_rows(path, "train", np.arange(3)), lambda: verify(path), lambda: summary(path)):
        with pytest.raises(InputError, match="damaged"):
            read()


def test_other_content_behind_good_checksums_is_found(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["test/labels"][0] = 1
    describe(path)
    with pytest.raises(InputError, match="content has sha256"):
        verify(path)


def test_a_flipped_byte_of_the_data_is_always_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 10 * 20)
    path = tmp_path / "images.h5"
    write_store(path, TRAIN, TEST)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        images = file["train/images"].id
        chunks = [images.get_chunk_info(number) for number in range(images.get_num_chunks())]
    for chunk in chunks:
        for position in range(chunk.byte_offset, chunk.byte_offset + chunk.size, 17):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
            with pytest.raises(InputError, match="damaged"):
                verify(path)


def fletcher32(data: bytes) -> int:
    """HDF5's checksum of an even number of bytes."""
    first = second = 0
    for word in struct.unpack(f">{len(data) // 2}H", data):
        first = (first + word) % 65535
        second = (second + first) % 65535
    return (second or 65535) << 16 | (first or 65535)


def test_a_chunk_that_unpacks_to_far_more_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "images.h5"
    write_store(path, TRAIN, TEST, compress=True)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(240)) + packer.flush()
    packed += bytes(len(packed) % 2)
    with h5py.File(path, "r+") as file:
        _, usual = file["train/images"].id.read_direct_chunk((0, 0, 0, 0))
        assert len(usual) % 2 or struct.pack("<I", fletcher32(usual[:-4])) == usual[-4:]
        chunk = packed + struct.pack("<I", fletcher32(packed))
        file["train/images"].id.write_direct_chunk((0, 0, 0, 0), chunk)
    done = finish([sys.executable, "-c", PEAK, str(path)])
    assert done.rc == 0, done.stderr
    refused, grown = done.stdout.split("\n")[:2]
    assert "does not unpack to" in refused
    assert int(grown) < 64 << 20


PEAK = """
import re, sys
from pathlib import Path
import numpy as np
from distsgd import config, data

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

before = peak()
try:
    data.read_rows(sys.argv[1], "train", np.arange(3))
except config.InputError as error:
    print(error)
print(peak() - before)
"""

FLIPS = """
import sys
from pathlib import Path
from distsgd import config, data

path, whole = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes()
refused = 0
for position in map(int, sys.argv[2:]):
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1:])
    try:
        data.summary(path)
    except config.InputError:
        refused += 1
print(refused)
"""


def test_flipped_bytes_of_the_tables_crash_nothing(path: Path) -> None:
    whole = path.read_bytes()
    with h5py.File(path) as file:
        chunks = [
            file[f"{split}/{name}"].id.get_chunk_info(0) for split in ("train", "test") for name in KINDS
        ]
    data = {n for chunk in chunks for n in range(chunk.byte_offset, chunk.byte_offset + chunk.size)}
    tables = [n for n in range(len(whole)) if whole[n] and n not in data]
    done = finish([sys.executable, "-c", FLIPS, str(path), *map(str, tables)], timeout=120)
    assert done.rc == 0, done.stderr
    assert int(done.stdout) > len(tables) / 3


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: h5py.File) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(h5py.File, "flush", full)
    with pytest.raises(InputError, match=r"images\.h5.*disk full.*No space left"):
        write_store(tmp_path / "images.h5", TRAIN, TEST)
    assert not list(tmp_path.iterdir())


def write_half(path: Path, error: type[BaseException]) -> None:
    with writing(path, SHAPE, "half") as writer:
        writer.append("train", *TRAIN)
        raise error


def test_no_file_is_left_when_writing_fails(tmp_path: Path, path: Path) -> None:
    before = path.read_bytes()
    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error):
            write_half(path, error)
    assert [entry.name for entry in tmp_path.iterdir()] == ["images.h5"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("train", "names", "said"),
    [
        ((TRAIN[0][:0], TRAIN[1][:0]), (), "train: no images"),
        ((TRAIN[0], TRAIN[1] - 1), (), "train: label -1"),
        (TRAIN, ("ant", "bee"), "label 2 with 2 classes"),
        (TRAIN, ("ant", "bee", "c\nd"), "printable"),
    ],
)
def test_what_is_wrong_is_not_written(
    tmp_path: Path, train: tuple[np.ndarray, np.ndarray], names: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        write_store(tmp_path / "images.h5", train, TEST, names=names)
    assert not list(tmp_path.iterdir())


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"), writing(tmp_path / "nowhere" / "a.h5", SHAPE, "s"):
        pass
    with pytest.raises(InputError, match="a folder"), writing(tmp_path, SHAPE, "s"):
        pass


def test_summary_counts_each_class(path: Path) -> None:
    lines = summary(path).splitlines()
    assert "sha256   " + describe(path).sha256 + " (content is whole)" in lines
    assert "images   5 x 4 x 1 (height x width x channel), uint8" in lines
    assert [line.split() for line in lines[-4:]] == [
        ["class", "train", "test"],
        ["0", "ant", "8", "3"],
        ["1", "bee", "8", "2"],
        ["2", "cat", "7", "2"],
    ]
    assert len({len(line) for line in lines[-4:]}) == 1


def test_locate_finds_the_embedded_set_and_files(path: Path) -> None:
    found = verify(locate("fashion-mnist-small"))
    assert (found.height, found.width, found.channels, found.classes) == (28, 28, 1, 10)
    assert np.array_equal(np.bincount(read_labels(found.path, "train")), [600] * 10)
    assert np.array_equal(np.bincount(read_labels(found.path, "test")), [100] * 10)
    assert locate(str(path)) == path
    with pytest.raises(InputError, match=r"'fashion'.*, or fashion-mnist-small"):
        locate("fashion")


def test_reading_opens_no_lock_for_writing(path: Path) -> None:
    with store.opened(path) as file, store.opened(path) as again:
        assert file.mode == again.mode == "r"
