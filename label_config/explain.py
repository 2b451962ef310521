"""What a labeling configuration means, in sentences: for `python -m label_config check`."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from label_config.config import MASK_KINDS, NOTHING_ELSE, SHAPE_KINDS, Label, LabelConfig, ShapeControl
from label_config.labels import fallback_label
from label_config.reader import read_config

# Controls whose results this project neither writes nor reads, beside shapes that it does not use.
_IGNORED = frozenset(
    [
        "choices",
        "ellipse",
        "ellipselabels",
        "keypointlabels",
        "magicwand",
        "number",
        "paragraphlabels",
        "pairwise",
        "ranker",
        "rating",
        "relations",
        "taxonomy",
        "datetime",
        "vector",
        "vectorlabels",
        "videorectangle",
        "timeserieslabels",
    ]
)
MAX_LISTED = 12


@dataclass(frozen=True)
class _Tag:
    """An element: its tag as written, and its attributes with names in lower case."""

    written: str
    attributes: dict[str, str]

    @property
    def kind(self) -> str:
        return self.written.lower()

    @property
    def name(self) -> str:
        return self.attributes.get("name", "")

    def __str__(self) -> str:
        return f'<{self.written} name="{self.name}">'


@dataclass(frozen=True)
class Explanation:
    """What will happen with a configuration.

    Attributes:
        facts: Where the image, prompts, masks, labels and answers are.
        limits: What the configuration asks for that is done in part or not at all.
        advice: What works worse than it could, and what to change.
    """

    facts: tuple[str, ...]
    limits: tuple[str, ...]
    advice: tuple[str, ...]


def explain(xml: str) -> Explanation:
    """Explain a labeling configuration.

    Args:
        xml: The configuration.

    Returns:
        The facts and the advice, each in the order in which they are to be read.

    Raises:
        ConfigError: It cannot be used; the message says what to change.
    """
    config = read_config(xml)
    tags = [
        _Tag(element.tag, {name.lower(): value for name, value in element.attrib.items()})
        for element in ElementTree.fromstring(xml).iter()
    ]
    return Explanation(
        tuple(_facts(config, tags)), tuple(_limits(config, tags)), tuple(_advice(config, tags))
    )


def _facts(config: LabelConfig, tags: list[_Tag]) -> list[str]:
    image = f'image: <Image name="{config.image.name}">, from the field "{config.image.key}" of each task'
    facts = [image, *(_shape_fact(shape, tags) for shape in config.shapes)]
    facts += [
        f'"{shape.name}" shows no target with a score below {shape.min_score:g} (model_score_threshold)'
        for shape in config.shapes
        if shape.min_score
    ]
    if len(config.shapes) > 1:
        facts.append("a target goes to the first of these that has its label")
    if aliases := [f"{alias} -> {label.value}" for label in config.labels for alias in label.aliases]:
        shown = ", ".join(aliases[:MAX_LISTED])
        rest = f" and {len(aliases) - MAX_LISTED} more" if len(aliases) > MAX_LISTED else ""
        facts.append(f"other names: {shown}{rest}")
    facts.append(
        f'prompts: typed into <TextArea name="{config.prompt}">'
        if config.prompt
        else "prompts: none can be typed; masks come as predictions only"
    )
    pointing = _pointing_tags(config, tags)
    if pointing and config.masks:
        facts.append(
            f"points and boxes: {' and '.join(map(str, pointing))} correct the mask they are on, or begin one"
        )
    facts.append(f'batches ask: the field "{config.task_prompt_key}" of a task, else every label by its name')
    facts.append(
        f'answer and messages: shown in <TextArea name="{config.answer}">'
        if config.answer
        else "answer and messages: shown nowhere"
    )
    facts += [f"says that nothing is missing: {tag}" for tag in tags if _says_all_is_marked(tag)]
    return facts


def _says_all_is_marked(tag: _Tag) -> bool:
    return tag.kind == "choices" and tag.name == NOTHING_ELSE


def _pointing_tags(config: LabelConfig, tags: list[_Tag]) -> list[_Tag]:
    """Return the tools that points and boxes are made with; Label Studio takes them as smart by default."""
    used = {shape.name for shape in config.shapes}
    return [
        tag
        for tag in tags
        if tag.kind in ("keypoint", "rectangle")
        and tag.attributes.get("smart", "true").lower() != "false"
        and tag.name not in used
    ]


def _shape_fact(shape: ShapeControl, tags: list[_Tag]) -> str:
    if shape.kind in MASK_KINDS:
        what = "masks"
    else:
        what = "polygons" if shape.kind.startswith("polygon") else "rectangles"
    beside = f' with <Labels name="{shape.labels_name}">' if shape.labels_name else ""
    fact = f'{what}: <{_written(tags, shape.name)} name="{shape.name}">{beside}'
    if shape.labels or shape.labels_key is None:
        fact += f", {len(shape.labels)} labels: {_listed(shape.labels)}"
    if shape.labels_key:
        fact += f', labels from the field "{shape.labels_key}" of each task'
    return fact


def _listed(labels: tuple[Label, ...]) -> str:
    listed = ", ".join(label.value for label in labels[:MAX_LISTED])
    return listed + (f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else "")


def _limits(config: LabelConfig, tags: list[_Tag]) -> list[str]:
    """Say what a configuration asks for that is done in part or not at all."""
    limits = []
    pointing = _pointing_tags(config, tags)
    used = {shape.name for shape in config.shapes}
    ignored = [
        tag
        for tag in tags
        if (tag.kind in _IGNORED and not _says_all_is_marked(tag))
        or (tag.kind in SHAPE_KINDS and tag.name not in used and tag not in pointing)
    ]
    if ignored:
        limits.append(f"neither written nor learned from: {', '.join(map(str, ignored))}")
    for image in (tag for tag in tags if tag.kind == "image"):
        if image.name != config.image.name:
            limits.append(f"not read: {image}, and whatever is drawn on it")
        elif "valuelist" in image.attributes:
            limits.append(
                "several images on a task: a prompt is about the first one, or with perItem on the "
                "<TextArea> of prompt and answer about the one in view; only the first one is learned from"
            )
    if any(shape.kind.startswith("polygon") for shape in config.shapes):
        limits.append("a polygon follows its mask within a pixel or a hundredth of the object's size")
    if any(shape.kind.startswith("rectangle") for shape in config.shapes):
        limits.append("rectangles teach nothing: which pixels of them belong to the object is not known")
    return limits


def _advice(config: LabelConfig, tags: list[_Tag]) -> list[str]:
    advice = []
    areas = {tag.name: tag.attributes for tag in tags if tag.kind == "textarea"}
    if config.prompt:
        prompt = areas[config.prompt]
        if prompt.get("transcription", "").lower() == "true" or prompt.get("maxsubmissions") == "1":
            advice.append(
                f'"{config.prompt}" keeps its text, and Label Studio sends nothing for a text that did not '
                "change; without transcription and maxSubmissions the line is empty again after each prompt."
            )
        if prompt.get("smartonly", "").lower() != "true":
            advice.append(
                f'"{config.prompt}" only works with Auto-Annotation on; smartOnly="true" lifts that.'
            )
    if config.answer is None:
        advice.append('Add <TextArea name="answer" toName="..." editable="false"/> for answers and messages.')
    from_task = any(shape.labels_key for shape in config.shapes)
    if not from_task and fallback_label(config) is None:
        advice.append('A phrase that fits no label gets none; a label "Other" would take it.')
    if _pointing_tags(config, tags) and not config.masks:
        advice.append(
            "Points and boxes correct masks, and there are none here; <BrushLabels> or <BitmaskLabels> would "
            "take them."
        )
    for tag in tags:
        value = tag.attributes.get("value", "")
        if tag.kind in ("text", "header") and value.startswith("$"):
            advice.append(f'Every task must have the field "{value[1:]}", because <{tag.written}> shows it.')
    return advice


def _written(tags: list[_Tag], name: str) -> str:
    return next(tag.written for tag in tags if tag.name == name)
