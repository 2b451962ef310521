"""What is used of a labeling configuration: its controls, their labels, and what a task adds to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

DEFAULT_PROMPT_KEY = "prompt"

# Controls with labels of their own, and drawing controls whose labels are in a `<Labels>` beside them. Masks
# come first, since nothing of a mask is lost in them.
ShapeKind = Literal[
    "brushlabels",
    "bitmasklabels",
    "brush",
    "bitmask",
    "polygonlabels",
    "polygon",
    "rectanglelabels",
    "rectangle",
]
SHAPE_KINDS: tuple[ShapeKind, ...] = get_args(ShapeKind)
# A <Choices> control that the ready-made templates have: any of its choices says that all is marked.
NOTHING_ELSE = "nothing_else"
MASK_KINDS = frozenset(["brushlabels", "bitmasklabels", "brush", "bitmask"])


class ConfigError(ValueError):
    """The labeling configuration cannot be used; the message names the tag and what to change."""


@dataclass(frozen=True, slots=True)
class Label:
    """One label.

    Attributes:
        value: What results carry.
        aliases: Further names of the same thing.
        background: The colour that the editor gives it, as in CSS; empty if the configuration names none.
    """

    value: str
    aliases: tuple[str, ...] = ()
    background: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ImageControl:
    """The `<Image>` tag.

    Attributes:
        name: The tag's name.
        key: The field of a task's data that holds the image's address, or a list of addresses.
    """

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class ShapeControl:
    """A tag that regions of one kind belong to.

    Attributes:
        name: The tag's name.
        kind: The tag in lower case, which is also the type of its results.
        labels: Its labels.
        labels_name: The `<Labels>` tag that has the labels; None if they are in the tag itself.
        labels_key: The field of a task's data that holds further labels; None if there is none.
        min_score: Targets with a lower score are not shown (`model_score_threshold`); None: the tag does not
            say.
    """

    name: str
    kind: ShapeKind
    labels: tuple[Label, ...]
    labels_name: str | None = None
    labels_key: str | None = None
    min_score: float | None = None


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """What is used of a labeling configuration.

    Attributes:
        image: The image that is labelled.
        shapes: The controls that regions belong to, at least one; those for masks come first.
        prompt: The name of the `<TextArea>` that prompts are typed into; None if there is none.
        answer: The name of the `<TextArea>` that shows the model's answer; None if there is none.
        task_prompt_key: The field of a task's data that may hold a prompt for batches.
        item_index: Which of a task's images is meant; None if the task has one image.
        answer_per_item: Whether each of a task's images has an answer of its own.
        pointing: The names of the tools without labels that are declared smart: they send points and boxes.
    """

    image: ImageControl
    shapes: tuple[ShapeControl, ...]
    prompt: str | None
    answer: str | None
    task_prompt_key: str = DEFAULT_PROMPT_KEY
    item_index: int | None = None
    answer_per_item: bool = False
    pointing: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels of all shapes; one that several have is named once, with the aliases of all."""
        labels: dict[str, Label] = {}
        for label in (label for shape in self.shapes for label in shape.labels):
            known = labels.setdefault(label.value, label)
            aliases = tuple(dict.fromkeys((*known.aliases, *label.aliases)))
            labels[label.value] = Label(label.value, aliases, known.background or label.background)
        return tuple(labels.values())

    @property
    def masks(self) -> tuple[ShapeControl, ...]:
        """The controls for brush masks and bitmasks, which points and boxes work on."""
        return tuple(shape for shape in self.shapes if shape.kind in MASK_KINDS)

    def shape_for(self, label: str | None) -> ShapeControl:
        """Return the first control that has the label, else the first control."""
        with_label = (shape for shape in self.shapes if any(own.value == label for own in shape.labels))
        return next(with_label, self.shapes[0])

    def min_score_for(self, label: str | None, default: float) -> float:
        """Return the score that a target must have to be shown.

        Args:
            label: The target's label.
            default: The score where the control that it goes to names none.
        """
        own = self.shape_for(label).min_score
        return default if own is None else own

    def for_task(self, data: Mapping[str, Any], item_index: int = 0) -> LabelConfig:
        """Return the configuration with what depends on a task.

        Args:
            data: The task's data, which may hold labels and a list of images.
            item_index: Which of the task's images is meant.
        """
        shapes = tuple(
            shape if shape.labels_key is None else _with_task_labels(shape, data.get(shape.labels_key))
            for shape in self.shapes
        )
        several = isinstance(data.get(self.image.key), list)
        return replace(self, shapes=shapes, item_index=item_index if several else None)

    def task_fields(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `for_task` reads of a task's data, without the images themselves."""
        keys = {shape.labels_key for shape in self.shapes if shape.labels_key in data}
        fields = {key: data[key] for key in keys if key is not None}
        if isinstance(data.get(self.image.key), list):
            fields[self.image.key] = []
        return fields

    def image_of(self, data: Mapping[str, Any]) -> Any:
        """Return what a task's data has where the image's address belongs; None if it has nothing."""
        value = data.get(self.image.key)
        if not isinstance(value, list):
            return value
        index = self.item_index or 0
        return value[index] if 0 <= index < len(value) else None


def read_label(attributes: Mapping[str, Any]) -> Label | None:
    """Read the attributes of a `<Label>`; None if it has no value."""
    value, alias, predicted = (
        str(attributes.get(name) or "").strip() for name in ("value", "alias", "predicted_values")
    )
    if not value:
        return None
    # Results carry the alias of a label that has one; the editor shows the value.
    result_value = alias or value
    names = [value, *(name.strip() for name in predicted.split(","))]
    aliases = tuple(dict.fromkeys(name for name in names if name and name != result_value))
    return Label(result_value, aliases, str(attributes.get("background") or "").strip())


def unique_labels(labels: Iterable[Label]) -> tuple[Label, ...]:
    """Return the labels, the first of each value."""
    by_value: dict[str, Label] = {}
    for label in labels:
        by_value.setdefault(label.value, label)
    return tuple(by_value.values())


def _with_task_labels(shape: ShapeControl, entries: Any) -> ShapeControl:
    """Add a task's labels as Label Studio does: a list of objects with the attributes of `<Label>`."""
    own = entries if isinstance(entries, list) else []
    found = [label for entry in own if isinstance(entry, dict) and (label := read_label(entry)) is not None]
    return replace(shape, labels=unique_labels([*shape.labels, *found]))
