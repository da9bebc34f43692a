"""What users rely on, stated once for all tests and apart from the code that has to keep it."""

from __future__ import annotations

#: The keys of an export's result, as they are in XCom.
RESULT_KEYS = {
    "operation_name",
    "dicom_store",
    "destination",
    "state",
    "success",
    "failure",
    "pending",
    "create_time",
    "end_time",
    "logs_url",
    "snapshot_time",
}
