"""The prediction that is stored for a task, and how a stored one is recognized.

The first item of a prediction's result says in `meta.pixellm.asked` which prompts were asked and which labels
their masks got; a prompt without masks has no region that could say so. Predictions of a batch lack that;
each of their regions names its prompt.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from sqlalchemy import select

from backend.prelabelling.asker import Answers
from backend.prelabelling.questions import Questions
from backend.prompts.regions import Prediction, answer_item, answer_text, build_results, region_scores
from label_config import LabelConfig
from worker.store import Database
from worker.store.tables import Proposal


def build(answers: Answers, questions: Questions, config: LabelConfig, min_score: float) -> Prediction:
    """Make one prediction of the answers to all questions about a task.

    Args:
        answers: At least one answer, all by the same version.
        questions: What was asked.
        config: The project's labeling configuration with the task's labels.
        min_score: Targets with a lower score are left out.

    Returns:
        The prediction; its result has no regions if nothing was found.
    """
    regions, scores, texts = [], [], []
    for job, result in answers:
        label = questions[job.prompt]
        regions += build_results(result, config, job.prompt, min_score, label)
        scores += region_scores(result, config, min_score, label)
        texts.append(answer_text(result, config, min_score, label))
    items = regions + answer_item(config, " ".join(text for text in texts if text))
    if items:
        items[0].setdefault("meta", {}).setdefault("pixellm", {})["asked"] = dict(questions)
    return {
        "result": items,
        "score": fmean(scores) if scores else 0.0,
        "model_version": answers[0][1].model_version,
    }


def of_version(predictions: Iterable[dict[str, Any]], version: str) -> dict[str, Any] | None:
    """Return the first prediction of a version, which the editor opens a task with; None without one."""
    return next((stored for stored in predictions if stored.get("model_version") == version), None)


def asked_in(prediction: dict[str, Any]) -> dict[str, Any]:
    """Return the questions that a stored prediction answers; empty if it does not say."""
    asked: dict[str, Any] = {}
    result = prediction.get("result")
    for item in result if isinstance(result, list) else []:
        meta = item.get("meta") if isinstance(item, dict) else None
        origin = meta.get("pixellm") if isinstance(meta, dict) else None
        if isinstance(origin, dict):
            if isinstance(origin.get("asked"), dict):
                return dict(origin["asked"])
            if isinstance(origin.get("prompt"), str):
                asked[origin["prompt"]] = None
    return asked


def found_nothing(database: Database, project: str, task: int, version: str, questions: Questions) -> bool:
    """Whether the proposals tell that this version answered these questions about a task without any mask.

    They decide about a prediction that does not say what was asked: one without masks in a project without an
    answer control has nothing to say it in.

    Raises:
        DatabaseUnavailable: The database cannot be used.
    """
    with database.session() as session:
        rows = session.execute(
            select(Proposal.prompt, Proposal.targets).where(
                Proposal.project == project, Proposal.task == str(task), Proposal.model_version == version
            )
        ).all()
    empty = {prompt for prompt, targets in rows if not any(map(_was_seen, targets))}
    return questions.keys() <= empty


def _was_seen(target: dict[str, Any]) -> bool:
    """Whether a recorded target has a mask that was shown."""
    return any(target["box"]) and not target.get("hidden")
