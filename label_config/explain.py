"""What a labeling configuration means, in sentences: for `python -m label_config check`."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from label_config.labels import CATCH_ALL
from label_config.reader import MASK_KINDS, SHAPE_KINDS, Label, LabelConfig, ShapeControl, read_config

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

    Raises:
        ConfigError: It cannot be used; the message says what to change.
    """
    config = read_config(xml)
    elements = list(ElementTree.fromstring(xml).iter())
    return Explanation(tuple(_facts(config, elements)), tuple(_advice(config, elements)))


def _facts(config: LabelConfig, elements: list[ElementTree.Element]) -> list[str]:
    image = f'image: <Image name="{config.image.name}">, from the field "{config.image.key}" of each task'
    facts = [image, *(_shape_fact(shape, elements) for shape in config.shapes)]
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
    facts.append(f'batches ask: the field "{config.task_prompt_key}" of a task, else every label by its name')
    facts.append(
        f'answer and messages: shown in <TextArea name="{config.answer}">'
        if config.answer
        else "answer and messages: shown nowhere"
    )
    used = {shape.name for shape in config.shapes}
    ignored = [
        f'<{element.tag} name="{_lower(element).get("name", "")}">'
        for element in elements
        if element.tag.lower() in _IGNORED
        or (element.tag.lower() in SHAPE_KINDS and _lower(element).get("name") not in used)
    ]
    if ignored:
        facts.append(f"neither written nor learned from: {', '.join(ignored)}")
    facts += _limits(config, elements)
    return facts


def _shape_fact(shape: ShapeControl, elements: list[ElementTree.Element]) -> str:
    if shape.kind in MASK_KINDS:
        what = "masks"
    else:
        what = "polygons" if shape.kind.startswith("polygon") else "rectangles"
    beside = f' with <Labels name="{shape.labels_name}">' if shape.labels_name else ""
    fact = f'{what}: <{_written(elements, shape.name)} name="{shape.name}">{beside}'
    if shape.labels or shape.labels_key is None:
        fact += f", {len(shape.labels)} labels: {_listed(shape.labels)}"
    if shape.labels_key:
        fact += f', labels from the field "{shape.labels_key}" of each task'
    return fact


def _listed(labels: tuple[Label, ...]) -> str:
    listed = ", ".join(label.value for label in labels[:MAX_LISTED])
    return listed + (f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else "")


def _limits(config: LabelConfig, elements: list[ElementTree.Element]) -> list[str]:
    """Say what a configuration asks for that is done in part only."""
    limits = []
    images = [_lower(element) for element in elements if element.tag.lower() == "image"]
    for image in images:
        if image.get("name") != config.image.name:
            limits.append(f'not read: <Image name="{image.get("name", "")}">, and whatever is drawn on it')
        elif "valuelist" in image:
            limits.append(
                "several images on a task: a prompt is about the first one, or with perItem on the "
                "<TextArea> of prompt and answer about the one in view; only the first one is learned from"
            )
    if any(shape.kind.startswith("polygon") for shape in config.shapes):
        limits.append("a polygon follows its mask within a pixel or a hundredth of the object's size")
    if any(shape.kind.startswith("rectangle") for shape in config.shapes):
        limits.append("rectangles teach nothing: which pixels of them belong to the object is not known")
    return limits


def _advice(config: LabelConfig, elements: list[ElementTree.Element]) -> list[str]:
    advice = []
    areas = {
        _lower(element).get("name"): _lower(element)
        for element in elements
        if element.tag.lower() == "textarea"
    }
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
    if not from_task and not any(label.value.casefold() in CATCH_ALL for label in config.labels):
        advice.append('A phrase that fits no label gets none; a label "Other" would take it.')
    for element in elements:
        value = _lower(element).get("value", "")
        if element.tag.lower() in ("text", "header") and value.startswith("$"):
            advice.append(f'Every task must have the field "{value[1:]}", because <{element.tag}> shows it.')
    return advice


def _written(elements: list[ElementTree.Element], name: str) -> str:
    return next(element.tag for element in elements if _lower(element).get("name") == name)


def _lower(element: ElementTree.Element) -> dict[str, str]:
    return {name.lower(): value for name, value in element.attrib.items()}
