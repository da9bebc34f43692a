"""The provider's metadata for Airflow."""

from __future__ import annotations

import logging
from typing import Any

from airflow_provider_dicom import connection_type

log = logging.getLogger(__name__)

_INTEGRATION = "Google Cloud Healthcare DICOM stores"


def _modules(kind: str, *more: str) -> list[dict[str, Any]]:
    modules = [f"airflow_provider_dicom.{kind}.{name}" for name in ("dicom_store", *more)]
    return [{"integration-name": _INTEGRATION, "python-modules": modules}]


def _google_fields() -> dict[str, Any]:
    """
    Return the fields of Google's connection form; none if the Google provider does not name them.

    An exception here would keep Airflow from loading any provider. Without the fields the connection still
    works: the command line sets them.
    """
    try:
        from airflow.providers.google.get_provider_info import get_provider_info as google_provider_info

        for google_type in google_provider_info()["connection-types"]:
            if google_type["connection-type"] == "google_cloud_platform":
                # Before version 20, the Google provider describes its fields in its hook only.
                return dict(google_type.get("conn-fields", {}))
    except Exception as error:  # older and newer versions of the provider may differ in any way
        log.warning("The connection form lacks Google's fields: %s: %s", type(error).__name__, error)
    return {}


def _connection_type() -> dict[str, Any]:
    google_fields = _google_fields()
    fields = {
        name: {
            "label": field.label,
            "description": field.description,
            "schema": {"type": ["string", "null"]},
        }
        for name, field in connection_type.FIELDS.items()
    }
    return {
        "hook-class-name": "airflow_provider_dicom.hooks.dicom_store.DicomStoreHook",
        "hook-name": connection_type.HOOK_NAME,
        "connection-type": connection_type.CONN_TYPE,
        "conn-fields": {
            **{name: field for name, field in google_fields.items() if name == "project"},
            **fields,
            **google_fields,
        },
        "ui-field-behaviour": {
            "hidden-fields": list(connection_type.HIDDEN_FIELDS),
            "relabeling": {},
            "placeholders": connection_type.PLACEHOLDERS,
        },
    }


def _asset_uris() -> list[dict[str, Any]]:
    module = "airflow_provider_dicom.assets.dicom_store"
    return [
        {
            "schemes": ["dicomstore"],
            "handler": f"{module}.sanitize_uri",
            "factory": f"{module}.create_asset",
            "to_openlineage_converter": f"{module}.convert_asset_to_openlineage",
        }
    ]


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, as the ``apache_airflow_provider`` entry point has to."""
    return {
        "package-name": "airflow-provider-dicom",
        "name": "DICOM",
        "description": "Exports DICOM stores of the Cloud Healthcare API to Cloud Storage and BigQuery.",
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://cloud.google.com/healthcare-api/docs/concepts/dicom",
                "tags": ["gcp"],
            }
        ],
        "hooks": _modules("hooks"),
        "operators": _modules("operators", "check", "selection"),
        "sensors": _modules("sensors"),
        "triggers": _modules("triggers"),
        "connection-types": [_connection_type()],
        "asset-uris": _asset_uris(),
        # Airflow 2's name for asset URIs.
        "dataset-uris": _asset_uris(),
        "plugins": [
            {
                "name": "dicom_export",
                "plugin-class": "airflow_provider_dicom.plugins.dicom_store.DicomExportPlugin",
            }
        ],
        "extra-links": [
            f"airflow_provider_dicom.links.dicom_store.{name}"
            for name in ("DicomStoreLink", "DicomExportLogsLink", "DicomExportDestinationLink")
        ],
    }
