"""Runs one task in a process of its own, and prints its result, its duration, and its peak memory.

The argument is JSON: ``{"operator": "module:class", "arguments": {...}}``.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from types import SimpleNamespace
from typing import Any


def main(wanted: dict[str, Any]) -> dict[str, Any]:
    """Run the task."""
    module, _, name = wanted["operator"].partition(":")
    task = getattr(importlib.import_module(module), name)(task_id="step", **wanted["arguments"])
    task_instance = SimpleNamespace(
        task_id="step", map_index=-1, try_number=1, start_date=None, xcom_push=lambda **_: None
    )
    started, started_cpu = time.monotonic(), time.process_time()
    result = task.execute({"ti": task_instance})
    return {
        "result": result,
        "seconds": time.monotonic() - started,
        "cpu_seconds": time.process_time() - started_cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
