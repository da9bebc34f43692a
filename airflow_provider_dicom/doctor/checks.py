"""
What the doctor checks on the machine where it runs.

Invariants:

- Nothing is changed: the requests are a HEAD of the endpoint, a get of the DICOM store, and questions about
  permissions. Nothing is repeated, because a person waits.
- No finding holds a secret: settings that may be one are named, never shown. Findings are the provider's own
  sentences; the texts of others' exceptions are left out.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from airflow_provider_dicom import __version__
from airflow_provider_dicom.api import environment
from airflow_provider_dicom.api.endpoint import EMULATOR_HOST, REMOTE_EMULATOR_HOSTS
from airflow_provider_dicom.exceptions import DicomExportError, DicomExportInvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

    Check = Callable[["Target"], Iterator["Finding"]]

DISTRIBUTION = "airflow-provider-dicom"
PLUGIN = "dicom_export"
#: What the behaviour depends on, besides the provider itself.
DEPENDENCIES = (
    "apache-airflow",
    "apache-airflow-providers-google",
    "apache-airflow-providers-common-compat",
    "apache-airflow-providers-openlineage",
    "google-auth",
    "google-cloud-storage",
    "google-cloud-bigquery",
    "aiohttp",
    "requests",
)
#: Variables that say where requests go, and hold no secret.
SHOWN_VARIABLES = (
    EMULATOR_HOST,
    REMOTE_EMULATOR_HOSTS,
    "STORAGE_EMULATOR_HOST",
    "BIGQUERY_EMULATOR_HOST",
    "GOOGLE_CLOUD_UNIVERSE_DOMAIN",
    "GOOGLE_CLOUD_PROJECT",
    "NO_PROXY",
    *environment.CA_VARIABLES,
)
#: Variables that may hold a secret, or the way to one: only that they are set is told.
NAMED_VARIABLES = ("GOOGLE_APPLICATION_CREDENTIALS", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
#: Google refuses tokens and signatures of clocks that are wrong by more than a few minutes, in seconds.
MAX_CLOCK_ERROR = 60.0
#: The longest wait for the endpoint, in seconds.
REACH_TIMEOUT = 20.0


class Mark(Enum):
    """What a finding means."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "PROBLEM"


class Finding(NamedTuple):
    """A line of the report."""

    mark: Mark
    subject: str
    text: str


@dataclass(frozen=True)
class Target:
    """
    The connection and the DICOM store that are checked; the parameters of the operators.

    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or several, separated by commas.
    :param api_endpoint: another endpoint than Google's.
    :param project_id: the store's project; the connection's if not given.
    :param location: the store's location; the connection's if not given.
    :param dataset_id: the store's dataset; the connection's if not given.
    :param dicom_store_id: the store's id; the connection's if not given.
    """

    gcp_conn_id: str = "google_cloud_default"
    impersonation_chain: str | None = None
    api_endpoint: str | None = None
    project_id: str | None = None
    location: str | None = None
    dataset_id: str | None = None
    dicom_store_id: str | None = None

    def hook(self) -> DicomStoreHook:
        """
        Build the hook, which loads the connection.

        :raises DicomExportInvalidRequestError: if there is no such connection.
        """
        from airflow.providers.common.compat.sdk import AirflowNotFoundException

        from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

        chain = self.impersonation_chain.split(",") if self.impersonation_chain else None
        try:
            return DicomStoreHook(self.gcp_conn_id, chain, self.api_endpoint)
        except AirflowNotFoundException:
            raise DicomExportInvalidRequestError(
                f"Airflow has no connection {self.gcp_conn_id!r} on this machine. Add it in "
                f"Admin > Connections, or set AIRFLOW_CONN_{self.gcp_conn_id.upper()}; on a worker "
                "without access to Airflow's database, only the environment and secrets backends are read."
            ) from None


