"""What can be set while the server runs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt


class OperationError(BaseModel):
    """The ``google.rpc.Status`` that exports are to end in."""

    model_config = ConfigDict(extra="forbid")

    code: PositiveInt
    message: str


class Settings(BaseModel):
    """How exports advance, and what stands in their way.

    :param advance: ``time``: in the background; ``manual``: only when stepped; ``immediate``: before the
        request that submits them is answered.
    :param seconds_per_instance: the least time from one instance to the next.
    :param start_delay_seconds: from the submission to the first instance.
    :param max_running_exports: more than these wait their turn.
    :param export_quota: with as many unfinished operations, further ones are refused with a 429.
    :param failing_instances: SOPInstanceUIDs that cannot be exported.
    :param operation_error: what the next exports end in.
    :param denied_permissions: IAM permissions that the caller lacks, such as ``healthcare.operations.list``.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    advance: Literal["time", "manual", "immediate"] = "time"
    seconds_per_instance: NonNegativeFloat = 0.0
    start_delay_seconds: NonNegativeFloat = 0.0
    max_running_exports: PositiveInt = 5
    export_quota: NonNegativeInt | None = None
    failing_instances: frozenset[str] = frozenset()
    operation_error: OperationError | None = None
    denied_permissions: frozenset[str] = Field(default=frozenset())
