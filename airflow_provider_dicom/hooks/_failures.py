"""What a hook tells of the instances that an export could not write."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from airflow_provider_dicom.hooks._base import DicomStoreBaseHook
from airflow_provider_dicom.longrunning.failures import WAIT_SECONDS, wait_for_failures
from airflow_provider_dicom.longrunning.outcome import counters

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.results import DicomExportFailures


class FailuresHook(DicomStoreBaseHook):
    """A hook that reads Cloud Logging; Google's client is imported where it is used."""

    def list_failures(
        self,
        operation: Operation,
        dicom_store: DicomStoreName | None = None,
        *,
        wait_seconds: float = WAIT_SECONDS,
        sleep: Callable[[float], object] = time.sleep,
    ) -> DicomExportFailures:
        """
        List the instances that an Operation could not export, grouped by cause, from Cloud Logging.

        https://cloud.google.com/healthcare-api/docs/how-tos/logging

        :param operation: the finished Operation, as ``get_operation`` returns it.
        :param dicom_store: the DICOM store, if it is known; it narrows the search.
        :param wait_seconds: how long entries that arrive late are waited for, in seconds.
        :param sleep: waits for a number of seconds between two reads; it may raise an error to end the wait.
        :raises DicomExportPermissionError: if the connection's account lacks ``roles/logging.viewer``.
        :raises DicomExportError: if Cloud Logging refuses for another reason, or does not answer.
        """
        from airflow_provider_dicom.hooks._cloud_logging import failed_instances

        store = None if dicom_store is None else str(dicom_store)
        read = partial(failed_instances, self, operation, store)
        return wait_for_failures(read, counters(operation).failure, seconds=wait_seconds, sleep=sleep)