def check_versions(_: Target) -> Iterator[Finding]:
    """
    Tell the versions of the provider, and of what it depends on.

    :param _: not used.
    """
    installed = _version(DISTRIBUTION)
    if installed in (None, __version__):
        yield Finding(Mark.OK, DISTRIBUTION, __version__)
    else:
        yield Finding(
            Mark.PROBLEM,
            DISTRIBUTION,
            f"{__version__} is imported, but {installed} is installed: another copy comes first in sys.path",
        )
    for name in DEPENDENCIES:
        if found := _version(name):
            yield Finding(Mark.NOTE, name, found)
    yield Finding(Mark.NOTE, "Python", f"{platform.python_version()} on {platform.system()}")


def check_airflow(_: Target) -> Iterator[Finding]:
    """
    Tell what Airflow knows of the provider, and which of its features depend on Airflow's settings.

    :param _: not used.
    """
    from airflow import plugins_manager
    from airflow.configuration import conf
    from airflow.providers_manager import ProvidersManager

    from airflow_provider_dicom.compat import HAS_TASK_STATE, HAS_TASK_VIEWS

    known = ProvidersManager().providers.get(DISTRIBUTION)
    if known is None:
        yield Finding(Mark.PROBLEM, "provider", "Airflow does not list it; is the package installed here?")
    else:
        yield Finding(Mark.OK, "provider", f"Airflow lists it, version {known.version}")
    count = [plugin["name"] for plugin in plugins_manager.get_plugin_info(["name"])].count(PLUGIN)
    if not HAS_TASK_VIEWS:
        yield Finding(Mark.NOTE, "tab", "this Airflow cannot show it; it needs Airflow 3.1")
    elif count == 1:
        yield Finding(Mark.OK, "tab", f"the plugin {PLUGIN} is loaded")
    else:
        yield Finding(Mark.PROBLEM, "tab", f"the plugin {PLUGIN} is loaded {count} times instead of once")
    if not HAS_TASK_STATE:
        yield Finding(Mark.NOTE, "task state", "this Airflow keeps none: retries do not re-attach")
    elif conf.getboolean("state_store", "clear_on_success", fallback=False):
        yield Finding(
            Mark.NOTE,
            "task state",
            "kept, but forgotten after success ([state_store] clear_on_success): later tries of "
            "WRITE_APPEND are refused",
        )
    else:
        yield Finding(Mark.OK, "task state", "kept: retries re-attach")
    yield Finding(Mark.NOTE, "executor", conf.get("core", "executor"))
    yield _triggerer()


def _triggerer() -> Finding:
    from airflow.jobs.job import most_recent_job

    try:
        job = most_recent_job("TriggererJob")
    except Exception as error:  # this machine may have no access to Airflow's database
        return Finding(
            Mark.NOTE, "triggerer", f"not known: no access to the database ({type(error).__name__})"
        )
    if job is None:
        return Finding(Mark.PROBLEM, "triggerer", "none has ever run: deferred tasks wait for ever")
    if not job.is_alive():
        return Finding(Mark.PROBLEM, "triggerer", "none is alive: deferred tasks wait for one")
    return Finding(Mark.OK, "triggerer", "one is alive")


def check_environment(_: Target) -> Iterator[Finding]:
    """
    Tell which variables of the environment decide where requests go.

    :param _: not used.
    """
    for name in SHOWN_VARIABLES:
        if value := os.environ.get(name):
            yield Finding(Mark.NOTE, name, f"...@{value.rpartition('@')[2]}" if "@" in value else value)
    for name in NAMED_VARIABLES:
        if os.environ.get(name) or os.environ.get(name.lower()):
            yield Finding(Mark.NOTE, name, "set")
    if os.environ.get(EMULATOR_HOST) and not os.environ.get("STORAGE_EMULATOR_HOST"):
        yield Finding(
            Mark.NOTE,
            "STORAGE_EMULATOR_HOST",
            f"not set, but {EMULATOR_HOST} is: filter files and checks go to Google's Cloud Storage",
        )


