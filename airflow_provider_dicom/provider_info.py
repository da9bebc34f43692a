"""The provider's metadata for Airflow."""

from __future__ import annotations

from typing import Any

from airflow_provider_dicom import connection_type

_INTEGRATION = "Google Cloud Healthcare DICOM stores"


def _modules(kind: str, *more: str) -> list[dict[str, Any]]:
    modules = [f"airflow_provider_dicom.{kind}.{name}" for name in ("dicom_store", *more)]
    return [{"integration-name": _INTEGRATION, "python-modules": modules}]


def _connection_type() -> dict[str, Any]:
    from airflow.providers.google.get_provider_info import get_provider_info as google_provider_info

    google_fields = next(
        connection_type["conn-fields"]
        for connection_type in google_provider_info()["connection-types"]
        if connection_type["connection-type"] == "google_cloud_platform"
    )
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
        "conn-fields": {"project": google_fields["project"], **fields, **google_fields},
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
