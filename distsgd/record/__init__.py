"""What a run leaves behind: its settings, metrics, model and summary, and the checkpoints from which it goes on."""

from distsgd.record import checkpoint
from distsgd.record.run import Record, lock, make_folder, summary, weights_sha256

__all__ = ["Record", "checkpoint", "lock", "make_folder", "summary", "weights_sha256"]
