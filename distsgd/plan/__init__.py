"""From a machine's constants and what is to be run: seconds, phase by phase, before anything runs."""
