"""Webhooks of annotations, as Label Studio sends them, about pictures that need no host."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from PIL import Image

from backend.label_studio.brush_rle import encode

XML = """<View><TextArea name="prompt" toName="image" smart="true"/><Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Cup"/><Label value="Book"/></BrushLabels>
  <TextArea name="answer" toName="image"/></View>"""
# What the templates' choice "Nothing more to mark" submits.
CHOSEN_NOTHING_ELSE = {
    "id": "n",
    "from_name": "nothing_else",
    "to_name": "image",
    "type": "choices",
    "value": {"choices": ["Nothing more to mark"]},
}
START = datetime(2026, 11, 1, tzinfo=UTC)
SIZE = (16, 12)


def picture(number: int) -> str:
    """A picture of its own for each number, as a data: URL."""
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def mask(left: int = 2) -> np.ndarray:
    found = np.zeros((SIZE[1], SIZE[0]), bool)
    found[3:9, left : left + 5] = True
    return found


def drawn(left: int = 2, label: str = "Cup") -> dict[str, Any]:
    return {
        "id": f"drawn{left}",
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": SIZE[0],
        "original_height": SIZE[1],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode(mask(left)), "brushlabels": [label]},
        "origin": "manual",
    }


def event(
    annotation: int,
    result: list[dict[str, Any]],
    action: str = "ANNOTATION_CREATED",
    version: int = 0,
    task: int | None = None,
    project: int = 1,
    image: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """`version` counts how often the annotation was changed."""
    task = annotation if task is None else task
    changed = (START + timedelta(seconds=version)).isoformat().replace("+00:00", "Z")
    return {
        "action": action,
        "annotation": {
            "id": annotation,
            "result": result,
            "was_cancelled": False,
            "updated_at": changed,
            "lead_time": 4.5,
            "task": task,
            "project": project,
            **fields,
        },
        "project": {"id": project, "label_config": XML},
        "task": {"id": task, "data": {"image": image or picture(task)}},
    }


def deletion(*annotations: int, project: int = 1) -> dict[str, Any]:
    return {
        "action": "ANNOTATIONS_DELETED",
        "annotations": [{"id": one} for one in annotations],
        "project": {"id": project},
    }
