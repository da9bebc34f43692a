"""Talking to the Healthcare API: what all operators and sensors have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_dicom.api.endpoint import api_endpoint_mistake
from airflow_provider_dicom.api.resource_names import id_mistake

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook


class ConnectionArguments(TypedDict):
    """What every hook and trigger of this provider is told about the connection."""

    gcp_conn_id: str
    impersonation_chain: str | Sequence[str] | None
    api_endpoint: str | None


class ConnectedOperator(BaseOperator):
    """
    Has a connection to the Healthcare API.

    The hook is imported where it is used: DAG files must stay cheap to parse.
    """

    gcp_conn_id: str
    impersonation_chain: str | Sequence[str] | None
    api_endpoint: str | None

    @property
    def connection_arguments(self) -> ConnectionArguments:
        """The connection as every hook and trigger gets it."""
        return {
            "gcp_conn_id": self.gcp_conn_id,
            "impersonation_chain": self.impersonation_chain,
            "api_endpoint": self.api_endpoint,
        }

    def hook(self) -> DicomStoreHook:
        """Build the hook."""
        from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

        return DicomStoreHook(**self.connection_arguments)

    def unrendered(self) -> frozenset[str]:
        """Name the parameters that are templates still."""
        return frozenset(name for name in self.template_fields if is_template(getattr(self, name)))

    def connection_mistakes(self, unrendered: frozenset[str]) -> Iterator[str]:
        """
        Say what is wrong with the connection's parameters.

        :param unrendered: parameters that are templates still.
        """
        if "gcp_conn_id" not in unrendered and not (isinstance(self.gcp_conn_id, str) and self.gcp_conn_id):
            yield f"gcp_conn_id={self.gcp_conn_id!r} is not accepted; accepted: the id of a connection."
        if "api_endpoint" not in unrendered and (mistake := api_endpoint_mistake(self.api_endpoint)):
            yield mistake

    def store_mistakes(self, unrendered: frozenset[str]) -> Iterator[str]:
        """
        Say what is wrong with the parameters that name a DICOM store.

        :param unrendered: parameters that are templates still.
        """
        for name in ("location", "dataset_id", "dicom_store_id", "project_id"):
            value = getattr(self, name)
            if name in unrendered or (name == "project_id" and value is None):
                continue
            if mistake := id_mistake(name, value):
                yield mistake


def is_template(value: object) -> bool:
    """
    Tell whether a parameter gets its value only when the task runs.

    :param value: the parameter's value at parse time.
    """
    if isinstance(value, str):
        return any(mark in value for mark in ("{{", "{%", "{#"))
    if isinstance(value, list | tuple):
        return any(is_template(item) for item in value)
    # Outputs of other tasks, and whatever else has a rendering of its own.
    return hasattr(value, "resolve")
