"""What a run leaves behind: its settings, metrics, model and summary, and the checkpoints from which it goes on."""

from distsgd.record import checkpoint
from distsgd.record.files import as_json, write_whole
from distsgd.record.model import MOST_PARAMETERS, Stored, model_path, read_model, weights_sha256
from distsgd.record.reading import FORMAT, read_bounded, read_summary
from distsgd.record.run import Record, lock, make_folder, summary

__all__ = [
    "FORMAT",
    "MOST_PARAMETERS",
    "Record",
    "Stored",
    "as_json",
    "checkpoint",
    "lock",
    "make_folder",
    "model_path",
    "read_bounded",
    "read_model",
    "read_summary",
    "summary",
    "weights_sha256",
    "write_whole",
]
