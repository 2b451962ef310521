"""Reads Label Studio labeling configurations: which controls hold the image, prompt, masks and answer.

Controls are found by their function, so that nothing in an existing project has to be renamed; names decide
only where several controls would fit.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from xml.etree import ElementTree

from label_config.config import (
    DEFAULT_PROMPT_KEY,
    MASK_KINDS,
    SHAPE_KINDS,
    ConfigError,
    ImageControl,
    Label,
    LabelConfig,
    ShapeControl,
    read_label,
    unique_labels,
)

MAX_CONFIG_CHARS = 256 * 1024


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
        ConfigError: It is no XML, it lacks an image, masks or labels, controls are ambiguous, or a score
            threshold is no number from 0 to 1.
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


def has_controls(xml: str) -> bool:
    """Return whether a configuration has any control; that of a new project has none."""
    return re.search(r"\btoName\s*=", xml, re.IGNORECASE) is not None


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
            labels_name = None if labels_tag is tag else labels_tag.name
            min_score = _min_score(tag) if _min_score(tag) is not None else _min_score(labels_tag)
            shapes.append(ShapeControl(tag.name, kind, labels, labels_name, key, min_score))
    if not shapes:
        raise ConfigError(
            f'The control "{shape_tags[0].name}" has no labels; put a <Label value="..."/> in it '
            "for each class."
        )
    return tuple(shapes)


def _min_score(tag: _Tag) -> float | None:
    """Return the control's `model_score_threshold`, which other backends know too; None without one."""
    text = tag.attributes.get("model_score_threshold", "").strip()
    if not text:
        return None
    try:
        threshold = float(text)
    except ValueError:
        threshold = math.nan
    if not 0 <= threshold <= 1:
        raise ConfigError(
            f'The control "{tag.name}" has model_score_threshold="{text}"; it must be a number from 0 to 1.'
        )
    return threshold


def _labels(control: _Tag) -> tuple[Label, ...]:
    tags = (tag for tag in map(_as_tag, control.element.iter()) if tag.tag == "label")
    return unique_labels(label for tag in tags if (label := read_label(tag.attributes)) is not None)


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
