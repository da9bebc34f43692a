"""
What the process's environment says about connections: proxies, and the CAs that are trusted.

Both transports take it from here, so that a worker and a triggerer with the same variables connect alike.
Neither reads ``.netrc``: a password from there would replace the access token.
"""

from __future__ import annotations

import base64
import os
import ssl
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests.utils

from airflow_provider_dicom.api.endpoint import is_loopback
from airflow_provider_dicom.exceptions import DicomExportUnavailableError

#: Variables that name a file or a folder of trusted CAs; the first one that is set counts.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def proxy_for(url: str) -> str | None:
    """
    Return the URL of the proxy for a server, with its scheme; None for a direct connection.

    A loopback server is never reached through a proxy: the proxy would get the token, unencrypted.

    :param url: the server's URL.
    :raises DicomExportUnavailableError: if the environment names something else than an HTTP proxy.
    """
    parts = urlsplit(url)
    if is_loopback(parts.hostname or ""):
        return None
    # This applies NO_PROXY as well.
    proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    if not proxy:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        parsed = urlsplit(proxy)
        is_proxy = parsed.scheme in ("http", "https") and bool(parsed.hostname) and (parsed.port or 1) > 0
    except ValueError:
        is_proxy = False
    if not is_proxy:
        variable = f"{parts.scheme.upper()}_PROXY or ALL_PROXY"
        raise DicomExportUnavailableError(
            f"The environment's {variable} is not accepted for {parts.hostname}; accepted: "
            "'[http://][user:password@]host:port', with special characters of the password quoted "
            "as in '%40'.",
            safe_to_resend=True,
        )
    return proxy


def proxy_headers(proxy: str) -> dict[str, str]:
    """
    Return the headers for a proxy: its user name and password, if its URL holds them.

    :param proxy: the proxy's URL.
    """
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    password = unquote(parts.password or "")
    userinfo = base64.b64encode(f"{unquote(parts.username)}:{password}".encode())
    return {"Proxy-Authorization": f"Basic {userinfo.decode()}"}


def ca_bundle() -> str:
    """
    Return the file or the folder of trusted CAs.

    :raises DicomExportUnavailableError: if the environment names one that does not exist.
    """
    for name in CA_VARIABLES:
        if path := os.environ.get(name):
            if not Path(path).exists():
                raise DicomExportUnavailableError(
                    f"The environment's {name} does not name a file or a folder of CA certificates.",
                    safe_to_resend=True,
                )
            return path
    return requests.utils.DEFAULT_CA_BUNDLE_PATH


def ssl_context(bundle: str) -> ssl.SSLContext:
    """
    Build the TLS settings that requests uses with the same CAs; it reads files.

    :param bundle: the file or the folder of trusted CAs.
    """
    if Path(bundle).is_dir():
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)
