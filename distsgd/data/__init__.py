"""Images on disk and who gets which: the store, its importers, the shards."""

from distsgd.data.embedded import locate
from distsgd.data.importers import KINDS, Choices, import_images
from distsgd.data.info import summary, verify
from distsgd.data.shards import contiguous, deal, hold_out, shuffled
from distsgd.data.sheet import draw_samples
from distsgd.data.store import Description, describe, read_labels, read_rows
from distsgd.data.writer import Writer, writing

__all__ = [
    "KINDS",
    "Choices",
    "Description",
    "Writer",
    "contiguous",
    "deal",
    "describe",
    "draw_samples",
    "hold_out",
    "import_images",
    "locate",
    "read_labels",
    "read_rows",
    "shuffled",
    "summary",
    "verify",
    "writing",
]
