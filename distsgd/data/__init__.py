"""Images on disk and who gets which: the store, its importers, the shards."""

from distsgd.data.embedded import locate
from distsgd.data.idx import import_idx
from distsgd.data.info import summary, verify
from distsgd.data.shards import contiguous, deal, hold_out, shuffled
from distsgd.data.store import Description, describe, read_labels, read_rows
from distsgd.data.writer import Writer, writing

__all__ = [
    "Description",
    "Writer",
    "contiguous",
    "deal",
    "describe",
    "hold_out",
    "import_idx",
    "locate",
    "read_labels",
    "read_rows",
    "shuffled",
    "summary",
    "verify",
    "writing",
]
