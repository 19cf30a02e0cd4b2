"""What every section of the settings is, and the error that tells a user what is wrong."""

from pydantic import BaseModel, ConfigDict


class InputError(ValueError):
    """What a user gave is wrong: shown as one message without a traceback, exit code 2."""


class Section(BaseModel):
    """A table of settings: unknown keys are refused, and nothing is changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
