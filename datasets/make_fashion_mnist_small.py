"""Make the embedded set from its IDX files: python datasets/make_fashion_mnist_small.py IDX_FOLDER

The same bytes each time with the same h5py: nothing in the file depends on when or where it was made.
"""

import argparse
from pathlib import Path

from distsgd.data import import_images, summary

SOURCE = "Fashion-MNIST, the first 600 training and 100 test images of each class; MIT, (c) 2017 Zalando SE"
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def main() -> None:
    """Write fashion_mnist_small.h5 beside this script and say what is in it."""
    parser = argparse.ArgumentParser(description="Make fashion_mnist_small.h5 from IDX files.")
    parser.add_argument("idx_folder", type=Path, help="folder of the four IDX or IDX.gz files")
    out = Path(__file__).with_name("fashion_mnist_small.h5")
    folder = parser.parse_args().idx_folder
    import_images(folder, out, "idx", title=SOURCE, class_names=CLASS_NAMES, compress=True)
    print(summary(out))


if __name__ == "__main__":
    main()
