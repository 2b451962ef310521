"""The everyday names the mini is taught; the vocabulary holds more than it could learn well."""

from pathlib import Path

NAMES = Path(__file__).with_name("names.txt")
PHOTO_NAMES = Path(__file__).with_name("photo_names.txt")


def rendered_names() -> list[str]:
    """Names of what rendered scenes show."""
    return NAMES.read_text("utf-8").splitlines()


def chosen_names() -> list[str]:
    """All names: those of rendered scenes, then those that only photos show."""
    return rendered_names() + PHOTO_NAMES.read_text("utf-8").splitlines()
