"""Settings that tests change while the server runs, through ``PATCH /_emulator/settings``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt


class OperationError(BaseModel):
    """The ``google.rpc.Status`` with which exports fail.

    :param code: the number of the ``google.rpc.Code``.
    :param message: the error message.
    """

    model_config = ConfigDict(extra="forbid")

    code: PositiveInt
    message: str


class Settings(BaseModel):
    """How fast exports advance, how they fail, and where the server is less strict than Google's API.

    :param advance: ``time``: in the background; ``manual``: only through ``POST /_emulator/step``;
        ``immediate``: the export completes before the response to its submission is sent.
    :param seconds_per_instance: minimum seconds from one instance to the next.
    :param start_delay_seconds: seconds from the submission to the first instance.
    :param max_running_exports: exports that run at the same time; further ones are queued.
    :param export_quota: number of unfinished exports from which on submissions get HTTP 429; null: no limit.
    :param failing_instances: SOPInstanceUIDs of the instances whose export fails, or such UIDs with the
        messages of their errors.
    :param operation_error: the error of every export that completes while it is set; null: exports succeed.
    :param partial_failure: what an operation has at its end if some instances failed: a ``response``, an
        ``error``, or ``both``. Google's pages show it with either; both are against the API's own document.
    :param log_lag_seconds: how long after an error Cloud Logging lists its entry.
    :param max_log_entries: the number of errors of one operation that Cloud Logging lists at most.
    :param denied_permissions: IAM permissions that the caller lacks, such as ``healthcare.operations.list``.
    :param missing_dataset_status: the HTTP status for a dataset that does not exist, and for all that would
        be in it. Google's is 403, as for a dataset that the caller may not see.
    :param create_missing_datasets: creating a DICOM store creates its dataset, which Google's API refuses.
    :param any_search: searches take what Google's API refuses, or what nobody has seen it accept: all
        attributes, wildcards, lists of UIDs in one value.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    advance: Literal["time", "manual", "immediate"] = "time"
    seconds_per_instance: NonNegativeFloat = 0.0
    start_delay_seconds: NonNegativeFloat = 0.0
    max_running_exports: PositiveInt = 5
    export_quota: NonNegativeInt | None = None
    failing_instances: frozenset[str] | dict[str, str] = frozenset()
    operation_error: OperationError | None = None
    partial_failure: Literal["response", "error", "both"] = "response"
    log_lag_seconds: NonNegativeFloat = 0.0
    max_log_entries: NonNegativeInt = 1000
    denied_permissions: frozenset[str] = Field(default=frozenset())
    missing_dataset_status: Literal[403, 404] = 403
    create_missing_datasets: bool = False
    any_search: bool = False

    def widen(self) -> None:
        """Make the server less strict than Google's API, wherever that is a setting."""
        self.missing_dataset_status, self.create_missing_datasets, self.any_search = 404, True, True
