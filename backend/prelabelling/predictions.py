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
from backend.prompts.regions import Prediction, answer_item, answer_text, build_results
from label_config import LabelConfig
from worker.store import Database
from worker.store.tables import Proposal


def build(answers: Answers, questions: Questions, config: LabelConfig, min_score: float) -> Prediction:
    """Make one prediction of the answers to all questions about a task.

    Args:
        answers: At least one answer, all by the same version.
        questions: What was asked.
        config: The project's labeling configuration.
        min_score: Targets with a lower score are left out.

    Returns:
        The prediction; its result has no regions if nothing was found.
    """
    regions, texts = [], []
    for job, result in answers:
        label = questions[job.prompt]
        regions += build_results(result, config, job.prompt, min_score, label)
        texts.append(answer_text(result, config, min_score, label))
    items = regions + answer_item(config, " ".join(text for text in texts if text))
    if items:
        items[0].setdefault("meta", {}).setdefault("pixellm", {})["asked"] = dict(questions)
    return {
        "result": items,
        "score": fmean(region["score"] for region in regions) if regions else 0.0,
        "model_version": answers[0][1].model_version,
    }


def find(
    predictions: Iterable[dict[str, Any]], version: str, questions: Questions
) -> tuple[int | None, int | None]:
    """Look for a task's prediction for the same questions.

    Args:
        predictions: The task's predictions as Label Studio returns them.
        version: The version that serves the project.
        questions: What would be asked.

    Returns:
        The number of the prediction of this version for these questions, and that of one of this version
        which does not say what was asked; None where there is none.
    """
    same = unclear = None
    for prediction in predictions:
        if prediction.get("model_version") == version:
            asked = _asked(prediction.get("result"))
            if asked == dict(questions):
                same = prediction["id"]
            elif not asked:
                unclear = prediction["id"]
    return same, unclear


def found_nothing(database: Database, project: str, task: int, version: str, questions: Questions) -> bool:
    """Whether the proposals tell that this version answered these questions about a task without any mask.

    They decide about a prediction without regions in a project without an answer control: nothing in it says
    what was asked.

    Raises:
        DatabaseUnavailable: The database cannot be used.
    """
    with database.session() as session:
        rows = session.execute(
            select(Proposal.prompt, Proposal.targets).where(
                Proposal.project == project, Proposal.task == str(task), Proposal.model_version == version
            )
        ).all()
    empty = {prompt for prompt, targets in rows if not any(any(target["box"]) for target in targets)}
    return questions.keys() <= empty


def _asked(result: object) -> dict[str, Any]:
    """Return what a prediction says of its questions; empty if it says nothing."""
    asked: dict[str, Any] = {}
    for item in result if isinstance(result, list) else []:
        meta = item.get("meta") if isinstance(item, dict) else None
        origin = meta.get("pixellm") if isinstance(meta, dict) else None
        if isinstance(origin, dict):
            if isinstance(origin.get("asked"), dict):
                return dict(origin["asked"])
            if isinstance(origin.get("prompt"), str):
                asked[origin["prompt"]] = None
    return asked
