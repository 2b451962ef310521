"""What a Label Studio labeling configuration says: which controls hold image, prompt, masks and answer.

Controls are found by what they do, so that an existing project needs no renaming; a name decides only where
several would fit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args
from xml.etree import ElementTree

MAX_CONFIG_CHARS = 256 * 1024
DEFAULT_PROMPT_KEY = "prompt"

MaskKind = Literal["brushlabels", "bitmasklabels"]


class ConfigError(ValueError):
    """The labeling configuration cannot be used; the message names the tag and the mend."""


@dataclass(frozen=True, slots=True)
class Label:
    """`value` is what results carry; `aliases` are further names of the same thing."""

    value: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageControl:
    """The `<Image>` tag; `key` is the field of the task's data that holds the picture."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class MaskControl:
    """The tag that masks belong to; `kind` is also the type of its results."""

    name: str
    kind: MaskKind


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """`prompt` and `answer` are names of `<TextArea>` tags on the image, None where there is none.
    `task_prompt_key` is the field of a task's data that may hold a prompt for batch pre-labelling."""

    image: ImageControl
    mask: MaskControl
    prompt: str | None
    answer: str | None
    labels: tuple[Label, ...]
    task_prompt_key: str = DEFAULT_PROMPT_KEY


@dataclass(frozen=True, slots=True)
class _Tag:
    """A tag with its name and attribute names in lower case, as Label Studio compares them."""

    tag: str
    attributes: dict[str, str]
    element: ElementTree.Element

    @property
    def name(self) -> str:
        return self.attributes.get("name", "")

    def says(self, attribute: str, value: bool) -> bool:
        return self.attributes.get(attribute, "").strip().lower() == str(value).lower()


@lru_cache(maxsize=64)
def read_config(xml: str) -> LabelConfig:
    """Reads a labeling configuration; the same text is read once. Raises ConfigError."""
    tags = [_as_tag(element) for element in _parse(xml).iter()]
    mask = _mask_tag(tags)
    image = _image_control(tags, mask)
    texts = [
        tag
        for tag in tags
        if tag.tag == "textarea"
        and tag.name
        and tag.attributes.get("toname") == image.name
        and not tag.says("perregion", True)
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
    # Entities can grow without bound or name files, and no labeling configuration needs them.
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", xml, re.IGNORECASE):
        raise ConfigError(
            "The labeling configuration declares a DOCTYPE or entities; remove the declaration."
        )
    try:
        return ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError) as error:
        raise ConfigError(
            f"The labeling configuration is not well-formed XML ({error}); mend it there."
        ) from error


def _as_tag(element: ElementTree.Element) -> _Tag:
    attributes = {name.lower(): value for name, value in element.attrib.items()}
    return _Tag(element.tag.lower(), attributes, element)


def _mask_tag(tags: list[_Tag]) -> _Tag:
    found = [tag for tag in tags if tag.tag in get_args(MaskKind)]
    if not found:
        raise ConfigError(
            "The labeling configuration has nowhere to put masks; add "
            '<BrushLabels name="mask" toName="image"> with a <Label value="..."/> for each class.'
        )
    mask = _only(found, "mask", "<BrushLabels> or <BitmaskLabels>")
    if not mask.name:
        raise ConfigError('The <BrushLabels> or <BitmaskLabels> tag has no name; give it name="mask".')
    return mask


def _image_control(tags: list[_Tag], mask: _Tag) -> ImageControl:
    wanted = mask.attributes.get("toname", "")
    image = next((tag for tag in tags if tag.tag == "image" and tag.name and tag.name == wanted), None)
    if image is None:
        raise ConfigError(
            f'The mask control "{mask.name}" has toName="{wanted}", and no <Image> has that name; '
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
    """A text area that sends what is typed is smart; without the attribute Label Studio sends it too."""
    smart = [tag for tag in texts if tag.says("smart", True)]
    if smart:
        return _only(smart, "prompt", 'prompt control, a <TextArea smart="true">')
    return next((tag for tag in texts if tag.name == "prompt"), None)


def _answer_tag(texts: list[_Tag]) -> _Tag | None:
    """Only a control of that name, or one that annotators cannot write in: their own notes are not ours."""
    fits = [tag for tag in texts if tag.name == "answer" or tag.says("editable", False)]
    return _only(fits, "answer", 'answer control, a <TextArea editable="false">') if fits else None


def _only(tags: list[_Tag], name: str, what: str) -> _Tag:
    """The only one, else the only one of that name."""
    if len(tags) == 1:
        return tags[0]
    named = [tag for tag in tags if tag.name == name]
    if len(named) == 1:
        return named[0]
    names = ", ".join(f'"{tag.name}"' for tag in tags)
    raise ConfigError(
        f'The labeling configuration has more than one {what} ({names}); keep one or name one "{name}".'
    )


def _labels(mask: _Tag) -> tuple[Label, ...]:
    labels = []
    for tag in map(_as_tag, mask.element.iter()):
        value = tag.attributes.get("value", "").strip()
        if tag.tag != "label" or not value:
            continue
        # A label with an alias is written into results under its alias, and shown by its value.
        written = tag.attributes.get("alias", "").strip() or value
        names = [value, *(name.strip() for name in tag.attributes.get("predicted_values", "").split(","))]
        labels.append(
            Label(written, tuple(dict.fromkeys(name for name in names if name and name != written)))
        )
    if not labels:
        raise ConfigError(
            f'The mask control "{mask.name}" has no labels; put a <Label value="..."/> in it for each class.'
        )
    return tuple(labels)


def _task_prompt_key(tags: list[_Tag], prompt: _Tag | None) -> str:
    """The field that pre-fills the prompt control, else the one a text named for it shows, else the usual."""
    if prompt is not None and (key := _data_key(prompt)):
        return key
    shown = (tag for tag in tags if tag.tag in ("text", "header") and tag.name in ("prompt", "task_prompt"))
    return next((key for tag in shown if (key := _data_key(tag))), DEFAULT_PROMPT_KEY)


def _data_key(tag: _Tag) -> str | None:
    value = tag.attributes.get("value", "").strip()
    return value[1:] or None if value.startswith("$") else None
