"""Names that stand in different places in the Airflow versions supported, and not in common-compat."""

from __future__ import annotations

try:
    from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
except ImportError:  # Airflow 2
    from airflow.exceptions import (  # type: ignore[no-redef]
        TaskDeferralError,
        TaskDeferralTimeout,
    )

__all__ = ["TaskDeferralError", "TaskDeferralTimeout"]
