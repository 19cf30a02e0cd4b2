"""`distsgd data`: import images, and look at a file of them."""

import argparse
import re
from pathlib import Path

from distsgd.clock import Clock

KINDS = ("idx", "cifar", "folders", "fer2013", "npz")
_SPLITS = ("train", "validation", "test")
_IMPORT = """SOURCE is one of
  a folder of IDX files, gzipped or not, named as MNIST's
  CIFAR-10's binary batches
  folders of JPEG and PNG, CLASS/NAME or SPLIT/CLASS/NAME with the splits train, test, val
  FER2013's CSV (emotion, pixels, Usage)
  an .npz of arrays x_train, y_train, x_test, y_test and perhaps x_val, y_val
Batches and folders may also lie in a .tar (also .gz, .xz, .bz2) or .zip. The names of FER2013's
pictures (Training_, PublicTest_, PrivateTest_) tell their splits by themselves."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands and their options."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_import(
        commands.add_parser(
            "import",
            help="make a file of images from the formats that sets come in",
            description=_IMPORT,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    info = commands.add_parser("info", help="what is in a file of images, and whether it is whole")
    info.set_defaults(command=_info)
    info.add_argument("file", metavar="FILE", help="a file, or the name of an embedded set")
    info.add_argument("--plot", type=Path, metavar="OUT.png", help="draw a sheet of samples of each class")


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_import)
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("out", type=Path, metavar="OUT.h5")
    parser.add_argument("--as", dest="kind", choices=KINDS, help="what SOURCE is (default: by what is there)")
    pictures = parser.add_argument_group("folders of pictures")
    pictures.add_argument(
        "--size",
        type=_size,
        metavar="N",
        help="height and width, or HxW: the shorter side is scaled, the centre cut out (default: the commonest)",
    )
    pictures.add_argument(
        "--grey", action="store_true", help="no colours (default: unless a picture has them)"
    )
    pictures.add_argument(
        "--split-pattern",
        type=_pattern,
        action="append",
        default=[],
        metavar="SPLIT=PATTERN",
        help="files of such names are of this split, as in 'validation=PublicTest_*'; may be repeated, the first counts",
    )
    pictures.add_argument(
        "--test-fraction",
        type=_fraction,
        default=0.0,
        metavar="F",
        help="share of the pictures without a split that are to test with, chosen by their names",
    )
    pictures.add_argument(
        "--skip-broken", action="store_true", help="pass over what can not be read, and list it"
    )
    pictures.add_argument(
        "--blurred",
        type=_blur,
        action="append",
        default=[],
        metavar="SPLIT=SIGMA",
        help="pictures of this split were blurred by a Gaussian of so many pixels, as in train=3.3: sharpen them; may be repeated",
    )
    parser.add_argument("--compress", action="store_true", help="smaller, and several times slower to read")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number of pixels, or two as in 48x64")
    return int(match[1]), int(match[2] or match[1])


def _pattern(text: str) -> tuple[str, str]:
    split, _, pattern = text.partition("=")
    if split not in _SPLITS or not pattern:
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be {', '.join(_SPLITS)}, then = and a pattern as test_*"
        )
    return pattern, split


def _blur(text: str) -> tuple[str, float]:
    split, _, pixels = text.partition("=")
    if split not in _SPLITS or not re.fullmatch(r"\d{1,2}(\.\d+)?", pixels) or not float(pixels):
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be {', '.join(_SPLITS)}, then = and the blur's deviation, above 0 and below 100"
        )
    return split, float(pixels)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be between 0 and 1")
    return value


def _import(given: argparse.Namespace, clock: Clock) -> int:
    from distsgd import data

    choices = data.Choices(
        given.size,
        given.grey,
        tuple(given.split_pattern),
        given.test_fraction,
        given.skip_broken,
        tuple(given.blurred),
    )
    made, broken = data.import_images(
        given.source, given.out, given.kind, choices, say=print, compress=given.compress
    )
    for line in broken:
        print(f"passed over: {line}")
    if given.skip_broken:
        print(f"passed over {len(broken):,} files that can not be used")
    print(data.summary(made.path))
    return 0


def _info(given: argparse.Namespace, clock: Clock) -> int:
    from distsgd import data

    path = data.locate(given.file)
    print(data.summary(path))
    if given.plot:
        data.draw_samples(path, given.plot)
        print(f"\nsamples are drawn in {given.plot}")
    return 0
