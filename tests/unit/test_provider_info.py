"""The provider's metadata: Airflow loads it whatever the Google provider's metadata looks like."""

from __future__ import annotations

from typing import Any

import airflow.providers.google.get_provider_info as google
import pytest

from airflow_provider_dicom import connection_type
from airflow_provider_dicom.provider_info import get_provider_info


def fields() -> list[str]:
    (own,) = get_provider_info()["connection-types"]
    return list(own["conn-fields"])


@pytest.mark.skipif(
    "conn-fields" not in str(google.get_provider_info()),
    reason="the Google provider before version 20 describes its form in its hook only",
)
def test_connection_form_has_googles_fields_and_our_own() -> None:
    assert fields()[0] == "project"
    assert set(connection_type.FIELDS) < set(fields())
    assert {"key_path", "keyfile_dict"} < set(fields())


GOOGLE = {"connection-type": "google_cloud_platform"}


@pytest.mark.parametrize(
    "metadata",
    [
        {"connection-types": [GOOGLE]},
        {"connection-types": [GOOGLE | {"conn-fields": None}]},
        {"connection-types": [{"connection-type": "gcpssh"}]},
        {"connection-types": [{}]},
        {"connection-types": None},
        {},
        None,
    ],
    ids=repr,
)
def test_metadata_of_another_shape_costs_googles_fields_only(
    metadata: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google, "get_provider_info", lambda: metadata)
    assert fields() == list(connection_type.FIELDS)
    assert get_provider_info()["hooks"]
