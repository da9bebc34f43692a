"""What Airflow and Google do around a task, on this machine: run tasks and triggers, hand out tokens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs

from airflow.providers.common.compat.sdk import TaskDeferred
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from rig.triggers import through_the_database

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.compat.sdk import BaseOperator

Json = dict[str, Any]
BOUND_SECONDS = 60


@dataclass
class TaskInstance:
    """The part of a task instance that the provider uses."""

    task_id: str = "export"
    map_index: int = -1
    try_number: int = 1
    start_date: datetime = field(default_factory=lambda: datetime.now(UTC))
    next_method: str | None = None
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        """Keep a value."""
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> Any:
        """Return a value that was kept."""
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)


class StateStore:
    """Airflow's ``task_state_store``: JSON values that outlive a try."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value."""
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        """Keep a value."""
        self.values[key] = json.dumps(value)

    def delete(self, key: str) -> None:
        """Remove a value."""
        self.values.pop(key, None)


class Run:
    """A task's run, with its tries and what Airflow keeps between them."""

    def __init__(self, **task_instance: Any) -> None:
        self.ti = TaskInstance(**task_instance)
        self.context: Any = {"ti": self.ti, "task_state_store": StateStore()}
        self.deferrals: list[TaskDeferred] = []
        self.events: list[Json] = []

    def __call__(self, task: BaseOperator) -> Any:
        """Run a task to its end as Airflow does, its triggers included, and return what it returns."""
        step: Callable[[], Any] = functools.partial(task.execute, self.context)
        while True:
            try:
                return step()
            except TaskDeferred as deferral:
                self.deferrals.append(deferral)
                event = asyncio.run(fire(through_the_database(deferral.trigger)))
                self.events.append(event)
                step = functools.partial(
                    task.resume_execution,
                    deferral.method_name,
                    {**(deferral.kwargs or {}), "event": event},
                    self.context,
                )


async def fire(trigger: Any) -> Any:
    """Run a trigger and return its only event, as it arrives at the task."""
    events = []
    async with asyncio.timeout(BOUND_SECONDS):
        events = [event async for event in trigger.run()]
    (event,) = events
    return json.loads(json.dumps(event.payload, default=str))


@functools.cache
def _private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


class TokenServer:
    """
    Google's token endpoint, and the IAM Credentials API for impersonation.

    Tokens are ``token-1``, ``token-2``, ...; a test may look at ``requests`` and ``tokens``, change
    ``expires_in``, and put answers into ``faults``, each (status, body) used once.

    :param prefix: how tokens begin.
    """

    def __init__(self, prefix: str = "token") -> None:
        self._prefix = prefix
        self.requests: list[Json] = []
        self.tokens: list[str] = []
        self.expires_in = 3600
        self.faults: list[tuple[int, Json]] = []
        self.gate = threading.Event()
        self.gate.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.gate.wait(BOUND_SECONDS)
                status, answer = server.answer(self.path, self.headers.get("Authorization"), body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def keyfile(self, **changes: Any) -> Json:
        """Return a service account's key that gets its tokens here."""
        return {
            "type": "service_account",
            "project_id": "keyfile-project",
            "private_key_id": "key-1",
            "private_key": _private_key(),
            "client_email": "airflow@keyfile-project.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
            **changes,
        }

    def answer(self, path: str, authorization: str | None, body: bytes) -> tuple[int, Json]:
        """Answer one request."""
        request: Json = {"path": path, "authorization": authorization}
        if path == "/token":
            (assertion,) = parse_qs(body.decode())["assertion"]
            payload = assertion.split(".")[1]
            request["claims"] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        else:
            request["body"] = json.loads(body)
        self.requests.append(request)
        if self.faults:
            return self.faults.pop(0)
        token = f"{self._prefix}-{len(self.tokens) + 1}"
        self.tokens.append(token)
        if path == "/token":
            return 200, {"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"}
        return 200, {"accessToken": token, "expireTime": "2099-01-01T00:00:00Z"}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class LoopProbe:
    """Measures the longest time for which the event loop stood still."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(0.005)
            now = loop.time()
            self.longest = max(self.longest, now - last)
            last = now
