"""The one model of a run's settings."""


class InputError(ValueError):
    """What a user gave is wrong: shown as one message without a traceback, exit code 2."""
