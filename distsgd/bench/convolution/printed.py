"""What the source documents printed, to stand beside what is measured here."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Printed:
    """Seconds and test accuracies (shares of 1) by batch size, on so many cores where that was said."""

    seconds: Mapping[int, float]
    accuracy: Mapping[int, float] = field(default_factory=dict)
    cores: int | None = None
    name: str = ""
    """What it is, where not what stands beside it."""

    @property
    def label(self) -> str:
        """What a reader must know of it."""
        return f"{self.cores} cores" if self.cores else self.name


NAIVE, MATRIX, UNROLLED, SCALAR = "naive loops", "matrix operations", "unrolled", "plain scalar Numba"
MATRIX_PARALLEL, UNROLLED_PARALLEL = f"{MATRIX}, parallel", f"{UNROLLED}, parallel"
OURS, PYTORCH = "ours", "PyTorch"

GARG = {
    NAIVE: [Printed({64: 262, 32: 154})],
    MATRIX: [Printed({64: 12.71, 32: 7.56}, {64: 0.9706, 32: 0.9595})],
    MATRIX_PARALLEL: [
        Printed({64: 7.12, 32: 4.23}, {}, 4),
        Printed({64: 2.42, 32: 1.61}, {64: 0.97, 32: 0.9755}, 40),
    ],
    UNROLLED: [Printed({64: 7.01, 32: 4.94}, {64: 0.9745, 32: 0.9775})],
    UNROLLED_PARALLEL: [
        Printed({64: 5.25, 32: 3}, {}, 4),
        Printed({64: 3.02, 32: 2.25}, {64: 0.9763, 32: 0.977}, 40),
    ],
    PYTORCH: [Printed({64: 0.6, 32: 0.45}, {64: 0.987, 32: 0.988}, name="Keras")],
}
"""Garg, Joshi and Sahu: seconds a training iteration, test accuracy on MNIST."""

RENDON_IMAGES = 50_000
RENDON = {
    MATRIX: [Printed({32: 2 * 3600 + 2 * 60 + 21}, {32: 0.9101})],
    SCALAR: [Printed({32: 3600 + 17 * 60}, name="Numba")],
    PYTORCH: [Printed({32: 38}, {32: 0.9485}, name="Keras")],
}
"""Rendon and Sanseviero: seconds an epoch of so many of MNIST's images, test accuracy after it."""
