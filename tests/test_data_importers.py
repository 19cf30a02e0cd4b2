"""The importers of pictures, batches, tables and arrays: what is in a source is in the store, or one message says why not."""

import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import finish

from distsgd.cli.data import KINDS as CLI_KINDS
from distsgd.config import InputError
from distsgd.data import KINDS, Choices, Description, describe, import_images, read_labels, read_rows, verify
from distsgd.data.importers.blur import sharpened

Image = pytest.importorskip("PIL.Image", reason="no Pillow: pictures are not tested")
RANDOM = np.random.default_rng(5)
GREY = [RANDOM.integers(0, 256, (6, 8), np.uint8) for _ in range(12)]
COLOUR = RANDOM.integers(0, 256, (6, 8, 3), np.uint8)
PLACES = [
    f"{split}/{label}/{number}.png"
    for split in ("train", "test")
    for label in ("bee", "ant")
    for number in range(3)
]


def png(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def grey_set() -> dict[str, bytes]:
    return {place: png(pixels) for place, pixels in zip(PLACES, GREY, strict=True)}


def as_folder(path: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_tar(path: Path, content: dict[str, bytes]) -> Path:
    with tarfile.open(path, f"w:{path.suffix[1:].replace('tar', '')}") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def as_zip(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Description]:
    """Import a source, or what a folder of this content would be."""

    def make(source: Path | dict[str, bytes], **choices: Any) -> Description:
        path = source if isinstance(source, Path) else as_folder(tmp_path / "source", source)
        return import_images(path, tmp_path / "out.h5", choices=Choices(**choices))[0]

    return make


def pixels_of(found: Description, split: str) -> np.ndarray:
    return read_rows(found.path, split, np.arange(found.counts[split]))


@pytest.mark.parametrize("name", ["set", "set.tar", "set.tar.gz", "set.tar.xz", "set.tar.bz2", "set.zip"])
def test_class_folders_wherever_they_lie(tmp_path: Path, made: Callable[..., Description], name: str) -> None:
    write = as_zip if name.endswith("zip") else as_tar if "." in name else as_folder
    content = {f"top/{place}": data for place, data in grey_set().items()}
    content |= {"top/.hidden/x.png": b"", "__MACOSX/top/._x.png": b"", "top/README.md": b"words"}
    found = made(write(tmp_path / name, content))
    assert verify(found.path).counts == {"train": 6, "test": 6}
    assert (found.height, found.width, found.channels, found.class_names) == (6, 8, 1, ("ant", "bee"))
    order = [3, 4, 5, 0, 1, 2] if name == "set" else [0, 1, 2, 3, 4, 5]
    assert np.array_equal(pixels_of(found, "train")[..., 0], np.array(GREY[:6])[order])
    assert (
        read_labels(found.path, "test").tolist() == [int(place >= 3) for place in range(6)] or name != "set"
    )
    assert sorted(os.listdir(tmp_path)) == sorted([name, "out.h5"])


def test_a_colour_among_greys_makes_all_of_three_channels(made: Callable[..., Description]) -> None:
    content = {**grey_set(), "train/ant/0.png": png(COLOUR)}
    found = made(content)
    assert found.channels == 3
    images = pixels_of(found, "train")
    assert np.array_equal(images[0], COLOUR)
    assert np.array_equal(images[1], np.repeat(GREY[4][..., None], 3, axis=2))
    grey = made(content, grey=True)
    assert grey.channels == 1
    wanted = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(pixels_of(grey, "train")[0, ..., 0] - wanted).max() < 1


@pytest.mark.parametrize(
    ("pixels", "wanted"),
    [
        (GREY[0].astype(np.uint16) * 256 + 7, GREY[0]),
        (GREY[0] > 100, (GREY[0] > 100) * np.uint8(255)),
        (np.dstack([GREY[0], GREY[1]]), GREY[0]),
    ],
    ids=["16 bits", "1 bit", "transparent"],
)
def test_pictures_of_other_depths(
    made: Callable[..., Description], pixels: np.ndarray, wanted: np.ndarray
) -> None:
    found = made({**grey_set(), "train/ant/0.png": png(pixels)})
    assert np.array_equal(pixels_of(found, "train")[0, ..., 0], wanted)


def test_sizes_are_brought_to_one_by_scale_and_centre_crop(made: Callable[..., Description]) -> None:
    wide = np.zeros((40, 80), np.uint8)
    wide[:, 20:60] = 200  # the centre square of a picture twice as wide as high
    content = {
        **grey_set(),
        "train/ant/0.png": png(wide),
        "train/ant/1.jpeg": png(wide.T.copy(), "JPEG", quality=95),
    }
    found = made(content, size=(10, 10))
    assert (found.height, found.width) == (10, 10)
    for image in pixels_of(found, "train")[:2]:
        assert np.abs(image[1:-1, 1:-1].astype(int) - 200).max() <= 3
        assert image.min() > 150
    assert (made(content).height, found.width) == (6, 10)
    square = made(content, size=(20, 40))
    assert np.array_equal(pixels_of(square, "train")[0, :, [0, -1], 0], np.zeros((2, 20)))


def waves(height: int, width: int, down: int, right: int) -> np.ndarray:
    """Half periods down and to the right that a mirror on the last row and column continues."""
    rows = np.cos(np.pi * down * np.arange(height) / max(1, height - 1))
    return np.outer(rows, np.cos(np.pi * right * np.arange(width) / max(1, width - 1)))


@pytest.mark.parametrize(
    ("shape", "down", "right"), [((20, 31), 2, 5), ((20, 31), 0, 9), ((2, 9), 1, 2), ((1, 8), 0, 3)]
)
def test_what_a_blur_has_dimmed_is_raised_again(shape: tuple[int, int], down: int, right: int) -> None:
    height, width = shape
    blur, wave = 1.5, waves(*shape, down, right)
    # cycles a pixel: what a Gaussian passes of them follows from its Fourier transform
    squares = (down / (2 * max(1, height - 1))) ** 2 + (right / (2 * (width - 1))) ** 2
    passed = np.exp(-2 * (np.pi * blur) ** 2 * squares)
    blurred = np.rint(128 + 100 * passed * wave).astype(np.uint8)
    assert passed < 0.8
    for channels in (1, 3):
        image = np.repeat(blurred[..., None], channels, axis=2)
        restored = sharpened(image, blur)
        assert restored.shape == image.shape
        height_of_wave = 100 / (1 + squares / 500 / passed**2)  # Wiener: less where noise is stronger
        found = (restored[..., 0] - 128.0) * wave
        assert found.sum() / (wave**2).sum() == pytest.approx(height_of_wave, abs=2)
        assert np.abs(restored[..., 0] - 128.0 - height_of_wave * wave).mean() < 4  # rounding, raised too


def test_noise_that_a_blur_would_have_taken_is_not_raised() -> None:
    noisy = np.full((24, 24, 1), 100, np.uint8)
    noisy[::2, ::2] = 140
    assert np.array_equal(sharpened(noisy, 4.0), np.full((24, 24, 1), 110))


def test_pictures_of_a_blurred_split_are_sharpened_before_they_are_scaled(
    made: Callable[..., Description],
) -> None:
    soft = np.rint(128 + 40 * waves(24, 24, 4, 5)).astype(np.uint8)
    content = {f"{split}/ant/{n}.png": png(soft) for split in ("train", "test", "val") for n in range(2)}
    found = made(content, blurs=(("train", 2.0), ("validation", 1.0)))
    wanted = {"train": sharpened(soft[..., None], 2.0), "validation": sharpened(soft[..., None], 1.0)}
    for split, image in {**wanted, "test": soft[..., None]}.items():
        assert np.array_equal(pixels_of(found, split), [image] * 2)
    assert (
        np.ptp(wanted["train"].astype(int))
        > np.ptp(wanted["validation"].astype(int))
        > np.ptp(soft.astype(int))
    )
    small = pixels_of(made(content, blurs=(("train", 2.0),), size=(12, 12)), "train")[0, ..., 0]
    scaled = Image.fromarray(wanted["train"][..., 0]).resize((12, 12), Image.Resampling.BICUBIC)
    assert np.array_equal(small, np.asarray(scaled))
    colours = made({**content, "train/ant/0.png": png(np.dstack([soft] * 3))}, blurs=(("train", 2.0),))
    assert np.array_equal(pixels_of(colours, "train")[0], np.repeat(wanted["train"], 3, axis=2))


def test_splits_by_folders_patterns_names_and_lot(tmp_path: Path, made: Callable[..., Description]) -> None:
    picture = png(GREY[0])
    assert made({"train/a/1.png": picture, "val/a/1.png": picture, "testing/a/1.png": picture}).counts == {
        "train": 1, "test": 1, "validation": 1,
    }  # fmt: skip
    both = import_images(
        as_folder(tmp_path / "b", {"train/a/1.png": picture, "valid/a/1.png": picture}), tmp_path / "b.h5"
    )
    assert both[0].counts == {"train": 1, "test": 1}
    names = {
        f"c/{use}_{n}.jpg": picture for use in ("Training", "PublicTest", "PrivateTest") for n in range(2)
    }
    fer = import_images(as_zip(tmp_path / "f.zip", names), tmp_path / "f.h5")[0]
    assert fer.counts == {"train": 2, "test": 2, "validation": 2}
    patterns = (("Pr*", "train"), ("P*", "test"), ("*_1.*", "validation"))
    chosen = import_images(tmp_path / "f.zip", tmp_path / "f.h5", choices=Choices(patterns=patterns))[0]
    assert chosen.counts == {"train": 3, "test": 2, "validation": 1}
    lot = as_folder(tmp_path / "lot", {f"{label}/{n}.png": picture for label in "ab" for n in range(100)})
    counts = import_images(lot, tmp_path / "lot.h5", choices=Choices(test_fraction=0.3))[0].counts
    assert sum(counts.values()) == 200
    assert 40 <= counts["test"] <= 80


def bomb() -> bytes:
    """A small PNG that says it is of 60,000 x 60,000 pixels."""
    data = bytearray(png(GREY[0]))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


BROKEN = {
    "text": (b"no picture", "not a JPEG or PNG"),
    "empty": (b"", "not a JPEG or PNG"),
    "header cut off": (png(GREY[0], "JPEG")[:300], "its beginning is damaged"),
    "gif": (png(GREY[0], "GIF"), "not a JPEG or PNG"),
    "truncated": (png(GREY[0])[:60], "broken picture"),
    "damaged": (png(GREY[0])[:45] + b"\xff" * 12 + png(GREY[0])[57:], "broken picture"),
    "bomb": (bomb(), "more than 67,108,864 pixels"),
}


@pytest.mark.parametrize("write", [as_folder, as_zip, as_tar])
@pytest.mark.parametrize(("data", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_picture_is_named_or_passed_over(tmp_path: Path, write: Any, data: bytes, said: str) -> None:
    name = {as_folder: "set", as_zip: "set.zip", as_tar: "set.tar"}[write]
    source = write(tmp_path / name, {**grey_set(), "train/ant/1.png": data})
    with pytest.raises(InputError, match=rf"train/ant/1\.png: .*{said}.*--skip-broken"):
        import_images(source, tmp_path / "out.h5")
    assert os.listdir(tmp_path) == [name]
    found, broken = import_images(source, tmp_path / "out.h5", choices=Choices(skip_broken=True))
    assert verify(found.path).counts == {"train": 5, "test": 6}
    assert len(broken) == 1
    assert "train/ant/1.png" in broken[0]


def test_files_in_no_class_are_named(made: Callable[..., Description]) -> None:
    with pytest.raises(InputError, match=r"train/x\.png: in no folder of a class"):
        made({**grey_set(), "train/x.png": png(GREY[0])})


def test_a_part_to_test_with_is_asked_for(made: Callable[..., Description]) -> None:
    with pytest.raises(InputError, match=r"1 train; wanted: .*--test-fraction"):
        made({"ant/1.png": png(GREY[0])})


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    source = as_tar(tmp_path / "set.tar", grey_set())
    with tarfile.open(source, "a") as archive:
        for kind, target in ((tarfile.SYMTYPE, "/etc/hostname"), (tarfile.LNKTYPE, "train/ant/0.png")):
            entry = tarfile.TarInfo(f"train/ant/link{kind!r}.png")
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    with pytest.raises(InputError, match="a link or device"):
        import_images(source, tmp_path / "out.h5")
    assert len(import_images(source, tmp_path / "out.h5", choices=Choices(skip_broken=True))[1]) == 2


def test_members_with_evil_names_write_nothing(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for write, name in ((as_tar, "deep/a.tar"), (as_zip, "deep/a.zip")):
        content = {**grey_set(), "/train/ant/absolute.png": png(GREY[0]), "../train/ant/up.png": png(GREY[0])}
        assert import_images(write(tmp_path / name, content), tmp_path / "out.h5")[0].counts["train"] >= 6
    assert sorted(os.listdir(tmp_path)) == ["deep", "out.h5"]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.xz", "a.zip"])
def test_archives_cut_off_anywhere_are_refused(tmp_path: Path, name: str) -> None:
    whole = (as_zip if name == "a.zip" else as_tar)(tmp_path / name, grey_set()).read_bytes()
    end = (
        len(grey_set()) * 1024 if name == "a.tar" else len(whole)
    )  # behind it a tar file has only its end mark
    for length in range(0, end, max(1, end // 25)):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.(tar|zip)"):
            import_images(tmp_path / name, tmp_path / "out.h5")
    assert os.listdir(tmp_path) == [name]


def test_a_damaged_tar_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    source = as_tar(tmp_path / "a.tar", grey_set())
    data = bytearray(source.read_bytes())
    data[1024 * 9 : 1024 * 9 + 512] = b"\xff" * 512
    source.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tar: can not be read as archive"):
        import_images(source, tmp_path / "out.h5")


def test_a_tar_whose_tables_are_endless_is_refused(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    (tmp_path / "a.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(InputError, match="an entry of 8,589,934,592 bytes"):
        import_images(tmp_path / "a.tar", tmp_path / "out.h5", kind="folders")


def test_a_large_member_is_not_read(tmp_path: Path) -> None:
    content = {**grey_set(), "train/ant/huge.png": bytes(65 << 20)}
    with pytest.raises(InputError, match=r"huge\.png: 68,157,440 bytes; wanted: 67,108,864 at most"):
        import_images(as_zip(tmp_path / "a.zip", content), tmp_path / "out.h5")


def test_folders_that_lead_back_to_themselves_are_refused(tmp_path: Path) -> None:
    as_folder(tmp_path / "set", grey_set())
    (tmp_path / "set" / "train" / "loop").symlink_to(tmp_path / "set")
    with pytest.raises(InputError, match="a link to a folder that it is in"):
        import_images(tmp_path / "set", tmp_path / "out.h5")


def cifar(labels: list[int], seed: int) -> tuple[np.ndarray, bytes]:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    return images, b"".join(
        bytes([label]) + image.transpose(2, 0, 1).tobytes()
        for label, image in zip(labels, images, strict=True)
    )


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_batches(tmp_path: Path, made: Callable[..., Description], packed: bool) -> None:
    (one, one_bytes), (two, two_bytes), (test, test_bytes) = cifar([3, 1], 1), cifar([0], 2), cifar([2, 2], 3)
    folder = "cifar-10-batches-bin/"
    content = {f"{folder}data_batch_1.bin": one_bytes, f"{folder}data_batch_2.bin": two_bytes}
    content |= {f"{folder}test_batch.bin": test_bytes, f"{folder}batches.meta.txt": b"a\nb\nc\nd\n\n"}
    found = made(as_tar(tmp_path / "c.tar.gz", content) if packed else content)
    assert found.class_names == ("a", "b", "c", "d")
    assert np.array_equal(pixels_of(found, "train"), np.concatenate([one, two]))
    assert np.array_equal(pixels_of(found, "test"), test)
    assert read_labels(found.path, "train").tolist() == [3, 1, 0]


def test_what_is_wrong_in_cifar_batches_is_named(made: Callable[..., Description], tmp_path: Path) -> None:
    data = cifar([1, 2], 1)[1]
    for content, said in (
        (
            {"data_batch_1.bin": data[:-1], "test_batch.bin": data},
            r"data_batch_1\.bin: 6,145 bytes; .*truncated",
        ),
        ({"data_batch_1.bin": data, "test_batch.bin": b""}, r"test_batch\.bin: 0 bytes"),
        (
            {"data_batch_1.bin": data, "test_batch.bin": data, "batches.meta.txt": b"a\nb\n"},
            "label 2 with 2 classes",
        ),
    ):
        with pytest.raises(InputError, match=said):
            made(content)
    for name in ("test_batch.bin", "batches.meta.txt"):
        (tmp_path / "source" / name).unlink()
    with pytest.raises(InputError, match="test: no images"):
        made(tmp_path / "source")


HEAD = "emotion,pixels,Usage\n"
PIXELS = " ".join(map(str, range(9)))
LINES = f"{HEAD}0,{PIXELS},Training\n6,{PIXELS},PublicTest\n3,{PIXELS},PrivateTest\n"


def test_fer2013s_table(made: Callable[..., Description], tmp_path: Path) -> None:
    (tmp_path / "fer.csv").write_text(LINES.replace("emotion,pixels,Usage", "emotion, Usage, pixels").replace(
        f",{PIXELS},Training", f",Training,{PIXELS}").replace(f",{PIXELS},PublicTest", f",PublicTest,{PIXELS}").replace(
        f",{PIXELS},PrivateTest", f",PrivateTest,{PIXELS}"))  # fmt: skip
    other = made(tmp_path / "fer.csv").sha256
    (tmp_path / "fer.csv").write_text(LINES)
    found = made(tmp_path / "fer.csv")
    assert found.sha256 == other
    assert found.counts == {"train": 1, "test": 1, "validation": 1}
    assert (found.height, found.width, found.channels, found.classes) == (3, 3, 1, 7)
    assert np.array_equal(pixels_of(found, "test")[0, ..., 0], np.arange(9).reshape(3, 3))
    assert found.class_names[read_labels(found.path, "validation")[0]] == "neutral"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "columns ''; wanted"),
        ("a,b\n1,2\n", "columns 'a, b'; wanted: emotion, pixels, usage"),
        (HEAD, "no images"),
        (LINES.replace("0,", "7,", 1), "line 2: emotion '7'; wanted: 0 to 6"),
        (LINES.replace("PublicTest", "Public"), "line 3: Usage 'Public'"),
        (LINES.replace(f"6,{PIXELS}", f"6,{PIXELS} 9"), "line 3: 10 pixels of 0 to 9; wanted: 9"),
        (LINES.replace(f"6,{PIXELS}", "6,0 1 2 3 4 5 6 7 256"), "line 3: 9 pixels of 0 to 256"),
        (LINES.replace(f"6,{PIXELS}", "6,0 1 2 3 4 5 6 7 x"), "line 3: pixels that are no numbers"),
        (LINES.replace(PIXELS, "1 2", 1), "2 pixels; wanted: a square"),
        (LINES[:-20], "line 4: 2 fields; wanted: 3"),
        (LINES + "\0", "line 5"),
        (LINES + '0,"' + "1 " * 2**20, "line .*field larger"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(
    made: Callable[..., Description], tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "fer.csv").write_text(content)
    with pytest.raises(InputError, match=rf"fer\.csv.*{said}"):
        made(tmp_path / "fer.csv")


ARRAYS = {
    "x_train": RANDOM.integers(0, 256, (5, 4, 3), np.uint8),
    "y_train": np.array([0, 1, 2, 0, 1], np.uint8),
    "x_test": RANDOM.integers(0, 256, (2, 4, 3), np.uint8),
    "y_test": np.array([[1], [2]]),
}


def test_numpys_arrays(made: Callable[..., Description], tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
    found = made(tmp_path / "a.npz")
    assert (found.height, found.width, found.channels, found.classes) == (4, 3, 1, 3)
    assert np.array_equal(pixels_of(found, "train")[..., 0], ARRAYS["x_train"])
    assert read_labels(found.path, "test").tolist() == [1, 2]
    images = RANDOM.integers(0, 256, (4, 3, 5, 6), np.uint8)
    medical = {f"{split}_images": images for split in ("train", "val", "test")}
    medical |= {f"{split}_labels": np.arange(4) for split in ("train", "val", "test")}
    np.savez(tmp_path / "b.npz", **medical)
    found = made(tmp_path / "b.npz")
    assert found.counts == {"train": 4, "test": 4, "validation": 4}
    assert np.array_equal(pixels_of(found, "validation"), images.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_test": None}, "no images of test; .*there are: x_train.npy"),
        ({"x_val": ARRAYS["x_test"]}, "no labels of validation"),
        ({"x_train": ARRAYS["x_train"].astype("f4")}, r"x_train\.npy: float32"),
        ({"y_train": np.array([None] * 5)}, r"y_train\.npy: (object|can not be read)"),
        ({"x_train": ARRAYS["x_train"].astype("i8") + 1}, "values of .* to 256; wanted: 0 to 255"),
        ({"y_train": ARRAYS["y_train"][:4]}, r"y_train\.npy: shape \(4,\); wanted: \(5,\)"),
        ({"x_test": np.zeros((2, 5, 5), np.uint8)}, "wanted: one shape"),
        ({"x_train": np.zeros((5, 12), np.uint8)}, r"shape \(5, 12\)"),
        ({"x_train": np.asfortranarray(ARRAYS["x_train"])}, "column by column"),
        ({"y_train": -np.ones(5, np.int64)}, "label -1"),
        ({"x_train": np.zeros((0, 4, 3), np.uint8), "y_train": np.zeros(0, int)}, "train: no images"),
    ],
)
def test_what_is_wrong_in_arrays_is_named(
    made: Callable[..., Description], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    arrays = {name: values for name, values in {**ARRAYS, **changes}.items() if values is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=rf"{said}") as raised:
        made(tmp_path / "a.npz")
    assert str(raised.value).count("can not be read") <= 1
    assert not (tmp_path / "out.h5").exists()


def test_arrays_cut_off_anywhere_are_refused(made: Callable[..., Description], tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
    whole = (tmp_path / "a.npz").read_bytes()
    for length in range(0, len(whole), 61):
        (tmp_path / "a.npz").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.npz"):
            import_images(tmp_path / "a.npz", tmp_path / "out.h5", kind="npz")


def test_nothing_but_a_file_of_images_is_written_over(tmp_path: Path) -> None:
    source, out = tmp_path / "a.npz", tmp_path / "out.h5"
    np.savez(source, **ARRAYS)
    before = source.read_bytes()
    with pytest.raises(InputError, match=r"a\.npz: is there already .* another name"):
        import_images(source, source)
    assert source.read_bytes() == before
    assert import_images(source, out)[0] == import_images(source, out)[0]


def test_the_kind_is_recognised_or_asked_for(made: Callable[..., Description], tmp_path: Path) -> None:
    assert CLI_KINDS == KINDS
    for source, said in (
        (tmp_path / "none", "no such file"),
        (as_folder(tmp_path / "empty", {"words.txt": b""}), r"it has: words\.txt; wanted: .*IDX"),
        (as_folder(tmp_path, {"a.txt": b""}) / "a.txt", "of no kind .*--as idx, cifar"),
        (as_folder(tmp_path, {"cut.npz": b"PK"}) / "cut.npz", "can not be read as .npz"),
    ):
        with pytest.raises(InputError, match=said):
            made(source)
    with pytest.raises(InputError, match=r"none of CIFAR-10's batches; wanted: data_batch_1\.bin"):
        import_images(tmp_path / "empty", tmp_path / "o.h5", kind="cifar")
    (tmp_path / "set.data").write_text(LINES)
    assert import_images(tmp_path / "set.data", tmp_path / "o.h5", kind="fer2013")[0].counts["train"] == 1
    with pytest.raises(InputError, match="of kind fer2013: --size"):
        import_images(tmp_path / "set.data", tmp_path / "o.h5", kind="fer2013", choices=Choices(grey=True))


PEAK = """
import re, sys
from pathlib import Path
from distsgd.data import Choices, import_images

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

import_images(sys.argv[1], sys.argv[3])
before = peak()
import_images(sys.argv[2], sys.argv[3])
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("name", ["a.tar.gz", "a.npz", "a.csv"])
def test_memory_does_not_grow_with_the_set(tmp_path: Path, name: str) -> None:
    """From 9 MB of pixels to 90 MB."""
    for folder, count in (("small", 1_000), ("large", 10_000)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / name
        if name == "a.tar.gz":
            picture = png(np.zeros((96, 96), np.uint8))
            as_tar(
                path,
                {f"{split}/a/{n}.png": picture for split in ("train", "test") for n in range(count // 2)},
            )
        elif name == "a.npz":
            images, labels = np.zeros((count, 96, 96), np.uint8), np.zeros(count, np.int64)
            np.savez_compressed(path, x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
        else:
            line = "0," + "0 " * 96 * 96
            with path.open("w") as file:
                file.writelines([HEAD, *[f"{line},Training\n"] * (count // 10), f"{line},PrivateTest\n"])
    paths = [str(tmp_path / folder / name) for folder in ("small", "large")]
    found = finish([sys.executable, "-c", PEAK, *paths, str(tmp_path / "out.h5")])
    assert found.rc == 0, found.stderr
    assert int(found.stdout) < 16 << 20


def test_real_cifar_batches_keep_their_labels(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    done = finish([sys.executable, str(real_data("cifar10") / "unpack_cifar10.py"), str(tmp_path)])
    assert done.rc == 0, done.stderr
    found = import_images(tmp_path, tmp_path / "cifar.h5")[0]
    assert found.counts == {"train": 20_000, "test": 4_000}
    assert found.sha256 == "7ea56ad1db183b26925246ac47cd5bbe7a4291d4b691438959ccb1a458e0be7f"


def test_real_faces_split_as_their_names_say(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    said: list[str] = []
    found = import_images(real_data("fer2013") / "fer2013-jpeg.tar.xz", tmp_path / "fer.h5", say=said.append)[
        0
    ]
    assert found.counts == {"train": 28_709, "test": 3_589, "validation": 3_589}
    assert np.bincount(read_labels(found.path, "test")).tolist() == [491, 55, 528, 879, 626, 594, 416]
    assert any("FER2013" in line for line in said)
    assert describe(found.path).channels == 1
