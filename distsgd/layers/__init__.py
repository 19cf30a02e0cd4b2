"""Layers as frozen descriptions: shapes, parameters, and the kernel calls that carry them forward and backward.

A layer holds no arrays. Given a `Place`, the memory that the network planned for it, it returns a program: a list of kernels with
their arguments, bound once and then called at every step.
"""

from dataclasses import dataclass

from distsgd.layers.convolution import Convolution
from distsgd.layers.dense import Dense
from distsgd.layers.dropout import Dropout
from distsgd.layers.normalization import ResponseNormalization
from distsgd.layers.place import Border, Place, Program, Shape, Tensor, Values
from distsgd.layers.pooling import AveragePool, MaxPool


@dataclass(frozen=True)
class Rectifier:
    """max(x, 0): done by the convolution or dense layer before it, as it writes its output."""


Layer = Convolution | Dense | MaxPool | AveragePool | Dropout | ResponseNormalization

__all__ = [
    "AveragePool",
    "Border",
    "Convolution",
    "Dense",
    "Dropout",
    "Layer",
    "MaxPool",
    "Place",
    "Program",
    "Rectifier",
    "ResponseNormalization",
    "Shape",
    "Tensor",
    "Values",
]
