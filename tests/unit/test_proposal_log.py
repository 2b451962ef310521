"""Which answers are recorded as proposals, to be compared with what annotators submit."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import select

from backend.prompts.proposal_log import ProposalLog
from worker.jobs.contract import SegmentJob, SegmentResult
from worker.settings import Settings
from worker.store import Database
from worker.store.tables import Proposal


def recorded_prompts(folder: Path, *results: tuple[SegmentJob, SegmentResult]) -> list[str]:
    database = Database(Settings(data_dir=folder))
    database.migrate()

    async def record() -> None:
        log = ProposalLog(database)
        for job, result in results:
            log.record(job, result)
        await log.aclose()

    asyncio.run(record())
    with database.session() as session:
        return [proposal.prompt for proposal in session.scalars(select(Proposal))]


def answered(
    prompt: str, unknown: tuple[str, ...] = (), task: str | None = "1"
) -> tuple[SegmentJob, SegmentResult]:
    job = SegmentJob(image="/data/upload/1/a.png", prompt=prompt, project="1", task=task)
    result = SegmentResult(
        job_id=job.job_id, answer="", targets=(), width=8, height=6, model_version="m", unknown=unknown
    )
    return job, result


def test_an_answer_is_recorded(tmp_path: Path) -> None:
    assert recorded_prompts(tmp_path, answered("the cup")) == ["the cup"]


def test_an_answer_to_an_unknown_word_is_not_recorded(tmp_path: Path) -> None:
    assert recorded_prompts(tmp_path, answered("the rocket", unknown=("rocket",))) == []


def test_an_answer_without_a_task_is_not_recorded(tmp_path: Path) -> None:
    assert recorded_prompts(tmp_path, answered("the cup", task=None)) == []
