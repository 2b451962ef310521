"""Loads a task's image from its reference; all images come in this way.

The reference is untrusted. Only http(s) is used and every redirect is checked. The connection goes to the
address that was checked. Size and time are limited while the bytes arrive.
"""

from __future__ import annotations

import asyncio
import base64
import re
from urllib.parse import unquote_to_bytes

import httpx
from PIL import Image

from worker.images.addresses import public_addresses
from worker.images.decode import ImageError, decode
from worker.label_studio import CLOUD_SCHEMES, LOCAL_FILES, LabelStudioSite, SiteError
from worker.settings import WorkerSettings

MAX_REDIRECTS = 5
# Query parameters of links that end.
SIGNATURES = {"x-amz-signature", "x-goog-signature", "signature", "sig"}
RESOLVE = re.compile(r"/tasks/\d+/resolve/")
DEFAULT_PORTS = {"http": 80, "https": 443}


class ImageFetcher:
    """Loads images from http(s) and `data:` URLs, Label Studio paths and its cloud storages."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._label_studio = LabelStudioSite(settings.label_studio_url, settings.label_studio_api_key)
        self._allowed_hosts = {host.strip().lower() for host in settings.fetch_allow_hosts.split(",")} - {""}
        self._max_bytes = settings.max_image_bytes
        self._max_pixels = settings.max_image_pixels
        self._timeout_s = settings.fetch_timeout_s
        self._tls = httpx.create_ssl_context()

    def load(self, reference: str, task: str | None = None) -> Image.Image:
        """Fetch and decode an image.

        Args:
            reference: The image as the task holds it: an http(s) or `data:` URL, a Label Studio path or a
                cloud storage URI (`s3://...`).
            task: The number of its Label Studio task; cloud storage needs it.

        Returns:
            The picture, upright, mode RGB.

        Raises:
            ImageError: The image cannot be fetched or decoded.
        """
        return decode(self.read(reference, task), self._max_pixels)

    def read(self, reference: str, task: str | None = None) -> bytes:
        """Fetch an image file of at most `max_image_bytes`, without decoding it.

        Args:
            reference: The image, as in `load`.
            task: Its task, as in `load`.

        Returns:
            The content of the file.

        Raises:
            ImageError: The file cannot be fetched.
        """
        reference = reference.strip()  # a browser ignores white space around an address too
        if reference[:5].lower() == "data:":
            return self._read_data_url(reference)
        url = self._url(reference, task)
        try:
            # In an event loop one time limit covers everything: DNS look-ups, redirects and slow servers.
            # httpx's own limits restart with every chunk.
            return asyncio.run(asyncio.wait_for(self._download(url), self._timeout_s))
        except SiteError as error:
            raise ImageError(str(error), error.kind) from None
        except TimeoutError:
            raise ImageError(
                f"{_redacted(url)} did not deliver the image within {self._timeout_s:g} s (FETCH_TIMEOUT_S).",
                "timeout",
            ) from None
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise ImageError(
                f"{_redacted(url)} cannot be fetched: {error or type(error).__name__}.", "unreachable"
            ) from error

    def _url(self, reference: str, task: str | None) -> httpx.URL:
        try:
            if reference.startswith("/"):
                return self._label_studio.url_of(reference)
            if reference.partition("://")[0].lower() in CLOUD_SCHEMES:
                return self._label_studio.cloud_url(reference, task)
            url = _http_url(reference)
            return self._label_studio.local_file_url(url) or url
        except SiteError as error:
            raise ImageError(str(error), error.kind) from None
        except httpx.InvalidURL:
            raise ImageError(f"The image reference {reference[:80]!r} is not a URL.", "reference") from None

    async def _download(self, url: httpx.URL) -> bytes:
        # One client per image: it shares neither cookies nor a connection that was checked for another host.
        async with httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=None) as client:
            for _ in range(MAX_REDIRECTS + 1):
                response = await self._get(client, url)
                try:
                    if not response.has_redirect_location:
                        self._check_status(response, url)
                        return await self._body(response)
                    url = _http_url(str(url.join(response.headers["Location"])))
                finally:
                    await response.aclose()
        raise ImageError(f"{_redacted(url)} redirects more than {MAX_REDIRECTS} times.", "unreachable")

    async def _get(self, client: httpx.AsyncClient, url: httpx.URL) -> httpx.Response:
        """Send a request; returns once the headers are there, before the body is read."""
        # Label Studio answers 406 to a request that accepts images only.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "pixellm-assist"}
        if self._label_studio.owns(url):
            request = client.build_request("GET", url, headers=headers)
            return await client.send(request, stream=True, auth=self._label_studio.auth)
        if self._is_allowed(url):
            return await client.send(client.build_request("GET", url, headers=headers), stream=True)
        headers["Host"] = url.netloc.decode("ascii")
        last_error: httpx.ConnectError | None = None
        for address in await public_addresses(url.host, url.port or DEFAULT_PORTS[url.scheme]):
            request = client.build_request(
                "GET",
                url.copy_with(host=address),
                headers=headers,
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
            )
            try:
                return await client.send(request, stream=True)
            except httpx.ConnectError as error:
                last_error = error
        assert last_error is not None, "a host that resolves has an address"
        raise last_error

    def _is_allowed(self, url: httpx.URL) -> bool:
        port = url.port or DEFAULT_PORTS[url.scheme]
        return not self._allowed_hosts.isdisjoint({url.host, f"{url.host}:{port}"})

    def _check_status(self, response: httpx.Response, url: httpx.URL) -> None:
        status = response.status_code
        if response.is_success:
            return
        if status == httpx.codes.NOT_FOUND:
            raise ImageError(
                f"There is no image at {_redacted(url)} (HTTP 404){self._why_missing(url)}.", "not_found"
            )
        if _is_signed(url) and status in (400, 401, 403):
            raise ImageError(
                f"The signed link to {_redacted(url)} has expired or is not valid (HTTP {status}): "
                "synchronise the storage in Label Studio again, or import the images with links that last "
                "longer.",
                "denied",
            )
        if status not in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise ImageError(f"{_redacted(url)} answered HTTP {status} instead of an image.", "unreachable")
        if not self._label_studio.owns(url):
            remedy = "if this is Label Studio, LABEL_STUDIO_URL must be exactly its address"
        elif self._label_studio.auth is None:
            remedy = "set LABEL_STUDIO_API_KEY"
        else:
            remedy = "LABEL_STUDIO_API_KEY is not valid there or may not see this project"
        raise ImageError(f"Access to {_redacted(url)} was refused (HTTP {status}): {remedy}.", "denied")

    def _why_missing(self, url: httpx.URL) -> str:
        if url.fragment:
            return '; a "#" in a file\'s name must be written as %23 in its address'
        if self._label_studio.owns(url) and LOCAL_FILES in url.path:
            return "; the project needs a Local Files storage whose folder holds the file"
        if self._label_studio.owns(url) and RESOLVE.search(url.path):
            return "; the project needs a cloud storage (Settings > Cloud Storage) that holds the file"
        return ""

    async def _body(self, response: httpx.Response) -> bytes:
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and int(announced) > self._max_bytes:
            raise self._too_large()
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_large()
        return bytes(body)

    def _read_data_url(self, reference: str) -> bytes:
        head, comma, payload = reference.partition(",")
        if not comma:
            raise ImageError("The data: URL has no comma before its data.", "reference")
        is_base64 = head.lower().endswith(";base64")
        if len(payload) > (self._max_bytes * 4 // 3 + 4 if is_base64 else self._max_bytes * 3):
            raise self._too_large()
        data = unquote_to_bytes(payload)
        if is_base64:
            try:
                data = base64.b64decode(b"".join(data.split()), validate=True)
            except ValueError:
                raise ImageError("The data: URL is not valid base64.", "reference") from None
        if len(data) > self._max_bytes:
            raise self._too_large()
        return data

    def _too_large(self) -> ImageError:
        limit = f"{self._max_bytes / 2**20:g} MiB"
        return ImageError(f"The image file is larger than {limit} (MAX_IMAGE_BYTES).", "too_large")


def _is_signed(url: httpx.URL) -> bool:
    """Whether a link carries a signature that ends (S3, Google Cloud, Azure, CloudFront)."""
    return not SIGNATURES.isdisjoint(name.lower() for name in url.params)


def _http_url(text: str) -> httpx.URL:
    url = httpx.URL(text)
    if url.scheme not in DEFAULT_PORTS or not url.host:
        raise ImageError(
            f"Images come from http(s) or data: URLs and Label Studio paths, not from {text[:80]!r}.",
            "reference",
        )
    return url


def _redacted(url: httpx.URL) -> str:
    """The URL for a message, without query and user info, which may hold secrets."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))[:120]
