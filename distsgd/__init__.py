"""Data-parallel SGD for convolutional networks over MPI: the same weights on any number of ranks."""

__version__ = "0.1.0"
