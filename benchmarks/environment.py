"""The environment of the measured processes: Airflow's connections, a key, and the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
#: Variables that would send contestants to another server, or slow them down.
_UNWANTED = ("HEALTHCARE_EMULATOR_HOST", "GOOGLE_CLOUD_UNIVERSE_DOMAIN", "PYTHONDONTWRITEBYTECODE")


@contextmanager
def server() -> Iterator[str]:
    """Run the server, and give its URL."""
    command = [sys.executable, "-m", "benchmarks.server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise SystemExit("The benchmark's server did not start.")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def variables(url: str, folder: Path) -> dict[str, str]:
    """
    Return the environment of a measured process.

    :param url: the server.
    :param folder: an empty folder, for Airflow's home and the key.
    """
    key = _service_account(f"{url}/token")
    key_file = folder / "service-account.json"
    key_file.write_text(json.dumps(key))
    host, port = url.removeprefix("http://").split(":")
    google = {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": json.dumps(key)}}
    # A personal access token, as Databricks advises: it needs no fetching.
    databricks = {
        "conn_type": "databricks",
        "schema": "http",
        "host": host,
        "port": int(port),
        "password": "local",
    }
    return {name: value for name, value in os.environ.items() if name not in _UNWANTED} | {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(google),
        "AIRFLOW_CONN_DATABRICKS_DEFAULT": json.dumps(databricks),
        "BIGQUERY_EMULATOR_HOST": url,
        "GOOGLE_APPLICATION_CREDENTIALS": str(key_file),
        # No request leaves this machine: google-auth would ask Google about the service account.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def _service_account(token_uri: str) -> dict[str, str]:
    """Return the key of an invented service account."""
    private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {
        "type": "service_account",
        "project_id": "benchmark",
        "private_key_id": "benchmark",
        "private_key": pem.decode(),
        "client_email": "benchmark@benchmark.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_uri,
    }
