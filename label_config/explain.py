"""What a labeling configuration means, in sentences: for `python -m label_config check`."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from label_config.labels import fallback_label
from label_config.reader import LabelConfig, read_config

# Controls whose results this project neither writes nor reads.
_IGNORED = frozenset(
    [
        "choices",
        "ellipse",
        "ellipselabels",
        "keypointlabels",
        "number",
        "paragraphlabels",
        "pairwise",
        "polygon",
        "polygonlabels",
        "ranker",
        "rating",
        "rectanglelabels",
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


@dataclass(frozen=True)
class Explanation:
    """What will happen with a configuration.

    Attributes:
        facts: Where the image, prompts, masks, labels and answers are.
        advice: What works worse than it could, and what to change.
    """

    facts: tuple[str, ...]
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
    return Explanation(tuple(_facts(config, tags)), tuple(_advice(config, tags)))


def _facts(config: LabelConfig, tags: list[_Tag]) -> list[str]:
    labels = ", ".join(label.value for label in config.labels[:MAX_LISTED])
    if len(config.labels) > MAX_LISTED:
        labels += f" and {len(config.labels) - MAX_LISTED} more"
    facts = [
        f'image: <Image name="{config.image.name}">, from the field "{config.image.key}" of each task',
        f'masks: <{_written(tags, config.mask.name)} name="{config.mask.name}">, '
        f"{len(config.labels)} labels: {labels}",
    ]
    if aliases := [f"{alias} -> {label.value}" for label in config.labels for alias in label.aliases]:
        shown = ", ".join(aliases[:MAX_LISTED])
        rest = f" and {len(aliases) - MAX_LISTED} more" if len(aliases) > MAX_LISTED else ""
        facts.append(f"other names: {shown}{rest}")
    facts.append(
        f'prompts: typed into <TextArea name="{config.prompt}">'
        if config.prompt
        else "prompts: none can be typed; masks come as predictions only"
    )
    pointing = [
        f'<{tag.written} name="{tag.name}">'
        for tag in tags
        if tag.kind in ("keypoint", "rectangle") and tag.attributes.get("smart", "true").lower() != "false"
    ]
    if pointing:
        facts.append(f"points and boxes: {' and '.join(pointing)} correct the mask they are on, or begin one")
    facts.append(f'batches ask: the field "{config.task_prompt_key}" of a task, else every label by its name')
    facts.append(
        f'answer and messages: shown in <TextArea name="{config.answer}">'
        if config.answer
        else "answer and messages: shown nowhere"
    )
    ignored = [f'<{tag.written} name="{tag.name}">' for tag in tags if tag.kind in _IGNORED]
    if ignored:
        facts.append(f"neither written nor learned from: {', '.join(ignored)}")
    return facts


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
    if fallback_label(config) is None:
        advice.append('A phrase that fits no label gets none; a label "Other" would take it.')
    for tag in tags:
        value = tag.attributes.get("value", "")
        if tag.kind in ("text", "header") and value.startswith("$"):
            advice.append(f'Every task must have the field "{value[1:]}", because <{tag.written}> shows it.')
    return advice


def _written(tags: list[_Tag], name: str) -> str:
    return next(tag.written for tag in tags if tag.name == name)
