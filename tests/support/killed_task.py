"""
A process that runs one try of an export as Airflow 3's task runner does, for tests that kill it.

Run as ``python -m tests.support.killed_task FD ARGUMENTS``: the descriptor of the channel to the supervisor,
and the operator's arguments as JSON. The channel, the task state, the XComs, the alarm of the
``execution_timeout`` and the signal handler are Airflow's own.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder
from airflow.sdk.execution_time.context import TaskStateStoreAccessor
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance, _run_execute_callable

from airflow_provider_dicom.longrunning import polling
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

IDENTITY: dict[str, Any] = {
    "dag_id": "dag",
    "run_id": "run",
    "task_id": "export",
    "map_index": -1,
    "try_number": 1,
}


def main(fd: int, arguments: dict[str, Any]) -> None:
    """
    Run the try, and print how it ends.

    :param fd: the descriptor of the channel to the supervisor.
    :param arguments: the operator's arguments; ``execution_timeout`` in seconds.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
    polling.FIRST_PAUSE = 0.05
    if "execution_timeout" in arguments:
        arguments["execution_timeout"] = timedelta(seconds=arguments["execution_timeout"])
    task_runner.SUPERVISOR_COMMS = CommsDecoder(socket=socket.socket(fileno=fd))
    task = DicomStoreExportOperator(task_id="export", **arguments)
    # Airflow's model validates what this task does not need, such as the DAG.
    ti = RuntimeTaskInstance.model_construct(
        id=uuid.uuid4(), task=task, start_date=datetime.now(UTC), **IDENTITY
    )
    store = TaskStateStoreAccessor(ti.id, SimpleNamespace(**IDENTITY))  # type: ignore[arg-type]
    context: Any = {"ti": ti, "task_state_store": store, "outlet_events": {}}
    # As in ``task_runner._run_task_and_map_outcome``.
    signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    try:
        result = _run_execute_callable(context, task.execute, task)
    except TaskDeferred:
        sys.stdout.write("DEFERRED\n")
    except BaseException as error:  # whatever it is: the test looks at it
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
    else:
        sys.stdout.write(f"RESULT {json.dumps(result)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
