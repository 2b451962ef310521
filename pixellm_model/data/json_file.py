"""Reading a JSON file with an error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pixellm_model.errors import DataError


def load_json(path: Path) -> Any:
    """Raises DataError when the file is not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}.") from None
