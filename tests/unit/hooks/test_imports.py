"""What a worker imports: the HTTP library of the event loop stays out of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Google's base hook imports aiohttp through gcloud-aio-auth; the stand-in shows what this provider adds.
IMPORTS = """
import sys, types
token = types.ModuleType("gcloud.aio.auth.token")
token.Token = token.TokenResponse = type("Token", (), {})
for name in ("gcloud", "gcloud.aio", "gcloud.aio.auth"):
    sys.modules[name] = types.ModuleType(name)
sys.modules[token.__name__] = token
import airflow_provider_dicom.hooks.dicom_store
import airflow_provider_dicom.operators.dicom_store
import airflow_provider_dicom.triggers.dicom_store
print(*sorted(sys.modules))
"""


@pytest.mark.slow
def test_worker_does_not_import_the_transport_of_the_event_loop() -> None:
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "airflow_provider_dicom.api.transport_sync" in loaded
    assert "airflow_provider_dicom.api.transport_async" not in loaded
    assert "airflow_provider_dicom.triggers._shared_poller" not in loaded
    assert "aiohttp" not in loaded
