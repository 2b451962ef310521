"""Authentication of requests: HTTP basic, and a secret header for webhooks."""

from __future__ import annotations

import base64
import binascii
from hmac import compare_digest

from starlette.datastructures import Headers

from backend.settings import BackendSettings

OPEN_PATHS = frozenset({"/", "/health"})
WEBHOOK_PATH = "/webhook"
SECRET_HEADER = "X-Webhook-Secret"


class RequestAuth:
    """Allows or refuses requests by path and headers; without configured credentials all are allowed."""

    def __init__(self, settings: BackendSettings) -> None:
        password = settings.basic_auth_pass.get_secret_value()
        self._login = f"{settings.basic_auth_user}:{password}".encode()
        self._has_login = self._login != b":"
        self._secret = settings.webhook_secret.get_secret_value().encode()

    def allows(self, path: str, headers: Headers) -> bool:
        """Return whether a request with this path and these headers is authorized."""
        if path in OPEN_PATHS:
            return True
        # Label Studio sends the login with START_TRAINING only, and the custom header with all other
        # webhooks.
        if path == WEBHOOK_PATH and self._secret:
            secret = headers.get(SECRET_HEADER, "").encode()
            return compare_digest(secret, self._secret) or (self._has_login and self._login_matches(headers))
        return not self._has_login or self._login_matches(headers)

    def _login_matches(self, headers: Headers) -> bool:
        scheme, _, encoded = headers.get("Authorization", "").partition(" ")
        try:
            login = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return compare_digest(login, self._login) and scheme.lower() == "basic"
