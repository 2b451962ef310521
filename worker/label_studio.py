"""Label Studio's addresses and authentication, for fetching images and for its API."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any, Literal

import httpx

CLOUD_SCHEMES = ("s3", "gs", "azure-blob")
LOCAL_FILES = "/data/local-files/"
DEFAULT_LIFETIME_S = 300.0  # of an access token that does not say its own
RENEW_AFTER = 0.8  # of its lifetime


class SiteError(Exception):
    """Label Studio cannot be used as configured; the message says what to set.

    Attributes:
        kind: `reference` for an address that cannot be resolved, `denied` for a refused token.
    """

    def __init__(self, message: str, kind: Literal["reference", "denied"]) -> None:
        super().__init__(message)
        self.kind = kind


class LabelStudioSite:
    """A Label Studio instance.

    Attributes:
        auth: Authenticates httpx requests to it; None without an API key.
    """

    def __init__(self, url: str, api_key: str) -> None:
        """Set up the instance; nothing is requested yet.

        Args:
            url: Its address, with or without a sub-path; may be empty.
            api_key: A personal access token or a legacy token; may be empty.
        """
        self._base = httpx.URL(url.rstrip("/")) if url else None
        self.auth = _auth(self._base, api_key) if self._base and api_key else None

    def owns(self, url: httpx.URL) -> bool:
        """Whether `url` has exactly this site's scheme, host and port. The token must go nowhere else."""
        return self._base is not None and _origin(url) == _origin(self._base)

    def url_of(self, path: str) -> httpx.URL:
        """Make the URL of a path that a task holds.

        Args:
            path: The path, with or without the site's own sub-path in front.

        Returns:
            The URL.

        Raises:
            SiteError: The site's address is not set.
        """
        if self._base is None:
            raise SiteError(f"{path[:80]} is a Label Studio path: set LABEL_STUDIO_URL.", "reference")
        prefix = self._base.path.rstrip("/")
        if prefix and path.startswith(prefix + "/"):
            path = path[len(prefix) :]
        return httpx.URL(f"{str(self._base).rstrip('/')}{path}")

    def local_file_url(self, url: httpx.URL) -> httpx.URL | None:
        """Make this site's URL of a local file that a task names by Label Studio's public address.

        Label Studio writes the files of a Local Files storage into tasks with the address at which browsers
        reach it, which this process may not reach, or not with a token.

        Args:
            url: An absolute address.

        Returns:
            The URL at this site, with the same file; None for any other kind of address, and without a site.
        """
        if self._base is None or not url.path.endswith(LOCAL_FILES) or "d" not in url.params:
            return None
        return httpx.URL(f"{str(self._base).rstrip('/')}{LOCAL_FILES}?{url.query.decode('ascii')}")

    def cloud_url(self, uri: str, task: str | None) -> httpx.URL:
        """Make the URL at which Label Studio hands out a file in cloud storage.

        Args:
            uri: The file, such as `s3://bucket/name.png`.
            task: The number of the task that holds it; Label Studio checks the right to it by the task.

        Returns:
            The URL.

        Raises:
            SiteError: The task's number is missing, or the site's address is not set.
        """
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
    """Authenticates with a personal access token, which is exchanged for access tokens that live 300 s."""

    def __init__(self, base: httpx.URL, token: str) -> None:
        self._refresh_url = f"{str(base).rstrip('/')}/api/token/refresh/"
        self._token = token
        self._access = ""
        self._renew_at = 0.0

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if time.monotonic() >= self._renew_at:
            response = yield self._refresh_request()
            response.read()
            self._store_access_token(response)
        request.headers["Authorization"] = f"Bearer {self._access}"
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if time.monotonic() >= self._renew_at:
            self._store_access_token(await _read((yield self._refresh_request())))
        request.headers["Authorization"] = f"Bearer {self._access}"
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._store_access_token(await _read((yield self._refresh_request())))
            request.headers["Authorization"] = f"Bearer {self._access}"
            yield request

    def _refresh_request(self) -> httpx.Request:
        return httpx.Request("POST", self._refresh_url, json={"refresh": self._token})

    def _store_access_token(self, response: httpx.Response) -> None:
        access = _json_object(response.content).get("access")
        if not response.is_success or not isinstance(access, str):
            raise SiteError(
                "Label Studio does not accept the personal access token in LABEL_STUDIO_API_KEY "
                f"(HTTP {response.status_code}); create a new one under Account & Settings.",
                "denied",
            )
        self._access = access
        # Its lifetime, not the time of its end: the clocks of the two machines may differ.
        claims = _claims(access)
        try:
            lifetime_s = float(claims["exp"]) - float(claims["iat"])
        except (KeyError, TypeError, ValueError):
            lifetime_s = DEFAULT_LIFETIME_S
        self._renew_at = time.monotonic() + RENEW_AFTER * lifetime_s


async def _read(response: httpx.Response) -> httpx.Response:
    await response.aread()
    return response


def _claims(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified; empty for anything that is not a JWT."""
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
