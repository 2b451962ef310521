"""What can be wrong with what people give the model; each message is one sentence with the mend."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used."""


class PromptError(ValueError):
    """A prompt the model cannot take."""


class DataError(ValueError):
    """A data set, or a record of one, that cannot be read."""


class ClickError(ValueError):
    """Clicks, a box or a mask that do not fit the photo."""
