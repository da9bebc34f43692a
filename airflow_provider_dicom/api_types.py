"""Shapes of the API's JSON, as the discovery document defines them, and the counters read from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Required, TypedDict

CANCELLED = 1
"""The ``google.rpc.Code`` of an Operation that was cancelled."""


#: JSON has no int64: the API writes strings, and readers of proto3 JSON accept numbers as well.
Int64 = str | int


class ProgressCounter(TypedDict, total=False):
    """``ProgressCounter`` of the API: each counter is left out when zero."""

    success: Int64
    failure: Int64
    pending: Int64
    secondarySuccess: Int64
    secondaryFailure: Int64


class OperationMetadata(TypedDict, total=False):
    """``OperationMetadata`` of the API."""

    apiMethodName: str
    createTime: str
    endTime: str
    logsUrl: str
    cancelRequested: bool
    counter: ProgressCounter


class Status(TypedDict, total=False):
    """``Status`` of the API."""

    code: int
    message: str
    details: list[dict[str, object]]


class Operation(TypedDict, total=False):
    """``Operation`` of the API; an Operation with a name and nothing else is running."""

    name: Required[str]
    done: bool
    error: Status
    response: dict[str, object]
    metadata: OperationMetadata


class OperationPage(TypedDict, total=False):
    """``ListOperationsResponse`` of the API."""

    operations: list[Operation]
    nextPageToken: str


class DicomStore(TypedDict, total=False):
    """``DicomStore`` of the API."""

    name: str
    labels: dict[str, str]
    notificationConfig: dict[str, object]
    notificationConfigs: list[dict[str, object]]
    streamConfigs: list[dict[str, object]]


class DicomStoreMetrics(TypedDict, total=False):
    """``DicomStoreMetrics`` of the API: each number is left out when zero."""

    name: str
    studyCount: Int64
    seriesCount: Int64
    instanceCount: Int64
    structuredStorageSizeBytes: Int64
    blobStorageSizeBytes: Int64


class DicomStorePage(TypedDict, total=False):
    """``ListDicomStoresResponse`` of the API."""

    dicomStores: list[DicomStore]
    nextPageToken: str


class GrantedPermissions(TypedDict, total=False):
    """``TestIamPermissionsResponse`` of the API."""

    permissions: list[str]


#: One match of a search in the DICOM JSON model; the keys are tags of eight hexadecimal digits.
DicomJson = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Counters:
    """
    The progress of an Operation in instances.

    :param success: instances exported.
    :param failure: instances that could not be exported.
    :param pending: instances still to export.
    """

    success: int = 0
    failure: int = 0
    pending: int = 0

    @classmethod
    def of(cls, operation: Operation) -> Counters:
        """
        Read the counters of an Operation.

        :param operation: the Operation as the API returned it.
        :raises ValueError: if the counters are not readable.
        """
        try:
            counter = operation.get("metadata", {}).get("counter", {})
            return cls(
                success=int(counter.get("success", 0)),
                failure=int(counter.get("failure", 0)),
                pending=int(counter.get("pending", 0)),
            )
        except (AttributeError, TypeError, ValueError, OverflowError):
            # Unreadable counters must not count as zero: failed instances would become a success.
            raise ValueError("The Operation holds no readable counters.") from None

    @property
    def done(self) -> int:
        """Instances that the Operation has dealt with, exported or failed."""
        return self.success + self.failure

    @property
    def total(self) -> int:
        """All instances of the Operation, as far as the API knows them."""
        return self.done + self.pending

    def __str__(self) -> str:
        return f"{self.success} exported, {self.failure} failed, {self.pending} pending"


def is_cancelled(operation: Operation) -> bool:
    """
    Tell whether an Operation ended because it was cancelled.

    :param operation: the Operation as the API returned it.
    """
    return operation.get("error", {}).get("code") == CANCELLED
