"""What the benchmark of kernels finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timed:
    """An operation and what it came to. torch_ratio: PyTorch's time over ours."""

    network: str
    layer: str
    what: str
    seconds: float
    gflops: float
    """Billions of floating-point operations a second, 0 where none are counted."""
    gigabytes: float
    """Billions of bytes a second, each number read or written once."""
    share_of_limit: float | None
    """Of the fastest that arithmetic and memory allow; above 1 where an algorithm needs fewer multiplications, or where numbers lie
    nearer than those of a copy of as many bytes. None for the loss: its exponentials are no multiply-adds.
    """
    bound: str
    """"arithmetic" or "memory"."""
    convolves: bool
    held: float
    """Bytes that it works in."""
    torch_ratio: float | None = None
