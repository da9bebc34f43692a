"""Endpoints: to which servers a token may be sent."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_dicom.api.endpoint import (
    Endpoint,
    api_endpoint_error,
    configured_endpoint,
    logging_endpoint,
    universe_endpoint,
)
from airflow_provider_dicom.api.foreign_text import without_userinfo
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=2, max_size=4).map(lambda labels: ".".join([*labels, "example"]))
PORTS = st.none() | st.integers(1, 65535)


@pytest.fixture(autouse=True)
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """No local Healthcare API is configured."""
    monkeypatch.delenv("HEALTHCARE_EMULATOR_HOST", raising=False)


def with_port(host: str, port: int | None) -> str:
    return host if port is None else f"{host}:{port}"


@given(HOSTS, PORTS, st.sampled_from(["", "https://"]), st.sampled_from(["", "/"]))
@example("healthcare.us-central1.rep.googleapis.com", None, "", "")
@example("healthcare.googleapis.com", 443, "https://", "/")
def test_any_host_is_accepted_with_https(host: str, port: int | None, scheme: str, slash: str) -> None:
    endpoint = configured_endpoint(f"{scheme}{with_port(host, port)}{slash}")
    assert endpoint == Endpoint(f"https://{with_port(host, port)}", anonymous=False)


@given(HOSTS, PORTS)
@example("127.0.0.1.example", 80)
@example("localhost.example", None)
@example("169.254.169.254", None)
@example("0.0.0.0", 80)
@example("10.0.0.1", None)
@example("[2001:db8::1]", 80)
def test_http_is_refused_for_hosts_other_than_loopback(host: str, port: int | None) -> None:
    url = f"http://{with_port(host, port)}"
    with pytest.raises(DicomExportInvalidRequestError) as error:
        configured_endpoint(url)
    assert f"api_endpoint={without_userinfo(repr(url))}" in str(error.value)
    assert "accepted: 'https://host[:port]'; 'http://' for a loopback host only" in str(error.value)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "[::1]"])
@given(PORTS)
def test_http_is_accepted_for_loopback_hosts(host: str, port: int | None) -> None:
    url = f"http://{with_port(host, port)}"
    assert configured_endpoint(url) == Endpoint(url, anonymous=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1@evil.example",
        "http://localhost:80@evil.example",
        "https://user@host.example",
        "https://user:secret@host.example",
        "http://127.0.0.1\\@evil.example",
        "http://evil.example\\@127.0.0.1",
        "http://127.0.0.1#@evil.example",
        "http://127.0.0.1?@evil.example",
        "http://127.0.0.1 evil.example",
        "http://127.0.0.1\t.evil.example",
        "http://127.0.0.1\n",
        " https://host.example",
        "https://host.example ",
        "https://host\u00a0.example",
        "https://host\u200b.example",
        "https://host.example/v1",
        "https://host.example/v1/",
        "https://host.example//evil",
        "https://host.example?x=1",
        "https://host.example#x",
        "https://",
        "https:///",
        "://",
        "https://:443",
        "https://host.example:x",
        "https://host.example:99999",
        "https://host.example:-1",
        "ftp://host.example",
        "file:///etc/passwd",
        "http:127.0.0.1",
        "http:/127.0.0.1",
        "//host.example",
        "https://[::1",
        "http://[::1]evil.example",
        "http://1.0.0.127.in-addr.example",
        "http://\uff11\uff12\uff17.0.0.1",
        "http://127.1",
        "http://2130706433",
        "http://0x7f.0.0.1",
        "https://host.example\uff0fevil",
        "https://evil.example\uff20host.example",
        "http://loc\u0430lhost",
        "javascript://x",
        "https://a..example",
        "https://.",
        "https://.example",
        "https://a%2fb.example",
        "https://a<b.example",
    ],
    ids=repr,
)
def test_urls_that_could_lead_to_another_server_are_refused(url: str) -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        configured_endpoint(url)
    assert f"api_endpoint={without_userinfo(repr(url))}" in str(error.value)
    assert "accepted: " in str(error.value)


@given(
    st.text(),
    st.sampled_from(["", "http://", "https://", "http://127.0.0.1", "http://localhost", "https://h.example"]),
)
def test_requests_to_an_accepted_endpoint_use_https_or_a_loopback_host(text: str, start: str) -> None:
    try:
        endpoint = configured_endpoint(start + text)
    except DicomExportInvalidRequestError:
        return
    if endpoint is None:
        assert start + text == ""
        return
    parts = urlsplit(endpoint.url)
    assert parts.username is None
    assert not parts.path
    assert not parts.query
    prepared = urlsplit(requests.Request("GET", endpoint.url + "/v1/x").prepare().url or "")
    host = prepared.hostname or ""
    assert prepared.path == "/v1/x"
    assert prepared.scheme == "https" or host == "localhost" or ipaddress.ip_address(host).is_loopback


@pytest.mark.parametrize("value", [5, True, ["https://host.example"], b"https://host.example"], ids=repr)
def test_api_endpoint_that_is_not_a_string_is_refused(value: object) -> None:
    error = api_endpoint_error(value)
    assert error is not None
    assert f"api_endpoint={value!r}" in error


@pytest.mark.parametrize("value", [None, "", "https://host.example"])
def test_valid_api_endpoint_has_no_validation_error(value: object) -> None:
    assert api_endpoint_error(value) is None


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1:8085", "http://127.0.0.1:8085"),
        ("http://127.0.0.1:8085", "http://127.0.0.1:8085"),
        ("localhost:8085", "http://localhost:8085"),
        ("[::1]:8085", "http://[::1]:8085"),
    ],
)
def test_emulator_host_is_reached_by_http_without_credentials(
    host: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", host)
    assert configured_endpoint(None) == Endpoint(url, anonymous=True)
    assert configured_endpoint("https://host.example") == Endpoint("https://host.example", anonymous=False)


@pytest.mark.parametrize(
    "host", ["https://127.0.0.1:8085", "user@host:80", "host:port", "host/path", "a b", "ftp://x"]
)
def test_invalid_emulator_host_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", host)
    with pytest.raises(DicomExportInvalidRequestError) as error:
        configured_endpoint(None)
    assert "HEALTHCARE_EMULATOR_HOST=" in str(error.value)
    assert "accepted: 'host:port'" in str(error.value)


def test_empty_emulator_host_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", "")
    assert configured_endpoint(None) is None


def test_endpoint_of_another_universe() -> None:
    assert universe_endpoint(None) == Endpoint("https://healthcare.googleapis.com")
    assert universe_endpoint("example.goog") == Endpoint("https://healthcare.example.goog")


@pytest.mark.parametrize(
    ("endpoint", "universe", "expected"),
    [
        (Endpoint("https://healthcare.googleapis.com"), None, "https://logging.googleapis.com"),
        (
            Endpoint("https://healthcare.us-central1.rep.googleapis.com"),
            None,
            "https://logging.googleapis.com",
        ),
        (Endpoint("https://healthcare.other.example"), "other.example", "https://logging.other.example"),
        (Endpoint("https://proxy.company.example"), "googleapis.com", "https://logging.googleapis.com"),
        (Endpoint("http://127.0.0.1:8085"), "googleapis.com", "http://127.0.0.1:8085"),
        (Endpoint("https://localhost"), None, "https://localhost"),
        (Endpoint("http://healthcare:8085", anonymous=True), None, "http://healthcare:8085"),
    ],
)
def test_cloud_logging_is_google_s_or_that_of_the_local_healthcare_api(
    endpoint: Endpoint, universe: str | None, expected: str
) -> None:
    assert logging_endpoint(endpoint, universe).url == expected


def test_universe_of_cloud_logging_has_to_be_a_domain() -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="universe_domain="):
        logging_endpoint(Endpoint("https://healthcare.example"), "a/b")
