"""What is read of a task and of the results on the screen."""

from __future__ import annotations

from typing import Any

import pytest

from backend.prompts.tasks import newest_text


def text(value: object, control: str = "prompt") -> dict[str, Any]:
    return {"from_name": control, "to_name": "image", "type": "textarea", "value": value}


@pytest.mark.parametrize(
    ("items", "newest"),
    [
        ([], ""),
        ([{}], ""),
        ([text(None)], ""),
        ([text({"text": None})], ""),
        ([text({"text": []})], ""),
        ([text({"text": "one"})], "one"),
        ([text({"text": ["one", " two "]})], "two"),
        ([text({"text": ["one", " ", 3]})], "one"),
        ([text({"text": ["one"]}), text({"text": ["two"]}), text({"text": ["said"]}, "answer")], "two"),
    ],
)
def test_the_prompt_is_the_last_text_of_its_control(items: list[dict[str, Any]], newest: str) -> None:
    assert newest_text(items, "prompt") == newest
    assert newest_text(items, None) == ""
