"""The everyday names the mini is taught; the vocabulary holds more than it could learn well."""

from pathlib import Path

NAMES = Path(__file__).with_name("names.txt")


def chosen_names() -> list[str]:
    """The names, in the order of names.txt."""
    return NAMES.read_text("utf-8").splitlines()