def check_connection(target: Target) -> Iterator[Finding]:
    """
    Tell whose credentials the connection yields, without showing any of its settings that may be secret.

    :param target: the connection.
    """
    with target.hook() as hook:
        connection = hook.get_connection(target.gcp_conn_id)
        yield Finding(Mark.OK, target.gcp_conn_id, f"found, of type {connection.conn_type}")
        given = hook.credential_settings
        yield Finding(
            Mark.NOTE, "credentials", f"from {', '.join(given) or 'the default credentials of this machine'}"
        )
        if hook.endpoint.anonymous:
            yield Finding(Mark.NOTE, "account", "none: a local Healthcare API needs no credentials")
            return
        _ = hook.credentials
        yield Finding(Mark.OK, "account", hook.caller or "not known before the first token")
        project = target.project_id or hook.default_project_id()
        yield Finding(Mark.OK if project else Mark.NOTE, "project", project or "none; name it in the DAG")


def check_network(target: Target) -> Iterator[Finding]:
    """
    Tell the endpoint, the way to it, and whether its clock agrees with this machine's.

    :param target: the connection.
    """
    from airflow_provider_dicom.api.sync_session import BoundedSession, Exchange

    with target.hook() as hook:
        url = hook.endpoint.url
        yield Finding(
            Mark.NOTE, "endpoint", url + (" without credentials" if hook.endpoint.anonymous else "")
        )
    proxy = environment.proxy_for(url)
    yield Finding(Mark.NOTE, "proxy", "none" if proxy is None else (urlsplit(proxy).hostname or "unknown"))
    yield Finding(Mark.NOTE, "CAs", environment.ca_bundle())
    with BoundedSession() as session, Exchange(REACH_TIMEOUT, 1024 * 1024):
        before = time.time()
        try:
            answer = session.head(url, allow_redirects=False, timeout=REACH_TIMEOUT)
        except Exception as error:  # of the HTTP library, of the proxy or of TLS
            yield Finding(Mark.PROBLEM, "answer", _cause(error))
            return
        after = time.time()
    yield Finding(Mark.OK, "answer", f"HTTP {answer.status_code} in {after - before:.1f} s")
    yield _clock(answer.headers.get("Date"), before, after)


def _cause(error: Exception) -> str:
    """Return the class and the innermost cause of an exception, which quotes nothing but the server."""
    inner = error
    while (cause := inner.__cause__ or inner.__context__) is not None and isinstance(cause, Exception):
        inner = cause
    names = " of ".join(dict.fromkeys((type(inner).__name__, type(error).__name__)))
    text = str(inner) if isinstance(inner, (OSError, DicomExportError)) else ""
    return f"none ({names}{': ' if text else ''}{text})"


def _clock(date: str | None, before: float, after: float) -> Finding:
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return Finding(Mark.NOTE, "clock", "not compared: the answer has no date")
    # The header has whole seconds.
    error = max(0.0, before - theirs - 1, theirs - after)
    if error > MAX_CLOCK_ERROR:
        return Finding(
            Mark.PROBLEM,
            "clock",
            f"differs by {error:.0f} s from the endpoint's: synchronize it, or Google refuses tokens, and "
            "deadlines and records are wrong",
        )
    return Finding(Mark.OK, "clock", "agrees with the endpoint's")


def check_store(target: Target) -> Iterator[Finding]:
    """
    Read the DICOM store, and tell which permissions the account lacks, with the commands that grant them.

    :param target: the connection and the DICOM store.
    """
    from airflow_provider_dicom.hooks._roles import check_roles

    with target.hook() as hook:
        try:
            store = hook.dicom_store_name(
                target.location, target.dataset_id, target.dicom_store_id, target.project_id
            )
        except DicomExportInvalidRequestError as error:
            yield Finding(
                Mark.NOTE,
                "not checked",
                f"{error} Name the DICOM store: --location, --dataset-id, --dicom-store-id, --project-id",
            )
            return
        allowed, text = check_roles(hook, store)
        yield Finding(Mark.OK if allowed else Mark.PROBLEM, "DICOM store", text)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


CHECKS: dict[str, Check] = {
    "Versions": check_versions,
    "Airflow": check_airflow,
    "Environment": check_environment,
    "Connection": check_connection,
    "Network": check_network,
    "Roles": check_store,
}
