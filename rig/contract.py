"""The interface that users rely on, stated once for all tests, apart from the provider's code."""

from __future__ import annotations

#: The keys of an export's result in XCom.
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
}
