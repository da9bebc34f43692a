"""
Retries of single requests, and the backoff while a quota is exhausted; the sync and the async hook share
both.

An idempotent request is repeated after every transient error. A request that is not idempotent, such as the
submission of an export, is repeated only after an error that is ``safe_to_resend``: the server certainly did
not process it. Pauses follow exponential backoff with jitter, and are never shorter than the server's
``Retry-After``. A submission that is refused for a quota beyond these retries pauses the task
(``operators/_submitting.py``).
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, TypedDict

import tenacity

from airflow_provider_dicom.exceptions import DicomExportTransientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

    from airflow_provider_dicom.api.methods import ApiRequest

log = logging.getLogger(__name__)

#: The first and the longest pause between two attempts of one request, in seconds.
BACKOFF_INITIAL = 1.0
BACKOFF_MAX = 60.0
#: The first and the longest pause between two submissions while a quota is exhausted, in seconds; Airflow
#: cannot defer a task for much less than the first one.
QUOTA_BACKOFF_INITIAL = 30.0
QUOTA_BACKOFF_MAX = 300.0


class RetryOptions(TypedDict):
    """Arguments of both ``tenacity.Retrying`` and ``tenacity.AsyncRetrying``."""

    retry: Callable[[tenacity.RetryCallState], bool]
    stop: stop_base
    wait: wait_base
    before_sleep: Callable[[tenacity.RetryCallState], None]
    reraise: bool


class Backoff(tenacity.wait.wait_base):
    """Exponential backoff with jitter, never shorter than the server's ``Retry-After``."""

    def __init__(self) -> None:
        self._exponential = tenacity.wait_exponential_jitter(
            initial=BACKOFF_INITIAL, max=BACKOFF_MAX, jitter=BACKOFF_INITIAL
        )

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        retry_after = getattr(_error(retry_state), "retry_after", None) or 0.0
        return max(self._exponential(retry_state), retry_after)


def _error(retry_state: tenacity.RetryCallState) -> BaseException | None:
    return retry_state.outcome.exception() if retry_state.outcome else None


def retry_options(request: ApiRequest, num_retries: int) -> RetryOptions:
    """
    Return the retry policy of a request.

    :param request: the request.
    :param num_retries: the number of repetitions after the first attempt.
    """

    def may_repeat(error: BaseException) -> bool:
        if not isinstance(error, DicomExportTransientError):
            return False
        return request.idempotent or error.safe_to_resend

    def log_retry(retry_state: tenacity.RetryCallState) -> None:
        pause = retry_state.next_action.sleep if retry_state.next_action else 0.0
        log.warning("%s. Trying again in %.1f s.", _error(retry_state), pause)

    return {
        "retry": tenacity.retry_if_exception(may_repeat),
        "stop": tenacity.stop_after_attempt(num_retries + 1),
        "wait": Backoff(),
        "before_sleep": log_retry,
        "reraise": True,
    }


def quota_backoff(attempt: int, retry_after: float | None) -> float:
    """
    Return the pause before the next submission while a quota is exhausted, in seconds.

    :param attempt: the number of pauses before this one.
    :param retry_after: the server's ``Retry-After``, in seconds.
    """
    backoff: float = min(QUOTA_BACKOFF_INITIAL * 2.0 ** min(attempt, 10), QUOTA_BACKOFF_MAX)
    # Jitter: tasks that were refused together must not return together.
    return max(backoff, retry_after or 0.0) * random.uniform(1.0, 1.5)  # noqa: S311 - not for secrets
