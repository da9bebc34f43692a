"""Lists the failed instances of an Operation in a process of its own, and prints what that took.

The argument is the Operation's name.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook


def main(operation_name: str) -> dict[str, Any]:
    """List the failed instances."""
    with DicomStoreHook() as hook:
        operation = hook.get_operation(operation_name)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.monotonic()
        failures = hook.list_failures(operation)
        seconds = time.monotonic() - started
    return {
        "failures": failures,
        "seconds": seconds,
        "grown_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])))
