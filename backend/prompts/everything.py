"""The prompt "everything": all labels of the project, asked for one by one, as one answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from backend.prompts.regions import Prediction, ResultItem, answer_item, answer_text, region_scores
from backend.prompts.tasks import BadTask
from label_config import CATCH_ALL, LabelConfig, labels_in_prompt
from worker.jobs.contract import SegmentResult

MAX_QUESTIONS = 100
_EVERYTHING = re.compile(
    r"(?:(?:please|can you|could you)\s+)*"
    r"(?:(?:segment|mask|find|show|mark|label|select|outline|highlight)\s+(?:me\s+)?)?"
    r"(?:everything|all|all (?:of )?(?:the )?(?:objects|things|labels)|(?:every|each) (?:object|thing|label))"
    r"(?:\s+(?:here|you (?:see|know|can see)|in (?:this|the) (?:image|photo|picture)))?"
    r"(?:[\s,]+(?:except(?: for)?|but(?: not)?|excluding|without|minus|apart from|other than|besides)"
    r"\s+(?P<but>.+?))?"
    r"[\s,]*(?:please)?[\s.!?]*",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\[(\d+)\]")
_DENIAL = re.compile(r'\s*\bThere (?:is|are) no [^.]*\.|\s*\bNothing (?:more )?was found for "[^"]*"\.')


def asks_for_everything(prompt: str) -> bool:
    """Return whether a prompt asks for all that there is, or for all but what it names.

    >>> asks_for_everything("Segment everything, please."), asks_for_everything("everything red")
    (True, False)
    >>> asks_for_everything("everything except the cup")
    True
    """
    return bool(_EVERYTHING.fullmatch(prompt.strip()))


def labels_questions(config: LabelConfig, prompt: str = "everything") -> list[str]:
    """Return the prompts that "everything" stands for: one for each label but "Other" and the like.

    Asked for one by one, the shipped model confuses absent things with present ones far less than in a list.

    Args:
        config: The project's labeling configuration.
        prompt: A prompt that asks for everything; the labels that it excepts are not asked for.

    Returns:
        At most MAX_QUESTIONS prompts; none if the project has no such label.

    Raises:
        BadTask: Every label is excepted.
    """
    match = _EVERYTHING.fullmatch(prompt.strip())
    but = (match["but"] if match else None) or ""
    excepted = labels_in_prompt(but, config)
    labels = [label.value for label in config.labels if label.value.casefold() not in CATCH_ALL]
    names = [label.lower() for label in labels if label not in excepted]
    if labels and not names:
        raise BadTask(f'Everything but "{but}" leaves no label to ask for.')
    return [f"Segment the {name}." for name in names[:MAX_QUESTIONS]]


def as_one(
    predictions: Sequence[Prediction],
    results: Sequence[SegmentResult],
    config: LabelConfig,
    min_score: float = 0.0,
) -> Prediction:
    """Join the answers to several prompts about one image.

    Args:
        predictions: The prediction of each answer.
        results: The answers, in the same order; at least one.
        config: The project's labeling configuration.
        min_score: Targets with a lower score are left out.

    Returns:
        The regions of all, and one text with numbers that go on from answer to answer.
    """
    regions: list[ResultItem] = [
        item
        for prediction in predictions
        for item in prediction["result"]
        if item.get("from_name") != config.answer
    ]
    said, count, left_out = [], 0, False
    for prediction, result in zip(predictions, results, strict=True):
        has_regions = any(item.get("from_name") != config.answer for item in prediction["result"])
        if not has_regions and region_scores(result, config, min_score):
            left_out = True
            continue
        found = _DENIAL.sub("", result.answer).strip()
        said.append(_from(count, found))
        count += len(result.targets)
    if any(_DENIAL.search(result.answer) for result in results):
        said.append("Of the other labels nothing was found." if count else "Nothing was found.")
    if left_out:
        said.append("What is marked already is left out.")
    joined = results[0].model_copy(
        update={
            "answer": " ".join(filter(None, said)),
            "targets": tuple(target for result in results for target in result.targets),
            "warnings": tuple(dict.fromkeys(warning for result in results for warning in result.warnings)),
        }
    )
    text = answer_text(joined, config, min_score)
    return predictions[0] | {"result": regions + answer_item(config, text)}


def _from(start: int, text: str) -> str:
    """A text whose numbers begin after `start`."""
    return _NUMBER.sub(lambda match: f"[{start + int(match[1])}]", text)
