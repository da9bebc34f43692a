"""The supervisor's end of a task's channel, for tests that kill the task between two messages."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from airflow.sdk.execution_time.comms import _RequestFrame, _ResponseFrame
from msgspec import msgpack

from airflow_provider_dicom.operators._kill import STATE_TIMEOUT
from rig.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

#: The longest time that a task may take, in seconds.
TASK_TIMEOUT = 60.0
#: How long an answer is held back that comes too late, in seconds.
TOO_LATE = STATE_TIMEOUT + 0.5


class SupervisedTask:
    """
    A process that runs a task, and the answers of Airflow to its messages.

    :param arguments: the operator's arguments as JSON values.
    :param state: the task's state, as Airflow tells it; None holds the answer back too long.
    :param stored: the task state that earlier tries have left.
    :param before_answer: called with every message of the task before the answer is sent.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        *,
        state: str | None,
        stored: dict[str, Any] | None = None,
        before_answer: Callable[[SupervisedTask, dict[str, Any]], None] = lambda *_: None,
    ) -> None:
        self.stored = stored if stored is not None else {}
        self.xcoms: dict[str, Any] = {}
        self.state = state
        self._before_answer = before_answer
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.support.killed_task",
                    str(theirs.fileno()),
                    json.dumps(arguments),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                pass_fds=[theirs.fileno()],
            )
        self._answers = threading.Thread(target=self._answer_all)
        self._answers.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(TASK_TIMEOUT)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._answers.join(TASK_TIMEOUT)
        self._channel.close()

    def kill(self) -> None:
        """Send the signal that ends a task, or that stops its worker."""
        self._process.send_signal(signal.SIGTERM)

    def output(self) -> str:
        """Wait for the end of the task, and return its log and its end."""
        return self._process.communicate(timeout=TASK_TIMEOUT)[0]

    def _answer_all(self) -> None:
        while (header := self._channel.recv(4, socket.MSG_WAITALL)) and len(header) == 4:
            frame = self._channel.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL)
            request = msgpack.decode(frame, type=_RequestFrame)
            body = request.body or {}
            self._before_answer(self, body)
            if body["type"] == "GetTaskStates" and self.state is None:
                time.sleep(TOO_LATE)
            answer = _ResponseFrame(id=request.id, body=self._answer(body))
            try:
                self._channel.sendall(answer.as_bytes())
            except BrokenPipeError:  # the task has ended
                return

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        match body["type"]:
            case "GetTaskStates":
                return {"type": "TaskStatesResult", "task_states": {"run": {"export": self.state}}}
            case "SetTaskStateStore":
                self.stored[body["key"]] = body["value"]
            case "GetTaskStateStore" if body["key"] in self.stored:
                return {"type": "TaskStateStoreResult", "value": self.stored[body["key"]]}
            case "GetTaskStateStore":
                return {"type": "ErrorResponse", "error": "TASK_STORE_NOT_FOUND"}
            case "SetXCom":
                self.xcoms[body["key"]] = body["value"]
        return {"type": "OKResponse", "ok": True}
