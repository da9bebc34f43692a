"""What Airflow is told about this provider."""

from __future__ import annotations

from typing import Any

_INTEGRATION = "Google Cloud Healthcare DICOM stores"


def _modules(kind: str, *more: str) -> list[dict[str, Any]]:
    modules = [f"airflow_provider_dicom.{kind}.{name}" for name in ("dicom_store", *more)]
    return [{"integration-name": _INTEGRATION, "python-modules": modules}]


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
        "extra-links": [
            f"airflow_provider_dicom.links.dicom_store.{name}"
            for name in ("DicomStoreLink", "DicomExportLogsLink", "DicomExportDestinationLink")
        ],
    }
