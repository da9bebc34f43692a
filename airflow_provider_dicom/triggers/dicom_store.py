"""Trigger that polls the Operation of an export."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Literal, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_provider_dicom.api_types import is_cancelled
from airflow_provider_dicom.compat import HAS_TASK_VIEWS, push_value, pushed_value, task_state
from airflow_provider_dicom.exceptions import DicomExportError, DicomExportTimeoutError
from airflow_provider_dicom.longrunning.outcome import describe_cancellation
from airflow_provider_dicom.longrunning.polling import LineLimit, OperationWatch
from airflow_provider_dicom.longrunning.record_writer import ProgressRecord
from airflow_provider_dicom.results import OPERATION_NAME_KEY, PROGRESS_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook


#: Airflow 3.3+ calls ``on_kill``; older versions cancel the trigger's task for every reason, without a call.
_AIRFLOW_TELLS_KILLS = hasattr(BaseTrigger, "on_kill")
#: How long one question about the task's state may take, and the pauses before it is asked again, in seconds:
#: a few minutes, because an API server that restarts is away for less.
STATE_TIMEOUT = 30.0
STATE_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 60.0)
_cancellations: set[asyncio.Task[None]] = set()
#: Shared by all triggers of a triggerer.
_line_limit = LineLimit()


class ExportEvent(TypedDict):
    """The payload of the trigger's only event."""

    status: Literal["success", "error", "cancelled", "timeout"]
    operation: Operation
    message: str | None


class DicomStoreExportTrigger(BaseTrigger):
    """
    Polls one Operation until it is done; it never submits anything, because Airflow re-runs triggers freely.

    https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/get

    :param operation_name: the full name of the Operation.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param api_endpoint: another endpoint than Google's.
    :param poll_interval: the longest pause between polls, in seconds.
    :param deadline: the time at which the trigger gives up, in seconds since the epoch; never if not given.
    :param cancel_on_kill: cancel the Operation when the task is killed.
    :param of_a_newer_version: arguments that only newer versions know; ignored with a warning.
    """

    def __init__(
        self,
        operation_name: str,
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        api_endpoint: str | None = None,
        poll_interval: float = 30.0,
        deadline: float | None = None,
        cancel_on_kill: bool = True,
        **of_a_newer_version: object,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if of_a_newer_version:
            # During an upgrade, newer workers hand triggers to older triggerers.
            self.log.warning("Arguments not known to this version: %s", ", ".join(of_a_newer_version))
        self.operation_name = operation_name
        self.gcp_conn_id = gcp_conn_id
        # Serialization turns a tuple into a list.
        self.impersonation_chain = (
            impersonation_chain
            if impersonation_chain is None or isinstance(impersonation_chain, str)
            else list(impersonation_chain)
        )
        self.api_endpoint = api_endpoint
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.cancel_on_kill = cancel_on_kill

    def serialize(self) -> tuple[str, dict[str, object]]:
        """Return the trigger's class path and arguments, primitives only."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "operation_name": self.operation_name,
                "gcp_conn_id": self.gcp_conn_id,
                "impersonation_chain": self.impersonation_chain,
                "api_endpoint": self.api_endpoint,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                "cancel_on_kill": self.cancel_on_kill,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the Operation is done, and yield one event."""
        # Imported where it is used: a worker imports this module to defer, and needs no HTTP client for it.
        from airflow_provider_dicom.triggers._shared_poller import wait_for_operation

        record = self._progress_record()
        watch = OperationWatch(
            self.operation_name,
            poll_interval=self.poll_interval,
            deadline=self.deadline,
            log=self.log,
            on_progress=None if record is None else record.on_response,
            line_limit=_line_limit,
        )
        try:
            operation = await wait_for_operation(
                watch,
                gcp_conn_id=self.gcp_conn_id,
                impersonation_chain=self.impersonation_chain,
                api_endpoint=self.api_endpoint,
            )
        except asyncio.CancelledError:
            if record is not None:
                record.discard()
            if not _AIRFLOW_TELLS_KILLS:
                await self.on_kill()
            raise
        except DicomExportError as error:
            event = _event_of_error(error, self.operation_name)
        else:
            event = _event_of_end(operation)
        if record is not None:
            await record.close(event["operation"])
        yield TriggerEvent(event)

    def _progress_record(self) -> ProgressRecord | None:
        task = self.task_instance
        if task is None or not HAS_TASK_VIEWS:
            return None
        return ProgressRecord(functools.partial(push_value, task, PROGRESS_KEY), log=self.log)

    async def on_kill(self) -> None:
        """Cancel the Operation if a user has ended the task."""
        if not self.cancel_on_kill:
            return
        cancellation = asyncio.create_task(self._cancel_unless_handed_over())
        # The triggerer cancels this method after about a second; the cancellation has to outlive it.
        _cancellations.add(cancellation)
        cancellation.add_done_callback(_cancellations.discard)
        await asyncio.shield(cancellation)

    async def _cancel_unless_handed_over(self) -> None:
        try:
            if await self._ask_until_known():
                self.log.info("%s goes on under another triggerer.", self.operation_name)
                return
            async with self._hook() as hook:
                operation = await hook.cancel_and_confirm(self.operation_name)
        except Exception as error:  # nobody awaits this task: without the log line the error would be lost
            self.log.warning("%s could not be cancelled and may go on: %s", self.operation_name, error)
            return
        self.log.info("%s", describe_cancellation(operation))

    async def _ask_until_known(self) -> bool:
        """
        Ask Airflow whether the task goes on under another triggerer, again after each of ``STATE_PAUSES``.

        :raises Exception: Airflow's last error, if it cannot be asked.
        """
        # Not thread-sensitive: that would queue all triggers of a triggerer on one thread.
        ask = sync_to_async(self._is_handed_over, thread_sensitive=False)
        for pause in STATE_PAUSES:
            try:
                async with asyncio.timeout(STATE_TIMEOUT):
                    return await ask()
            except Exception as error:  # Airflow may raise anything here
                self.log.warning(
                    "Airflow does not say whether a user ended the task (%s). Asking again in %.0f s, before "
                    "%s is cancelled.",
                    _one_line(error),
                    pause,
                    self.operation_name,
                )
            await asyncio.sleep(pause)
        async with asyncio.timeout(STATE_TIMEOUT):
            return await ask()

    def _is_handed_over(self) -> bool:
        """
        Tell a hand-over to another triggerer from a kill: the task is still deferred for this Operation.
        """
        task = self.task_instance
        if task is None or task_state(task) != "deferred":
            return False
        # After a clear, the new try may already be deferred for another Operation.
        return pushed_value(task, OPERATION_NAME_KEY) in (None, self.operation_name)

    def _hook(self) -> DicomStoreAsyncHook:
        from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook

        return DicomStoreAsyncHook(
            gcp_conn_id=self.gcp_conn_id,
            impersonation_chain=self.impersonation_chain,
            api_endpoint=self.api_endpoint,
        )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _event_of_error(error: DicomExportError, operation_name: str) -> ExportEvent:
    return {
        "status": "timeout" if isinstance(error, DicomExportTimeoutError) else "error",
        "operation": error.operation or {"name": operation_name},
        "message": str(error),
    }


def _event_of_end(operation: Operation) -> ExportEvent:
    if "error" not in operation:
        return {"status": "success", "operation": operation, "message": None}
    return {
        "status": "cancelled" if is_cancelled(operation) else "error",
        "operation": operation,
        "message": operation["error"].get("message"),
    }
