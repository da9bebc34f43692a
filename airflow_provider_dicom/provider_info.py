"""What Airflow is told about this provider."""

from __future__ import annotations

from typing import Any

_INTEGRATION = "Google Cloud Healthcare DICOM stores"


def _modules(kind: str) -> list[dict[str, Any]]:
    return [
        {"integration-name": _INTEGRATION, "python-modules": [f"airflow_provider_dicom.{kind}.dicom_store"]}
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
        "operators": _modules("operators"),
        "sensors": _modules("sensors"),
        "triggers": _modules("triggers"),
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
