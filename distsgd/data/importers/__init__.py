"""Make a file of images from the formats that sets come in; each importer is a file here."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from distsgd.config import InputError
from distsgd.data.importers.cifar import is_batch, read_cifar
from distsgd.data.importers.files import ARCHIVES, files, is_archive
from distsgd.data.importers.folders import is_picture, read_folders
from distsgd.data.importers.found import Choices, Found, Say
from distsgd.data.importers.idx import is_idx, read_idx
from distsgd.data.importers.npz import read_npz
from distsgd.data.importers.table import read_table
from distsgd.data.store import Description, describe, is_images
from distsgd.data.writer import writing

__all__ = ["KINDS", "Choices", "Found", "import_images", "recognised"]

_READERS = {
    "idx": read_idx,
    "cifar": read_cifar,
    "folders": read_folders,
    "fer2013": read_table,
    "npz": read_npz,
}
KINDS = tuple(_READERS)
_AS_FOUND = Choices()
_MOST_LOOKED_AT = 100_000


def import_images(
    source: str | Path,
    out: str | Path,
    kind: str | None = None,
    choices: Choices = _AS_FOUND,
    say: Say = lambda line: None,
    title: str | None = None,
    class_names: Sequence[str] = (),
    compress: bool = False,
) -> tuple[Description, list[str]]:
    """Make the file of images `out` from `source`, of a `kind` in KINDS (default: what is there). Memory does
    not grow with the set.

    `say` is told what a person may want to choose otherwise; `title` says where the images are from and
    `class_names` what they show, in place of the source's own. Returns what was made and the files that were
    passed over, each with its reason. Raises InputError for a source that is not whole, and then leaves nothing; and
    where `out` is a file of another kind, such as the source itself.
    """
    source, out = Path(source), Path(out)
    _check_nothing_lost(out)
    kind = kind or recognised(source)
    if kind != "folders" and choices != _AS_FOUND:
        raise InputError(
            f"{source}: of kind {kind}: --size, --grey, --blurred, splits and --skip-broken go with folders of pictures"
        )
    with _READERS[kind](source, choices, say) as found:
        names = tuple(class_names) or found.class_names
        with writing(out, found.shape, title or found.source, names, compress) as writer:
            for split, images, labels in found.blocks:
                writer.append(split, images, labels)
    return describe(out), found.broken


def _check_nothing_lost(out: Path) -> None:
    """A file of images may be made anew. Anything else was named by mistake."""
    if out.is_file() and out.stat().st_size and not is_images(out):
        raise InputError(f"{out}: is there already and no file of images; give the new file another name")


def recognised(source: Path) -> str:
    """Which of KINDS is in `source`, judged by names. Raises InputError where it is none."""
    if source.is_dir() or is_archive(source):
        names = [file.name for file in islice(files(source), _MOST_LOOKED_AT)]
        return _of_names(source, names)
    name = source.name.lower()
    if name.endswith((".csv", ".csv.gz")) and source.is_file():
        return "fer2013"
    if name.endswith(".npz") and source.is_file():
        return "npz"
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    raise InputError(f"{source}: of no kind that is known by its name; {_wanted()}")


def _of_names(source: Path, names: list[PurePosixPath]) -> str:
    if source.is_dir() and any(len(name.parts) == 1 and is_idx(name.name) for name in names):
        return "idx"
    if any(is_batch(name.name) for name in names):
        return "cifar"
    if any(is_picture(name) for name in names):
        return "folders"
    shown = ", ".join(map(str, names[:8])) + (" ..." if len(names) > 8 else "")
    raise InputError(f"{source}: no images that are known; it has: {shown or 'nothing'}; {_wanted()}")


def _wanted() -> str:
    return (
        "wanted: a folder of IDX files (train-images-idx3-ubyte and its kin) or, in a folder or in one of "
        f"{', '.join(ARCHIVES)}, CIFAR-10's data_batch_1.bin and its kin or pictures in folders of classes; "
        f"FER2013's .csv; or .npz (--as {', '.join(KINDS)} says which)"
    )
