"""Reads Label Studio labeling configurations: which controls hold the image, prompt, masks and answer.

Controls are found by their function, so that nothing in an existing project has to be renamed; names decide
only where several controls would fit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, get_args
from xml.etree import ElementTree

MAX_CONFIG_CHARS = 256 * 1024
DEFAULT_PROMPT_KEY = "prompt"

MaskKind = Literal["brushlabels", "bitmasklabels"]


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
        key: The field of a task's data that holds the image's address.
    """

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class MaskControl:
    """The tag that masks belong to.

    Attributes:
        name: The tag's name.
        kind: The tag in lower case, which is also the type of its results.
    """

    name: str
    kind: MaskKind


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """What is used of a labeling configuration.

    Attributes:
        image: The image that is labelled.
        mask: The control that masks belong to.
        prompt: The name of the `<TextArea>` that prompts are typed into; None if there is none.
        answer: The name of the `<TextArea>` that shows the model's answer; None if there is none.
        labels: The labels of the masks; at least one.
        task_prompt_key: The field of a task's data that may hold a prompt for batches.
    """

    image: ImageControl
    mask: MaskControl
    prompt: str | None
    answer: str | None
    labels: tuple[Label, ...]
    task_prompt_key: str = DEFAULT_PROMPT_KEY


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
    mask = _mask_tag(tags)
    image = _image_control(tags, mask)
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
    return LabelConfig(
        image=image,
        mask=MaskControl(mask.name, next(kind for kind in get_args(MaskKind) if kind == mask.tag)),
        prompt=prompt.name if prompt else None,
        answer=answer.name if answer else None,
        labels=_labels(mask),
        task_prompt_key=_task_prompt_key(tags, prompt),
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


def _mask_tag(tags: list[_Tag]) -> _Tag:
    mask_tags = [tag for tag in tags if tag.tag in get_args(MaskKind)]
    if not mask_tags:
        raise ConfigError(
            "The labeling configuration has nowhere to put masks; add "
            '<BrushLabels name="mask" toName="image"> with a <Label value="..."/> for each class.'
        )
    mask = _only(mask_tags, "mask", "<BrushLabels> or <BitmaskLabels>")
    if not mask.name:
        raise ConfigError('The <BrushLabels> or <BitmaskLabels> tag has no name; give it name="mask".')
    return mask


def _image_control(tags: list[_Tag], mask: _Tag) -> ImageControl:
    image_name = mask.attributes.get("toname", "")
    image = next((tag for tag in tags if tag.tag == "image" and tag.name and tag.name == image_name), None)
    if image is None:
        raise ConfigError(
            f'The mask control "{mask.name}" has toName="{image_name}", and no <Image> has that name; '
            'add <Image name="image" value="$image"/> and set toName="image".'
        )
    key = _data_key(image)
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


def _labels(mask: _Tag) -> tuple[Label, ...]:
    labels = []
    for tag in map(_as_tag, mask.element.iter()):
        value = tag.attributes.get("value", "").strip()
        if tag.tag != "label" or not value:
            continue
        # Results carry the alias of a label that has one; the editor shows the value.
        result_value = tag.attributes.get("alias", "").strip() or value
        names = [value, *(name.strip() for name in tag.attributes.get("predicted_values", "").split(","))]
        aliases = tuple(dict.fromkeys(name for name in names if name and name != result_value))
        labels.append(Label(result_value, aliases, tag.attributes.get("background", "").strip()))
    if not labels:
        raise ConfigError(
            f'The mask control "{mask.name}" has no labels; put a <Label value="..."/> in it for each class.'
        )
    return tuple(labels)


def _task_prompt_key(tags: list[_Tag], prompt: _Tag | None) -> str:
    """Return the field shown by the prompt control, else by a text named for prompts, else the default."""
    if prompt is not None and (key := _data_key(prompt)):
        return key
    shown = (tag for tag in tags if tag.tag in ("text", "header") and tag.name in ("prompt", "task_prompt"))
    return next((key for tag in shown if (key := _data_key(tag))), DEFAULT_PROMPT_KEY)


def _data_key(tag: _Tag) -> str | None:
    """Return the field of the task's data that the tag shows; None if it shows a fixed text."""
    value = tag.attributes.get("value", "").strip()
    return value[1:] or None if value.startswith("$") else None
