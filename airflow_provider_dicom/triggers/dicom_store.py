"""Trigger that follows an export of a DICOM store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_dicom.exceptions import DicomExportError, DicomExportTimeoutError
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook
from airflow_provider_dicom.operation import is_cancelled
from airflow_provider_dicom.polling import OperationWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from airflow_provider_dicom.operation import Operation


class ExportEvent(TypedDict):
    """What the trigger tells the task, once."""

    status: Literal["success", "error", "cancelled", "timeout"]
    operation: Operation
    message: str | None


class DicomStoreExportTrigger(BaseTrigger):
    """
    Polls one Operation to its end; it never submits anything, because Airflow re-runs triggers freely.

    https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/get

    :param operation_name: the full name of the Operation.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param api_endpoint: another endpoint than Google's.
    :param poll_interval: the longest pause between polls, in seconds.
    :param deadline: when to give up, in seconds since the epoch; never if not given.
    :param cancel_on_kill: cancel the Operation when the task is killed.
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
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operation_name = operation_name
        self.gcp_conn_id = gcp_conn_id
        self.impersonation_chain = impersonation_chain
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
        """Poll until the Operation ends, and yield one event."""
        yield TriggerEvent(await self._follow())

    async def _follow(self) -> ExportEvent:
        watch = OperationWatch(
            self.operation_name, poll_interval=self.poll_interval, deadline=self.deadline, log=self.log
        )
        try:
            async with DicomStoreAsyncHook(
                gcp_conn_id=self.gcp_conn_id,
                impersonation_chain=self.impersonation_chain,
                api_endpoint=self.api_endpoint,
            ) as hook:
                operation = await hook.wait_for_operation(watch)
        except DicomExportError as error:
            status: Literal["timeout", "error"] = (
                "timeout" if isinstance(error, DicomExportTimeoutError) else "error"
            )
            return {
                "status": status,
                "operation": error.operation or {"name": self.operation_name},
                "message": str(error),
            }
        if is_cancelled(operation):
            return {
                "status": "cancelled",
                "operation": operation,
                "message": operation["error"].get("message"),
            }
        if "error" in operation:
            return {"status": "error", "operation": operation, "message": operation["error"].get("message")}
        return {"status": "success", "operation": operation, "message": None}
