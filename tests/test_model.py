"""Trained networks read back, and files that are not what they say."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import distsgd
from distsgd import data
from distsgd.config import InputError
from distsgd.record import weights_sha256

SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"train_images": 400},
    "network": {"name": "rendon"},
    "train": {"epochs": 2},
    "averaging": {"workers": 3},
}
EMBEDDED = "fashion-mnist-small"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> distsgd.Run:
    return distsgd.train(SETTINGS, out=tmp_path_factory.mktemp("model") / "run")


@pytest.fixture
def folder(run: distsgd.Run, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    assert run.folder
    shutil.copytree(run.folder, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return data.read_rows(data.locate(EMBEDDED), "test", np.arange(1000))


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        distsgd.load(folder)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    return said


def test_a_loaded_network_is_the_trained_one(run: distsgd.Run, folder: Path, images: np.ndarray) -> None:
    loaded = distsgd.load(str(folder))
    assert weights_sha256(loaded.parameters) == run.summary["weights_sha256"]
    np.testing.assert_array_equal(loaded.scaling, run.model.scaling)
    assert loaded.class_names[9] == "Ankle boot"
    assert (loaded.classes, loaded.image_shape) == (10, (28, 28, 1))
    np.testing.assert_array_equal(loaded.scores(images[:50]), run.model.scores(images[:50]))


def test_predictions_are_what_the_run_was_judged_by(run: distsgd.Run, images: np.ndarray) -> None:
    labels = data.read_labels(data.locate(EMBEDDED), "test")
    chosen = run.model.predict(images)
    assert (chosen == labels).mean() == run.summary["test_accuracy"]
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, chosen), 1)
    assert confusion.tolist() == run.summary["confusion"]
    places = np.argsort(-run.model.scores(images), axis=1, kind="stable")[:, :5]
    assert (places == labels[:, None]).any(1).mean() == run.summary["top5_accuracy"]


def test_evaluating_a_file_gives_the_run_s_own_score(run: distsgd.Run) -> None:
    for _ in range(2):
        found = run.model.evaluate(EMBEDDED)
        assert (found.score.accuracy, found.score.loss) == (
            run.summary["test_accuracy"],
            run.summary["test_loss"],
        )
        assert found.by_class.confusion == run.summary["confusion"]
    assert run.model.evaluate(EMBEDDED, "train").score.samples == 6000


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
def test_any_number_of_images(count: int, run: distsgd.Run, images: np.ndarray) -> None:
    scores = run.model.scores(images[:count])
    assert (scores.shape, scores.dtype) == ((count, 10), np.float32)
    np.testing.assert_array_equal(scores, run.model.scores(images)[:count])
    assert run.model.predict(images[:count]).shape == (count,)
    np.testing.assert_allclose(run.model.probabilities(images[:count]).sum(-1), np.ones(count), rtol=1e-6)


def test_one_image_and_images_that_lie_otherwise(run: distsgd.Run, images: np.ndarray) -> None:
    several = run.model.scores(images[:20])
    assert run.model.scores(images[3]).shape == (10,)
    np.testing.assert_array_equal(run.model.scores(images[3]), several[3])
    assert run.model.predict(images[3]) == several[3].argmax()
    np.testing.assert_array_equal(run.model.scores(images[:20][::-2]), several[::-2])
    exponentials = np.exp(several[3].astype(np.float64))
    np.testing.assert_allclose(
        run.model.probabilities(images[3]), exponentials / exponentials.sum(), rtol=1e-5
    )


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 28, 28, 1), np.float32),
        np.zeros((28, 28), np.uint8),
        np.zeros((2, 28, 28, 3), np.uint8),
        np.zeros((1, 2, 28, 28, 1), np.uint8),
    ],
)
def test_other_arrays_are_refused(wrong: np.ndarray, run: distsgd.Run) -> None:
    with pytest.raises(InputError, match=r"the network takes uint8, 28x28x1"):
        run.model.predict(wrong)


def test_no_choice_where_a_score_is_no_number(run: distsgd.Run, images: np.ndarray) -> None:
    broken = distsgd.Model(
        run.model._network.stages,
        np.full_like(run.model.parameters, np.nan),
        run.model.scaling,
        (),
        (1, 28, 28),
    )
    assert broken.predict(images[:3]).tolist() == [-1, -1, -1]


def test_images_that_do_not_fit_are_named(run: distsgd.Run, tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with data.writing(path, (8, 9, 3), "made up", ["one", "two"]) as writer:
        for split in ("train", "test"):
            writer.append(split, np.zeros((4, 8, 9, 3), np.uint8), np.array([0, 1, 0, 1]))
    with pytest.raises(InputError) as caught:
        run.model.evaluate(path, "validation")
    shape, classes, split = str(caught.value).splitlines()
    assert shape.endswith("has images of 8x9x3; the network takes 28x28x1")
    assert classes.endswith("has 2 classes; the network knows 10")
    assert split.endswith("has no split 'validation'; it has train, test")


def test_no_run_there(tmp_path: Path) -> None:
    assert "holds no model.h5; wanted: the folder of a run" in refused(tmp_path / "none")


@pytest.mark.parametrize("keep", [0, 100, 2000, -1])
@pytest.mark.parametrize("summary", [True, False])
def test_a_truncated_file_is_named(keep: int, summary: bool, folder: Path) -> None:
    content = (folder / "model.h5").read_bytes()
    (folder / "model.h5").write_bytes(content[:keep])
    if not summary:
        (folder / "run.json").unlink()
    assert ("is damaged: its sha256 is" if summary else "can not be read as a model") in refused(folder)


def change(folder: Path, how: Callable[[h5py.File], Any]) -> None:
    """Change the file, and what run.json says of it."""
    with h5py.File(folder / "model.h5", "r+") as file:
        how(file)
    content = json.loads((folder / "run.json").read_text())
    content["sha256"]["model.h5"] = hashlib.sha256((folder / "model.h5").read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(content))


def about(**changes: Any) -> Callable[[h5py.File], None]:
    def how(file: h5py.File) -> None:
        file.attrs["about"] = json.dumps({**json.loads(file.attrs["about"]), **changes})

    return how


def parameters(**given: Any) -> Callable[[h5py.File], None]:
    """Replace the parameters by a data set of these properties."""

    def how(file: h5py.File) -> None:
        del file["parameters"]
        file.create_dataset("parameters", **given)

    return how


def linked(link: Any) -> Callable[[h5py.File], None]:
    def how(file: h5py.File) -> None:
        file.move("parameters", "elsewhere")
        file["parameters"] = link

    return how


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    def how(file: h5py.File) -> None:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value

    return how


def virtual(file: h5py.File) -> None:
    del file["parameters"]
    layout = h5py.VirtualLayout((26594,), "<f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (26594,))
    file.create_virtual_dataset("parameters", layout)


def reference(file: h5py.File) -> None:
    del file.attrs["about"]
    file.attrs.create("about", file.ref, dtype=h5py.ref_dtype)


CHECKED = {"fletcher32": True, "chunks": (1000,)}
NONE = np.zeros(26594, np.float32)
HOSTILE: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "another format": (attribute("format", "x"), "format 'x'; this version reads"),
    "no format": (attribute("format", None), "an attribute format, one text"),
    "a number for a text": (attribute("about", 3), "an attribute about, one text"),
    "a reference": (reference, "an attribute about, one text"),
    "no JSON": (attribute("about", "{"), "its description is wrong"),
    "deep JSON": (attribute("about", "[" * 100_000), "its description is wrong"),
    "other weights": (attribute("weights_sha256", "0" * 64), "its weights have sha256"),
    "a soft link": (linked(h5py.SoftLink("/elsewhere")), "no link to elsewhere"),
    "an external link": (linked(h5py.ExternalLink("/etc/passwd", "/x")), "no link to elsewhere"),
    "virtual": (virtual, "lie in other files"),
    "external": (
        parameters(shape=(26594,), dtype="<f4", external=[("/etc/passwd", 0, 26594 * 4)]),
        "lie in other files",
    ),
    "a group": (lambda file: (file.pop("parameters"), file.create_group("parameters")), "wanted: a data set"),
    "doubles": (parameters(data=NONE.astype(float), **CHECKED), "one row of float32"),
    "a size bomb": (parameters(shape=(2**40,), dtype="<f4", **CHECKED), "wanted: all of 1 to"),
    "a compressed bomb": (parameters(data=NONE, compression="gzip", **CHECKED), "fletcher32 (3) only"),
    "no checksums": (parameters(data=NONE, chunks=(1000,)), "fletcher32 (3) only"),
    "chunks left out": (parameters(shape=(26594,), dtype="<f4", **CHECKED), "wanted: all of 1 to"),
    "not enough": (
        lambda file: (
            parameters(data=NONE[:100], **{**CHECKED, "chunks": (100,)})(file),
            attribute("weights_sha256", weights_sha256(NONE[:100]))(file),
        ),
        "its tensors are not those",
    ),
    "no numbers": (
        lambda file: (
            parameters(data=NONE + np.float32(np.nan), **CHECKED)(file),
            attribute("weights_sha256", weights_sha256(NONE + np.float32(np.nan)))(file),
        ),
        "infinite or no numbers",
    ),
    "another network": (about(network={"name": "garg"}), "its tensors are not those"),
    "an unknown network": (about(network={"name": "x"}), "its network can not be built"),
    "an unknown setting": (about(network={"nosuch": 1}), "network.nosuch"),
    "other classes": (about(classes=11), "do not agree in number"),
    "other channels": (about(image_shape=[3, 28, 28]), "the network sees"),
    "sees more than there is": (about(seen_shape=[1, 28, 29]), "the network sees"),
    "no images": (about(image_shape=[1, 0, 28]), "at least one of each"),
    "huge images": (about(image_shape=[1, 2**40, 2**40]), "at most 67,108,864 bytes"),
    "names that move the cursor": (about(class_names=["\x1b[2J"] * 10), "must be printable"),
    "an infinite scale": (about(scaling=[[0.0], [float("inf")]]), "scaling"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(kind: str, folder: Path) -> None:
    how, text = HOSTILE[kind]
    change(folder, how)
    assert text in refused(folder)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"\xff", "is damaged"),
        (b"[]", "is not a run's"),
        (b'{"format": "x"}', "is not a run's"),
    ],
)
def test_a_summary_that_is_none(content: bytes, text: str, folder: Path) -> None:
    (folder / "run.json").write_bytes(content)
    assert f"run.json {text}" in refused(folder)


def test_a_summary_without_end_is_not_read(folder: Path) -> None:
    with open(folder / "run.json", "r+b") as file:
        os.truncate(file.fileno(), 2**40)
    assert "at most 67,108,864 are read" in refused(folder)
