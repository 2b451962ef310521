"""Errors in what users give the model. Each message is one sentence on what is wrong and how to fix it."""


class CheckpointError(ValueError):
    """A checkpoint or adapter cannot be used."""


class PromptError(ValueError):
    """A prompt is empty or too long."""


class DataError(ValueError):
    """A data set or one of its records cannot be read."""


class ClickError(ValueError):
    """Clicks, a box or a mask that do not fit the photo."""
