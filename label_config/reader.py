"""Reads Label Studio labeling configurations: which controls hold the image, prompt, masks and answer.

Controls are found by their function, so that nothing in an existing project has to be renamed; names decide
only where several controls would fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, get_args
from xml.etree import ElementTree

MAX_CONFIG_CHARS = 256 * 1024
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
    """

    name: str
    kind: ShapeKind
    labels: tuple[Label, ...]
    labels_name: str | None = None
    labels_key: str | None = None


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

    def image_of(self, data: Mapping[str, Any]) -> Any:
        """Return what a task's data has where the image's address belongs; None if it has nothing."""
        value = data.get(self.image.key)
        if not isinstance(value, list):
            return value
        index = self.item_index or 0
        return value[index] if 0 <= index < len(value) else None


@dataclass(frozen=True, slots=True)
class _Tag:
    """An element with tag and attribute names in lower case, since Label Studio ignores their case."""

    tag: str
    attributes: dict[str, str]
    element: ElementTree.Element

    @property
    def name(self) -> str:
        """The control's name; empty if it has none."""
        return self.attributes.get("name", "")

    def has_flag(self, attribute: str, value: bool) -> bool:
        """Return whether a boolean attribute is there and has this value."""
        return self.attributes.get(attribute, "").strip().lower() == str(value).lower()


@lru_cache(maxsize=64)
def read_config(xml: str) -> LabelConfig:
    """Read a labeling configuration; the newest results are cached.

    Args:
        xml: The configuration as Label Studio sends it.

    Returns:
        What is used of the configuration.

    Raises:
        ConfigError: It is no XML, or it lacks an image, masks or labels, or controls are ambiguous.
    """
    tags = [_as_tag(element) for element in _parse(xml).iter()]
    shape_tags = _shape_tags(tags)
    image = _image_control(tags, shape_tags[0])
    texts = [
        tag
        for tag in tags
        if tag.tag == "textarea"
        and tag.name
        and tag.attributes.get("toname") == image.name
        and not tag.has_flag("perregion", True)
    ]
    prompt = _prompt_tag(texts)
    answer = _answer_tag([tag for tag in texts if tag is not prompt])
    shapes = _shapes([tag for tag in shape_tags if tag.attributes.get("toname") == image.name], tags)
    return LabelConfig(
        image=image,
        shapes=shapes,
        prompt=prompt.name if prompt else None,
        answer=answer.name if answer else None,
        task_prompt_key=_task_prompt_key(tags, prompt),
        answer_per_item=answer is not None and answer.has_flag("peritem", True),
        pointing=_pointing_tools(tags, image, {shape.name for shape in shapes}),
    )


def _parse(xml: str) -> ElementTree.Element:
    if len(xml) > MAX_CONFIG_CHARS:
        raise ConfigError(
            f"The labeling configuration is longer than {MAX_CONFIG_CHARS} characters; shorten it."
        )
    # Entities can expand without bound or refer to files, and no labeling configuration needs them.
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", xml, re.IGNORECASE):
        raise ConfigError(
            "The labeling configuration declares a DOCTYPE or entities; remove the declaration."
        )
    try:
        return ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError) as error:
        raise ConfigError(
            f"The labeling configuration is not well-formed XML ({error}); fix it there."
        ) from error


def _as_tag(element: ElementTree.Element) -> _Tag:
    attributes = {name.lower(): value for name, value in element.attrib.items()}
    return _Tag(element.tag.lower(), attributes, element)


def _shape_tags(tags: list[_Tag]) -> list[_Tag]:
    """Return the tags that regions can belong to: the one named `mask` first, then by kind."""
    shape_tags = [
        tag
        for tag in tags
        if tag.tag in SHAPE_KINDS and (tag.tag.endswith("labels") or _labels_tag(tag, tags))
    ]
    if not shape_tags:
        raise ConfigError(
            "The labeling configuration has nowhere to put masks; add "
            '<BrushLabels name="mask" toName="image"> with a <Label value="..."/> for each class.'
        )
    # A smart <Rectangle> beside other controls is there to point with.
    shape_tags = [tag for tag in shape_tags if not _is_pointing_tool(tag)] or shape_tags
    for tag in shape_tags:
        if not tag.name:
            raise ConfigError(f'The <{tag.element.tag}> tag has no name; give it name="mask".')
    return sorted(shape_tags, key=lambda tag: (tag.name != "mask", _rank(tag)))


def _pointing_tools(tags: list[_Tag], image: ImageControl, outputs: set[str]) -> tuple[str, ...]:
    """Return the names of the pointing tools on the image that no regions are made for."""
    return tuple(
        tag.name
        for tag in tags
        if _is_pointing_tool(tag)
        and tag.attributes.get("toname") == image.name
        and tag.name
        and tag.name not in outputs
    )


def _is_pointing_tool(tag: _Tag) -> bool:
    """Return whether a tag is a tool without labels that is declared smart."""
    return tag.tag in ("keypoint", "rectangle") and (
        tag.has_flag("smart", True) or tag.has_flag("smartonly", True)
    )


