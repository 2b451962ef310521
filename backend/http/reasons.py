"""Reason phrases: Label Studio shows nothing else of an error's response.

Where /setup is refused, Label Studio's Connect Model says "422 Client Error: <reason phrase>". ASGI has no
field for that phrase, so the header REASON carries it to the protocol.
"""

from __future__ import annotations

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REASON = "X-Reason"
MAX_CHARS = 400
BRACKETS = str.maketrans("<>", "[]")  # Label Studio takes tags in it as HTML, and shows nothing of them


def reason_header(sentence: str) -> dict[str, str]:
    """Return the header that makes `sentence`, as far as it is ASCII, the reason phrase of a response."""
    text = " ".join(sentence.split())[:MAX_CHARS].translate(BRACKETS)
    return {REASON: text.encode("ascii", "replace").decode()}


class ReasonProtocol(H11Protocol):
    """uvicorn's protocol; the value of a response's header REASON is its reason phrase too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _Connection(h11.SERVER)


class _Connection(h11.Connection):
    def send(self, event: Any) -> Any:
        if isinstance(event, h11.Response):
            reason = dict(event.headers).get(REASON.lower().encode())
            if reason is not None:
                event = h11.Response(
                    status_code=event.status_code, headers=list(event.headers), reason=reason
                )
        return super().send(event)
