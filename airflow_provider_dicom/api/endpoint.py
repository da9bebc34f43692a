"""The endpoint: which server gets the requests, and whether a token may be sent to it."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from airflow_provider_dicom.api.foreign_text import printable, without_userinfo
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError

EMULATOR_HOST = "HEALTHCARE_EMULATOR_HOST"
#: Names the hosts, other than loopback ones, that ``HEALTHCARE_EMULATOR_HOST`` may send requests to.
REMOTE_EMULATOR_HOSTS = "HEALTHCARE_EMULATOR_REMOTE_HOSTS"
DEFAULT_UNIVERSE = "googleapis.com"

_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_ACCEPTED = (
    "'https://host[:port]'; 'http://' for a loopback host only, because a token must not be sent unencrypted"
)


@dataclass(frozen=True)
class Endpoint:
    """
    A server of the Healthcare API.

    :param url: scheme, host and port, without a slash at the end.
    :param anonymous: requests carry no credentials.
    """

    url: str
    anonymous: bool = False

    @property
    def is_loopback(self) -> bool:
        """The server is this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")


def configured_endpoint(api_endpoint: str | None) -> Endpoint | None:
    """
    Return the configured endpoint: ``api_endpoint``, else ``HEALTHCARE_EMULATOR_HOST``, else None.

    :param api_endpoint: the parameter or the connection's setting.
    :raises DicomExportInvalidRequestError: if the text is not an endpoint, or a token would be sent
        unencrypted.
    """
    if api_endpoint:
        return Endpoint(_validated_url(api_endpoint))
    if host := os.environ.get(EMULATOR_HOST):
        return Endpoint(_emulator_url(host), anonymous=True)
    return None


def universe_endpoint(universe_domain: str | None, service: str = "healthcare") -> Endpoint:
    """
    Build the endpoint of an API in a Google Cloud universe.

    :param universe_domain: the universe's domain; Google's own if not given.
    :param service: the name of the API.
    :raises DicomExportInvalidRequestError: if it is no domain.
    """
    domain = universe_domain or DEFAULT_UNIVERSE
    # An address is no domain, and a port belongs to api_endpoint.
    if not _DOMAIN.fullmatch(domain):
        raise DicomExportInvalidRequestError(
            f"universe_domain={printable(domain, 100)!r} is not accepted; accepted: a domain such as "
            f"{DEFAULT_UNIVERSE!r}, in the connection's key or in GOOGLE_CLOUD_UNIVERSE_DOMAIN."
        )
    return Endpoint(f"https://{service}.{domain}")


def logging_endpoint(endpoint: Endpoint, universe_domain: str | None) -> Endpoint:
    """
    Return the server of Cloud Logging that belongs to a server of the Healthcare API.

    A local Healthcare API is its own: nothing about it is sent to Google.

    :param endpoint: the server of the Healthcare API.
    :param universe_domain: the universe's domain; Google's own if not given.
    """
    if endpoint.anonymous or endpoint.is_loopback:
        return endpoint
    return universe_endpoint(universe_domain, "logging")


def api_endpoint_error(value: object) -> str | None:
    """
    Return the validation error of ``api_endpoint``, or None.

    :param value: the parameter's value.
    """
    try:
        if value is not None and not isinstance(value, str):
            raise _invalid("api_endpoint", value)
        configured_endpoint(value)
    except DicomExportInvalidRequestError as error:
        return str(error)
    return None


def _validated_url(api_endpoint: str) -> str:
    text = api_endpoint if "://" in api_endpoint else f"https://{api_endpoint}"
    parts = _split(text)
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or (parts.scheme == "http" and not is_loopback(parts.hostname or ""))
    ):
        raise _invalid("api_endpoint", api_endpoint)
    return f"{parts.scheme}://{parts.netloc}"


def _emulator_url(host: str) -> str:
    parts = _split(host if "://" in host else f"http://{host}")
    if parts is None or parts.scheme != "http":
        raise DicomExportInvalidRequestError(
            f"{EMULATOR_HOST}={_shown(host)} is not accepted; accepted: 'host:port'."
        )
    name = parts.hostname or ""
    named = os.environ.get(REMOTE_EMULATOR_HOSTS, "").lower().split(",")
    if not is_loopback(name) and name not in (one.strip() for one in named):
        raise DicomExportInvalidRequestError(
            f"{EMULATOR_HOST}={host!r} is not a loopback host, and requests would be sent to it unencrypted; "
            f"accepted: a loopback host, or one that {REMOTE_EMULATOR_HOSTS} names, such as "
            f"{REMOTE_EMULATOR_HOSTS}={name}."
        )
    return f"http://{parts.netloc}"


def _split(url: str) -> SplitResult | None:
    """Parse a URL that names a server and nothing else; None if it names more."""
    # urlsplit silently drops tabs and line breaks.
    if any(character.isspace() or not character.isprintable() for character in url) or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return None
    host = parts.hostname or ""
    # An HTTP client may read "user@[::1]example" in another way than urlsplit.
    is_plain = parts.netloc.lower() == (f"[{host}]" if ":" in host else host) + port
    extras = parts.path.rstrip("/") or parts.query or parts.fragment
    return parts if is_plain and _is_host(host) and not extras else None


def _is_host(host: str) -> bool:
    return bool(_HOST.fullmatch(host)) or _address(host) is not None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return None if "%" in host else ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """
    Tell whether a host is this machine.

    :param host: a host name or an IP address.
    """
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _invalid(parameter: str, value: object) -> DicomExportInvalidRequestError:
    return DicomExportInvalidRequestError(
        f"{parameter}={_shown(value)} is not accepted; accepted: {_ACCEPTED}."
    )


def _shown(value: object) -> str:
    if isinstance(value, str) and "://" not in value and "@" in value:
        value = f"...@{value.rpartition('@')[2]}"
    return without_userinfo(repr(value))
