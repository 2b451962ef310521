"""Label Studio as the place images come from: which URLs are its own, and how it lets us in."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any, Literal

import httpx

CLOUD_SCHEMES = ("s3", "gs", "azure-blob")


class SiteError(Exception):
    """Label Studio cannot be used as configured; the message says what to set.

    Attributes:
        kind: `reference` for an address that has no meaning here, `denied` for a refused token.
    """

    def __init__(self, message: str, kind: Literal["reference", "denied"]) -> None:
        super().__init__(message)
        self.kind = kind


class LabelStudioSite:
    """The Label Studio at `url` (a sub-path is fine) with `api_key`; both may be empty."""

    def __init__(self, url: str, api_key: str) -> None:
        self._base = httpx.URL(url.rstrip("/")) if url else None
        self.auth = _auth(self._base, api_key) if self._base and api_key else None

    def owns(self, url: httpx.URL) -> bool:
        """Whether `url` has exactly this site's scheme, host and port: only there does the token go."""
        return self._base is not None and _origin(url) == _origin(self._base)

    def url_of(self, path: str) -> httpx.URL:
        """The address of a path as tasks hold it, with or without the site's own sub-path in front."""
        if self._base is None:
            raise SiteError(f"{path[:80]} is a Label Studio path: set LABEL_STUDIO_URL.", "reference")
        prefix = self._base.path.rstrip("/")
        if prefix and path.startswith(prefix + "/"):
            path = path[len(prefix) :]
        return httpx.URL(f"{str(self._base).rstrip('/')}{path}")

    def cloud_url(self, uri: str, task: str | None) -> httpx.URL:
        """The address at which Label Studio hands out a cloud storage file (`s3://...`) of a task."""
        if task is None or not task.isascii() or not task.isdigit():
            raise SiteError(
                f"{uri[:80]} is in cloud storage, which needs the number of its Label Studio task.",
                "reference",
            )
        encoded = base64.urlsafe_b64encode(uri.encode()).decode()
        return self.url_of(f"/tasks/{task}/resolve/?fileuri={encoded}")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _auth(base: httpx.URL, api_key: str) -> httpx.Auth:
    is_personal = _claims(api_key).get("token_type") == "refresh"
    return _PersonalToken(base, api_key) if is_personal else _LegacyToken(api_key)


class _LegacyToken(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Token {self._token}"
        yield request


class _PersonalToken(httpx.Auth):
    """A personal access token is only good for getting short-lived access tokens (300 s)."""

    def __init__(self, base: httpx.URL, token: str) -> None:
        self._refresh_url = f"{str(base).rstrip('/')}/api/token/refresh/"
        self._token = token
        self._access = ""
        self._renew_at = 0.0

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if time.monotonic() >= self._renew_at:
            response = yield self._renewal()
            response.read()
            self._renewed(response)
        request.headers["Authorization"] = f"Bearer {self._access}"
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if time.monotonic() >= self._renew_at:
            self._renewed(await _whole((yield self._renewal())))
        request.headers["Authorization"] = f"Bearer {self._access}"
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._renewed(await _whole((yield self._renewal())))
            request.headers["Authorization"] = f"Bearer {self._access}"
            yield request

    def _renewal(self) -> httpx.Request:
        return httpx.Request("POST", self._refresh_url, json={"refresh": self._token})

    def _renewed(self, response: httpx.Response) -> None:
        access = _json_object(response.content).get("access")
        if not response.is_success or not isinstance(access, str):
            raise SiteError(
                "Label Studio does not accept the personal access token in LABEL_STUDIO_API_KEY "
                f"(HTTP {response.status_code}); create a new one under Account & Settings.",
                "denied",
            )
        self._access = access
        # The token's own span, not its end: the two machines' clocks need not agree.
        claims = _claims(access)
        try:
            lifetime = float(claims["exp"]) - float(claims["iat"])
        except (KeyError, TypeError, ValueError):
            lifetime = 300.0
        self._renew_at = time.monotonic() + 0.8 * lifetime


async def _whole(response: httpx.Response) -> httpx.Response:
    await response.aread()
    return response


def _claims(token: str) -> dict[str, Any]:
    """What a JWT says about itself, unverified; empty for anything that is not a JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        return _json_object(base64.urlsafe_b64decode(parts[1] + "=="))
    except ValueError:
        return {}


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
