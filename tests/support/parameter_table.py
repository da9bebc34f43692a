"""The tables in the documentation that say how parameters may be filled, as the code has it."""

from __future__ import annotations

from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import DicomMetadataQueryOperator, DicomStoreSearchOperator
from airflow_provider_dicom.sensors.dicom_store import DicomStoreExportSensor
from airflow_provider_dicom.validation import Kind

OPERATORS = (
    DicomStoreExportOperator,
    DicomStoreExportCheckOperator,
    DicomStoreSearchOperator,
    DicomMetadataQueryOperator,
    DicomStoreExportSensor,
)
TITLES = {
    Kind.REQUIRED: "required",
    Kind.RESTRICTION: "restriction",
    Kind.OPTIONAL: "optional",
    Kind.FLAG: "flag",
    Kind.OPTIONAL_FLAG: "optional flag",
    Kind.NUMBER: "number",
    Kind.OPTIONAL_NUMBER: "optional number",
}


def kind_table() -> str:
    """Return the table of all parameters with their kinds."""
    rows: dict[tuple[str, str], list[str]] = {}
    for operator in OPERATORS:
        for name, kind in operator.PARAMETERS.items():
            title = TITLES[kind] + ("" if name in operator.template_fields else ", not templated")
            rows.setdefault((name, title), []).append(f"`{operator.__name__}`")
    lines = ["| parameter | kind | of |", "| --- | --- | --- |"]
    for (name, title), operators in rows.items():
        of = "all" if len(operators) == len(OPERATORS) else ", ".join(operators)
        lines.append(f"| `{name}` | {title} | {of} |")
    return "\n".join(lines) + "\n"
