"""The token's way: one environment for worker and triggerer, and no proxy or host that nobody asked for."""

from __future__ import annotations

import base64
import datetime
import json
from typing import TYPE_CHECKING

import pytest
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import RefreshError, TransportError
from google.oauth2.credentials import Credentials

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api.endpoint import configured_endpoint, universe_endpoint
from airflow_provider_dicom.api.transport_sync import refresh
from tests.support.raw_server import Connection, RawServer, answer
from tests.support.tls import HOST, authority
from tests.support.wire import KINDS, POLL, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VARIABLES = [
    *(f"{name}_{kind}" for name in ("HTTP", "HTTPS", "ALL", "NO") for kind in ("PROXY",)),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "NETRC"),
    *("HEALTHCARE_EMULATOR_HOST", "HEALTHCARE_EMULATOR_REMOTE_HOSTS"),
]
GOOD = {"name": "projects/p/locations/l/datasets/d/operations/77"}
both_transports = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies, no CAs, no passwords."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    """The certificate of the test's CA."""
    file = tmp_path / "ca.pem"
    file.write_bytes(authority().certificate)
    return file


class Recorder:
    """A server's function that answers every request, and keeps the heads of the requests."""

    def __init__(self, *, tls: bool = False) -> None:
        self.heads: list[bytes] = []
        self._tls = tls

    def __call__(self, connection: Connection) -> None:
        if self._tls:
            connection.wrap(authority().server)
        while head := connection.read_head():
            self.heads.append(head)
            connection.send(answer(json.dumps(GOOD).encode()))


class Proxy(Recorder):
    """The function of a proxy, which plays the server behind its tunnels as well."""

    def __call__(self, connection: Connection) -> None:
        self.heads.append(connection.read_head())
        if self.heads[-1].startswith(b"CONNECT"):
            connection.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            connection.wrap(authority().server)
            super().__call__(connection)
        else:
            connection.send(answer(json.dumps(GOOD).encode()))


@pytest.fixture
def proxy() -> Iterator[RawServer]:
    """A proxy; its ``heads`` are those of its requests, and of the requests in its tunnels."""
    function = Proxy()
    with RawServer(function) as server:
        server.heads = function.heads  # type: ignore[attr-defined]
        yield server


def heads(server: RawServer) -> list[bytes]:
    return server.heads  # type: ignore[attr-defined,no-any-return]


def token() -> Credentials:
    return Credentials(token="the-token")


def is_signed_by(head: bytes, token: str = "the-token") -> bool:
    lines = [line.lower() for line in head.split(b"\r\n") if line.lower().startswith(b"authorization:")]
    return lines == [f"authorization: bearer {token}".encode()]


@both_transports
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_own_ca_is_trusted(kind: str, variable: str, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, str(ca_file))
    function = Recorder(tls=True)
    with RawServer(function) as server:
        assert send(kind, POLL, f"https://localhost:{server.port}", token()) == GOOD
    assert is_signed_by(function.heads[0])


