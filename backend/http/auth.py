"""Who may call: HTTP basic authentication, and the secret header webhooks carry instead."""

from __future__ import annotations

import base64
import binascii
from hmac import compare_digest

from starlette.datastructures import Headers

from backend.settings import BackendSettings

OPEN_PATHS = frozenset({"/", "/health"})
WEBHOOK_PATH = "/webhook"
SECRET_HEADER = "X-Webhook-Secret"


class Gate:
    """Decides by path and headers. Without configured credentials everything is open."""

    def __init__(self, settings: BackendSettings) -> None:
        password = settings.basic_auth_pass.get_secret_value()
        self._login = f"{settings.basic_auth_user}:{password}".encode()
        self._has_login = self._login != b":"
        self._secret = settings.webhook_secret.get_secret_value().encode()

    def admits(self, path: str, headers: Headers) -> bool:
        if path in OPEN_PATHS:
            return True
        # Label Studio sends the login with START_TRAINING only, and custom headers with all other webhooks.
        if path == WEBHOOK_PATH and self._secret:
            given = headers.get(SECRET_HEADER, "").encode()
            return compare_digest(given, self._secret) or (self._has_login and self._login_matches(headers))
        return not self._has_login or self._login_matches(headers)

    def _login_matches(self, headers: Headers) -> bool:
        scheme, _, encoded = headers.get("Authorization", "").partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return compare_digest(given, self._login) and scheme.lower() == "basic"
