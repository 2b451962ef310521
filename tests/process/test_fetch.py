"""Images from a real local HTTP server: who gets the token, which hosts are reached, what is refused."""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.image_server import ImageServer, Respond, redirect, reply, running_server
from worker.images import addresses
from worker.images.decode import ImageError
from worker.images.fetch import ImageFetcher
from worker.settings import WorkerSettings

LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"


def png(width: int = 8, height: int = 6) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def jwt(**claims: Any) -> str:
    parts = ({"alg": "HS256"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


PERSONAL_TOKEN = jwt(token_type="refresh", exp=8000000000, iat=1000000000)


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def other() -> Iterator[ImageServer]:
    with running_server() as server:
        yield server


def fetcher(**settings: Any) -> ImageFetcher:
    return ImageFetcher(WorkerSettings(**settings))


def refusal(images: ImageFetcher, reference: str, task: str | None = None) -> ImageError:
    with pytest.raises(ImageError) as raised:
        images.load(reference, task)
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message, message
    return raised.value


# -- Label Studio and its token


@pytest.mark.parametrize("subpath", ["", "/annotate"])
@pytest.mark.parametrize("path", ["/data/upload/1/cup.png", "/data/local-files/?d=imgs/cup.png"])
def test_label_studio_paths_are_fetched_with_the_token(server: ImageServer, subpath: str, path: str) -> None:
    server.routes[subpath + path.partition("?")[0]] = reply(png())
    images = fetcher(label_studio_url=server.url + subpath + "/", label_studio_api_key=LEGACY_TOKEN)
    for reference in {path, subpath + path, server.url + subpath + path}:
        assert images.load(reference).size == (8, 6)
    assert {path for _, path, _ in server.requests} == {subpath + path}
    assert set(server.authorizations()) == {f"Token {LEGACY_TOKEN}"}
    assert {headers["accept"] for _, _, headers in server.requests} == {"*/*"}, "it answers 406 to others"


def test_cloud_storage_files_come_through_label_studio(server: ImageServer, other: ImageServer) -> None:
    other.routes["/bucket/cup.png"] = reply(png())
    server.routes["/tasks/7/resolve/"] = redirect(f"{other.url}/bucket/cup.png?signature=1")
    images = fetcher(
        label_studio_url=server.url, label_studio_api_key=LEGACY_TOKEN, fetch_allow_hosts=other.address
    )
    assert images.load("s3://bucket/cup.png", task="7").size == (8, 6)
    [(_, path, _)] = server.requests
    assert base64.urlsafe_b64decode(path.partition("fileuri=")[2]) == b"s3://bucket/cup.png"
    assert refusal(images, "s3://bucket/cup.png").kind == "reference"
    assert refusal(images, "s3://bucket/cup.png", task="7/../../api").kind == "reference"


def label_studio_with_personal_tokens(server: ImageServer, lifetime_s: int) -> None:
    """Gives out numbered access tokens and accepts only the newest."""
    given: list[str] = []

    def refresh(handler: BaseHTTPRequestHandler) -> None:
        asked = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        assert asked == {"refresh": PERSONAL_TOKEN}
        given.append(jwt(token_type="access", number=len(given), iat=1000, exp=1000 + lifetime_s))
        reply(json.dumps({"access": given[-1]}).encode())(handler)

    def image(handler: BaseHTTPRequestHandler) -> None:
        accepted = bool(given) and handler.headers["Authorization"] == f"Bearer {given[-1]}"
        (reply(png()) if accepted else reply(status=401))(handler)

    server.routes["/ls/api/token/refresh/"] = refresh
    server.routes["/ls/data/upload/cup.png"] = image

    def revoke(handler: BaseHTTPRequestHandler) -> None:
        given.append("another")
        reply()(handler)

    server.routes["/revoke"] = revoke


def _paths(server: ImageServer) -> list[str]:
    return [path.rpartition("/ls/")[2] for _, path, _ in server.requests]


def test_personal_token_is_exchanged_once_while_its_access_token_lives(server: ImageServer) -> None:
    label_studio_with_personal_tokens(server, lifetime_s=300)
    images = fetcher(label_studio_url=f"{server.url}/ls", label_studio_api_key=PERSONAL_TOKEN)
    for _ in range(2):
        images.load("/data/upload/cup.png")
    assert _paths(server) == ["api/token/refresh/", "data/upload/cup.png", "data/upload/cup.png"]


def test_access_token_is_renewed_before_it_expires(server: ImageServer) -> None:
    label_studio_with_personal_tokens(server, lifetime_s=0)
    images = fetcher(label_studio_url=f"{server.url}/ls", label_studio_api_key=PERSONAL_TOKEN)
    for _ in range(2):
        images.load("/data/upload/cup.png")
    assert _paths(server) == ["api/token/refresh/", "data/upload/cup.png"] * 2


def test_access_token_is_renewed_when_refused(server: ImageServer) -> None:
    label_studio_with_personal_tokens(server, lifetime_s=300)
    images = fetcher(
        label_studio_url=f"{server.url}/ls",
        label_studio_api_key=PERSONAL_TOKEN,
        fetch_allow_hosts=server.address,
    )
    images.load("/data/upload/cup.png")
    refusal(images, f"{server.url}/revoke")
    images.load("/data/upload/cup.png")
    assert _paths(server)[-3:] == ["data/upload/cup.png", "api/token/refresh/", "data/upload/cup.png"]


def test_refused_personal_token_is_named(server: ImageServer) -> None:
    server.routes["/api/token/refresh/"] = reply(b'{"detail": "Token is blacklisted"}', status=401)
    images = fetcher(label_studio_url=server.url, label_studio_api_key=PERSONAL_TOKEN)
    error = refusal(images, "/data/upload/cup.png")
    assert error.kind == "denied" and "LABEL_STUDIO_API_KEY" in str(error)
    assert PERSONAL_TOKEN not in str(error)


@pytest.mark.parametrize("token", [LEGACY_TOKEN, PERSONAL_TOKEN])
def test_token_does_not_leave_label_studio(server: ImageServer, other: ImageServer, token: str) -> None:
    label_studio_with_personal_tokens(server, lifetime_s=300)
    other.routes["/cup.png"] = reply(png())
    server.routes["/ls/data/upload/moved.png"] = redirect(f"{other.url}/cup.png")
    images = fetcher(
        label_studio_url=f"{server.url}/ls",
        label_studio_api_key=token,
        fetch_allow_hosts="127.0.0.1,localhost",
    )
    images.load("/data/upload/moved.png")
    images.load(f"{other.url}/cup.png")
    images.load(f"http://localhost:{other.port}/cup.png")
    assert server.authorizations()[-1] is not None
    assert other.authorizations() == [None, None, None]
    refusal(images, f"http://localhost:{server.port}/ls/data/upload/cup.png")
    assert server.authorizations()[-1] is None, "another name of the host is another host"


@pytest.mark.parametrize(
    ("status", "key", "kind", "word"),
    [
        (401, "", "denied", "set LABEL_STUDIO_API_KEY"),
        (403, LEGACY_TOKEN, "denied", "LABEL_STUDIO_API_KEY is not valid there"),
        (404, LEGACY_TOKEN, "not_found", "no image at"),
        (500, LEGACY_TOKEN, "unreachable", "HTTP 500"),
    ],
)
def test_refusals_say_what_to_do(server: ImageServer, status: int, key: str, kind: str, word: str) -> None:
    server.routes["/data/upload/cup.png"] = reply(status=status)
    error = refusal(
        fetcher(label_studio_url=server.url, label_studio_api_key=key), "/data/upload/cup.png?s=secret"
    )
    assert error.kind == kind and word in str(error) and "secret" not in str(error)


def test_label_studio_path_without_label_studio_url() -> None:
    assert "set LABEL_STUDIO_URL" in str(refusal(fetcher(), "/data/upload/1/cup.png"))


# -- Which hosts are reached


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"]
)
def test_private_hosts_are_refused_however_they_are_written(server: ImageServer, host: str) -> None:
    server.routes["/cup.png"] = reply(png())
    images = fetcher(label_studio_url="http://labelstudio.example", label_studio_api_key=LEGACY_TOKEN)
    assert refusal(images, f"http://{host}:{server.port}/cup.png").kind == "address"
    assert server.requests == []


def test_label_studio_host_is_trusted_on_its_own_port_only(server: ImageServer, other: ImageServer) -> None:
    assert refusal(fetcher(label_studio_url=server.url), f"{other.url}/cup.png").kind == "address"
    assert other.requests == []


def test_allowed_hosts(server: ImageServer, other: ImageServer) -> None:
    for there in (server, other):
        there.routes["/cup.png"] = reply(png())
    images = fetcher(fetch_allow_hosts=f"minio.lan, {server.address}")
    assert images.load(f"{server.url}/cup.png").mode == "RGB"
    error = refusal(images, f"{other.url}/cup.png")
    assert error.kind == "address" and "FETCH_ALLOW_HOSTS" in str(error)


def test_redirect_to_a_private_address_is_refused(server: ImageServer, other: ImageServer) -> None:
    images = fetcher(fetch_allow_hosts=server.address)
    for target in (f"{other.url}/cup.png", "http://169.254.169.254/latest/meta-data/", "//127.0.0.1:1/"):
        server.routes["/moved"] = redirect(target)
        assert refusal(images, f"{server.url}/moved").kind == "address"
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/cup.png", "gopher://127.0.0.1:6379/_x"):
        server.routes["/moved"] = redirect(target)
        assert refusal(images, f"{server.url}/moved").kind == "reference"
    for target in ("data:image/png;base64,AAAA", "http://", "http://[::1", "http://exa mple:x/", ""):
        server.routes["/moved"] = redirect(target)
        assert refusal(images, f"{server.url}/moved").kind in ("unreachable", "reference")
    assert other.requests == []


def test_redirects_are_followed_five_times(server: ImageServer) -> None:
    server.routes |= {f"/{n}": redirect(f"/{n + 1}") for n in range(6)} | {"/6": reply(png())}
    images = fetcher(fetch_allow_hosts=server.address)
    assert images.load(f"{server.url}/1").size == (8, 6)
    assert "more than 5 times" in str(refusal(images, f"{server.url}/0"))


def _dns(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> list[str]:
    """A DNS of our own: each look-up of a name uses up one of its answers. Returns the look-ups made."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in names:
            return real(host, port, *args, **kwargs)
        asked.append(name)
        return real(names[name].pop(0), port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_connection_goes_to_the_address_that_was_checked(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _dns(monkeypatch, {"rebind.example": ["127.0.0.1", "169.254.169.254"]})
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    server.routes["/cup.png"] = reply(png())
    assert fetcher().load(f"http://rebind.example:{server.port}/cup.png").size == (8, 6)
    assert asked == ["rebind.example"]
    [(_, _, headers)] = server.requests
    assert headers["host"] == f"rebind.example:{server.port}"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the test's certificate")
def test_tls_is_verified_for_the_name_not_the_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    name = "-subj /CN=images.example -addext subjectAltName=DNS:images.example"
    make = f"req -x509 -newkey rsa:2048 -nodes -days 2 {name}"
    subprocess.run(
        ["openssl", *make.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(addresses, "is_public", lambda address: True)
    _dns(monkeypatch, {"images.example": ["127.0.0.1"], "impostor.example": ["127.0.0.1"]})
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with running_server(tls) as server:
        server.routes["/cup.png"] = reply(png())
        images = fetcher()
        assert images.load(f"https://images.example:{server.port}/cup.png").size == (8, 6)
        error = refusal(images, f"https://impostor.example:{server.port}/cup.png")
        assert error.kind == "unreachable" and "impostor.example" in str(error)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reference",
    ["file:///etc/passwd", "ftp://example.org/cup.png", "cup.png", "http://", "http://[::1",
     "http://exa mple:x/", "gopher://127.0.0.1:6379/_x", "http:///cup.png", "\\\\host\\cup.png", "\x00"],
)  # fmt: skip
def test_references_that_are_no_image_address(reference: str) -> None:
    assert refusal(fetcher(), reference).kind == "reference"


def test_unknown_host_and_closed_port(server: ImageServer) -> None:
    assert refusal(fetcher(), "http://no-such-host.invalid/cup.png").kind == "unreachable"
    images = fetcher(fetch_allow_hosts="127.0.0.1")
    assert refusal(images, "http://127.0.0.1:1/cup.png").kind == "unreachable"


# -- Size and time


def _endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(64 * 1024))


def _dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b"x")
        time.sleep(0.1)


def _dripping_headers(handler: BaseHTTPRequestHandler) -> None:
    for _ in range(200):
        handler.wfile.write(b"H")
        time.sleep(0.1)


def _silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(5)


def _announced(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(10**12))
    handler.end_headers()


@pytest.mark.parametrize("respond", [_endless, _announced])
def test_too_many_bytes_are_not_downloaded(server: ImageServer, respond: Respond) -> None:
    server.routes["/cup.png"] = respond
    images = fetcher(fetch_allow_hosts=server.address, max_image_bytes=2**20)
    error = refusal(images, f"{server.url}/cup.png")
    assert error.kind == "too_large" and "1 MiB (MAX_IMAGE_BYTES)" in str(error)


@pytest.mark.parametrize("respond", [_dripping, _dripping_headers, _silent])
def test_slow_server_is_given_up(server: ImageServer, respond: Respond) -> None:
    server.routes["/cup.png"] = respond
    images = fetcher(fetch_allow_hosts=server.address, fetch_timeout_s=0.5)
    start = time.monotonic()
    error = refusal(images, f"{server.url}/cup.png")
    assert error.kind == "timeout" and "FETCH_TIMEOUT_S" in str(error)
    assert time.monotonic() - start < 4


def test_connection_that_breaks_off(server: ImageServer) -> None:
    server.routes["/cup.png"] = reply(png()[:20], Content_Length="5000")
    images = fetcher(fetch_allow_hosts=server.address)
    assert refusal(images, f"{server.url}/cup.png").kind == "unreachable"