@both_transports
def test_first_of_several_cas_counts(kind: str, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ca_file.with_name("other.pem")
    other.write_text("")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    with RawServer(Recorder(tls=True)) as server:
        assert send(kind, POLL, f"https://localhost:{server.port}", token()) == GOOD


@both_transports
def test_unknown_ca_is_reported_as_what_it_is_and_nothing_was_sent(kind: str) -> None:
    function = Recorder(tls=True)
    with (
        RawServer(function) as server,
        pytest.raises(exceptions.DicomExportUnavailableError) as error,
    ):
        send(kind, POLL, f"https://localhost:{server.port}", token())
    assert error.value.safe_to_resend
    assert "certificate is not trusted" in str(error.value)
    assert "set REQUESTS_CA_BUNDLE" in str(error.value)
    assert function.heads == []


@both_transports
def test_ca_file_that_does_not_exist_is_named_by_its_variable(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(exceptions.DicomExportUnavailableError, match="REQUESTS_CA_BUNDLE") as error:
        send(kind, POLL, f"https://{HOST}", token())
    assert "/nowhere" not in str(error.value)


@both_transports
@pytest.mark.parametrize("scheme", ["", "http://"])
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_proxy_is_used_with_or_without_a_scheme(
    kind: str, variable: str, scheme: str, proxy: RawServer, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    monkeypatch.setenv(variable, f"{scheme}us%40er:pass%2Fword@{proxy.address}")
    assert send(kind, POLL, f"https://{HOST}", token()) == GOOD
    connect, request = heads(proxy)
    assert connect.startswith(f"CONNECT {HOST}:443 ".encode())
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"us@er:pass/word") in connect
    assert b"the-token" not in connect, "the proxy sees no token"
    assert is_signed_by(request)
    assert b"Proxy-Authorization" not in request


@both_transports
@pytest.mark.parametrize("no_proxy", [HOST, ".example", "*"])
def test_no_proxy_is_respected(
    kind: str, no_proxy: str, proxy: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with pytest.raises(exceptions.DicomExportUnavailableError) as error:
        send(kind, POLL, f"https://{HOST}", token())
    assert error.value.safe_to_resend, "the host does not exist"
    assert heads(proxy) == []


@both_transports
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_loopback_is_never_reached_through_a_proxy(
    kind: str, variable: str, host: str, proxy: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy.url)
    function = Recorder()
    with RawServer(function) as server:
        assert send(kind, POLL, f"http://{host}:{server.port}", token()) == GOOD
    assert is_signed_by(function.heads[0])
    assert heads(proxy) == []


@both_transports
@pytest.mark.parametrize(
    "value", ["socks5://u:geheim@h:1", "http://", "http://u:geheim@h:port", "u:geheim@h:99999", "://"]
)
def test_unusable_proxy_is_named_by_its_variable(
    kind: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(exceptions.DicomExportUnavailableError, match="HTTPS_PROXY or ALL_PROXY") as error:
        send(kind, POLL, f"https://{HOST}", token())
    assert "geheim" not in str(error.value)


@both_transports
def test_password_of_netrc_never_replaces_the_token(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login me password geheim\ndefault login me password geheim\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    function = Recorder()
    with RawServer(function) as server:
        assert send(kind, POLL, f"http://localhost:{server.port}", token()) == GOOD
        assert send(kind, POLL, f"http://localhost:{server.port}", AnonymousCredentials()) == GOOD
    signed, unsigned = function.heads
    assert is_signed_by(signed)
    assert b"authorization" not in unsigned.lower()


@both_transports
def test_cookies_of_an_answer_are_not_sent_back(kind: str) -> None:
    def serve(connection: Connection) -> None:
        while head := connection.read_head():
            found.append(b"cookie" in head.lower())
            connection.send(answer(json.dumps(GOOD).encode(), "Set-Cookie: a=b", status="401 No"))

    found: list[bool] = []
    with RawServer(serve) as server, pytest.raises(exceptions.DicomExportAuthenticationError):
        send(kind, POLL, server.url, RefreshingCredentials())
    assert found == [False, False]


class RefreshingCredentials(Credentials):
    """Credentials whose refresh a test decides."""

    def __init__(self, error: Exception | None = None, expires_in: float = 3600) -> None:
        super().__init__(token="the-token")  # type: ignore[no-untyped-call]
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        self.expiry = now + datetime.timedelta(seconds=expires_in)
        self.error = error
        self.refreshes = 0

    def refresh(self, request: object) -> None:
        """Get a token, or fail."""
        self.refreshes += 1
        if self.error is not None:
            raise self.error
        self.token = f"token-{self.refreshes}"


NO_TOKEN = [TransportError("the token endpoint is down"), RefreshError("503", retryable=True)]


@both_transports
@pytest.mark.parametrize("error", NO_TOKEN, ids=repr)
def test_stale_token_is_used_while_there_is_no_new_one(kind: str, error: Exception) -> None:
    function = Recorder()
    credentials = RefreshingCredentials(error, expires_in=60)
    with RawServer(function) as server:
        assert send(kind, POLL, server.url, credentials) == GOOD
    assert credentials.refreshes == 1
    assert is_signed_by(function.heads[0])


@both_transports
@pytest.mark.parametrize("error", NO_TOKEN, ids=repr)
def test_expired_token_is_not_used(kind: str, error: Exception) -> None:
    function = Recorder()
    with (
        RawServer(function) as server,
        pytest.raises(exceptions.DicomExportUnavailableError, match="no access token"),
    ):
        send(kind, POLL, server.url, RefreshingCredentials(error, expires_in=-60))
    assert function.heads == []


def test_token_request_uses_the_same_environment(
    proxy: RawServer, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both transports fetch tokens with the same function."""
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    monkeypatch.setenv("HTTPS_PROXY", proxy.address)
    credentials = Credentials(
        None, refresh_token="r", token_uri=f"https://{HOST}/token", client_id="i", client_secret="s"
    )
    with pytest.raises(RefreshError, match="No access token"):
        refresh(credentials)
    assert [head.split()[0] for head in heads(proxy)] == [b"CONNECT", b"POST"]


@pytest.mark.parametrize(
    "universe",
    [
        "evil.example/x",
        "evil.example#",
        "evil.example:8443",
        "u@evil.example",
        "a b.c",
        "evil",
        "127.0.0.1",
        "..",
        "x?y.z",
    ],
)
def test_universe_domain_that_is_no_domain_is_refused(universe: str) -> None:
    with pytest.raises(exceptions.DicomExportInvalidRequestError, match="universe_domain"):
        universe_endpoint(universe)


def test_remote_emulator_is_refused_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", "healthcare:8085")
    with pytest.raises(exceptions.DicomExportInvalidRequestError, match="HEALTHCARE_EMULATOR_REMOTE_HOSTS"):
        configured_endpoint(None)
    monkeypatch.setenv("HEALTHCARE_EMULATOR_REMOTE_HOSTS", "other, Healthcare")
    endpoint = configured_endpoint(None)
    assert endpoint is not None
    assert (endpoint.url, endpoint.anonymous) == ("http://healthcare:8085", True)
    monkeypatch.setenv("HEALTHCARE_EMULATOR_REMOTE_HOSTS", "healthcare.example")
    with pytest.raises(exceptions.DicomExportInvalidRequestError):
        configured_endpoint(None)
