"""When a request is sent again, and after which pause; the sync and the async hook share it."""

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

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
#: Between two submissions while a quota is used up, in seconds; no shorter than Airflow needs for a deferral.
FIRST_TURN = 30.0
LONGEST_TURN = 300.0


class RetryOptions(TypedDict):
    """What ``tenacity.Retrying`` and ``tenacity.AsyncRetrying`` both take."""

    retry: Callable[[tenacity.RetryCallState], bool]
    stop: stop_base
    wait: wait_base
    before_sleep: Callable[[tenacity.RetryCallState], None]
    reraise: bool


class WaitAsAsked(tenacity.wait.wait_base):
    """Exponential pauses with jitter, never shorter than the server's ``Retry-After``."""

    def __init__(self) -> None:
        self._usual = tenacity.wait_exponential_jitter(
            initial=FIRST_PAUSE, max=LONGEST_PAUSE, jitter=FIRST_PAUSE
        )

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        asked = getattr(_error(retry_state), "retry_after", None) or 0.0
        return max(self._usual(retry_state), asked)


def _error(retry_state: tenacity.RetryCallState) -> BaseException | None:
    return retry_state.outcome.exception() if retry_state.outcome else None


def retry_options(request: ApiRequest, num_retries: int) -> RetryOptions:
    """
    Decide how a request is repeated.

    A submission has no request id, so it is repeated only when the server certainly did not accept it.

    :param request: the request.
    :param num_retries: how often it may be repeated.
    """

    def may_repeat(error: BaseException) -> bool:
        if not isinstance(error, DicomExportTransientError):
            return False
        return error.not_accepted or request.export is None

    def tell(retry_state: tenacity.RetryCallState) -> None:
        pause = retry_state.next_action.sleep if retry_state.next_action else 0.0
        log.warning("%s. Trying again in %.1f s.", _error(retry_state), pause)

    return {
        "retry": tenacity.retry_if_exception(may_repeat),
        "stop": tenacity.stop_after_attempt(num_retries + 1),
        "wait": WaitAsAsked(),
        "before_sleep": tell,
        "reraise": True,
    }


def turn_pause(turn: int, retry_after: float | None) -> float:
    """
    Choose for how long to wait until a quota that is used up has room again, in seconds.

    :param turn: how often that was waited for already.
    :param retry_after: what the server asked for, in seconds.
    """
    usual: float = min(FIRST_TURN * 2.0 ** min(turn, 10), LONGEST_TURN)
    # Those who were refused together must not come back together.
    return max(usual, retry_after or 0.0) * random.uniform(1.0, 1.5)  # noqa: S311 - not for secrets