def _rank(tag: _Tag) -> int:
    """Return 0 for masks, 1 for polygons, 2 for rectangles; within a rank the document's order counts."""
    if tag.tag in MASK_KINDS:
        return 0
    return 1 if tag.tag.startswith("polygon") else 2


def _labels_tag(shape: _Tag, tags: list[_Tag]) -> _Tag | None:
    """Return the `<Labels>` beside a drawing control without labels of its own; None if there is none."""
    of_image = (tag for tag in tags if tag.tag == "labels" and tag.name)
    image = shape.attributes.get("toname")
    return next((tag for tag in of_image if tag.attributes.get("toname") == image), None)


def _image_control(tags: list[_Tag], shape: _Tag) -> ImageControl:
    image_name = shape.attributes.get("toname", "")
    image = next((tag for tag in tags if tag.tag == "image" and tag.name and tag.name == image_name), None)
    if image is None:
        raise ConfigError(
            f'The control "{shape.name}" has toName="{image_name}", and no <Image> has that name; '
            'add <Image name="image" value="$image"/> and set toName="image".'
        )
    key = _data_key(image, "valuelist") or _data_key(image)
    if key is None:
        raise ConfigError(
            f'<Image name="{image.name}"> does not say which field of the task holds the picture; '
            'give it a value such as value="$image".'
        )
    return ImageControl(image.name, key)


def _prompt_tag(texts: list[_Tag]) -> _Tag | None:
    """Return the smart text area, else the one named `prompt`: Label Studio sends the text of both."""
    smart = [tag for tag in texts if tag.has_flag("smart", True)]
    if smart:
        return _only(smart, "prompt", 'prompt control, a <TextArea smart="true">')
    return next((tag for tag in texts if tag.name == "prompt"), None)


def _answer_tag(texts: list[_Tag]) -> _Tag | None:
    """Return the text area named `answer` or not editable; any other may hold annotators' own notes."""
    candidates = [tag for tag in texts if tag.name == "answer" or tag.has_flag("editable", False)]
    if not candidates:
        return None
    return _only(candidates, "answer", 'answer control, a <TextArea editable="false">')


def _only(tags: list[_Tag], name: str, description: str) -> _Tag:
    """Return the only tag, else the only one with that name."""
    if len(tags) == 1:
        return tags[0]
    with_name = [tag for tag in tags if tag.name == name]
    if len(with_name) == 1:
        return with_name[0]
    names = ", ".join(f'"{tag.name}"' for tag in tags)
    raise ConfigError(
        f"The labeling configuration has more than one {description} ({names}); "
        f'keep one or name one "{name}".'
    )


def _shapes(shape_tags: list[_Tag], tags: list[_Tag]) -> tuple[ShapeControl, ...]:
    shapes = []
    for tag in shape_tags:
        labels_tag = tag if tag.tag.endswith("labels") else _labels_tag(tag, tags)
        if labels_tag is None:
            continue
        labels, key = _labels(labels_tag), _data_key(labels_tag)
        if labels or key:
            kind = next(kind for kind in SHAPE_KINDS if kind == tag.tag)
            shapes.append(
                ShapeControl(tag.name, kind, labels, None if labels_tag is tag else labels_tag.name, key)
            )
    if not shapes:
        raise ConfigError(
            f'The control "{shape_tags[0].name}" has no labels; put a <Label value="..."/> in it '
            "for each class."
        )
    return tuple(shapes)


def _labels(control: _Tag) -> tuple[Label, ...]:
    tags = (tag for tag in map(_as_tag, control.element.iter()) if tag.tag == "label")
    return _unique(label for tag in tags if (label := _label(tag.attributes)) is not None)


def _label(attributes: Mapping[str, Any]) -> Label | None:
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


def _with_task_labels(shape: ShapeControl, entries: Any) -> ShapeControl:
    """Add a task's labels as Label Studio does: a list of objects with the attributes of `<Label>`."""
    own = entries if isinstance(entries, list) else []
    found = [label for entry in own if isinstance(entry, dict) and (label := _label(entry)) is not None]
    return replace(shape, labels=_unique([*shape.labels, *found]))


def _unique(labels: Iterable[Label]) -> tuple[Label, ...]:
    by_value: dict[str, Label] = {}
    for label in labels:
        by_value.setdefault(label.value, label)
    return tuple(by_value.values())


def _task_prompt_key(tags: list[_Tag], prompt: _Tag | None) -> str:
    """Return the field shown by the prompt control, else by a text named for prompts, else the default."""
    if prompt is not None and (key := _data_key(prompt)):
        return key
    shown = (tag for tag in tags if tag.tag in ("text", "header") and tag.name in ("prompt", "task_prompt"))
    return next((key for tag in shown if (key := _data_key(tag))), DEFAULT_PROMPT_KEY)


def _data_key(tag: _Tag, attribute: str = "value") -> str | None:
    """Return the field of the task's data that the tag shows; None if it shows a fixed text."""
    value = tag.attributes.get(attribute, "").strip()
    return value[1:] or None if value.startswith("$") else None
