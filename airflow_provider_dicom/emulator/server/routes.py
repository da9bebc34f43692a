"""The routes: which URL is which method of the API, and which handler executes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_dicom.emulator.handlers import (
    datasets,
    dicom_stores,
    iam,
    log_entries,
    operations,
    qido,
    stow,
    wado,
)
from airflow_provider_dicom.emulator.names import API_VERSIONS, dataset_of
from airflow_provider_dicom.emulator.server.discovery import Method, entries_list, methods

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.handlers.call import Handler

#: The name, for faults and the log of requests, of requests that are no method of the API.
UNKNOWN = "unknown"

_STORES = "datasets.dicomStores"
_STUDIES = f"{_STORES}.studies"
_SERIES = f"{_STUDIES}.series"
_INSTANCES = f"{_SERIES}.instances"
#: The methods that this server has: id in the discovery document -> route name, handler.
_HANDLED: dict[str, tuple[str, Handler]] = {
    "datasets.create": ("datasets.create", datasets.create_dataset),
    "datasets.list": ("datasets.list", datasets.list_datasets),
    "datasets.get": ("datasets.get", datasets.get_dataset),
    "datasets.patch": ("datasets.patch", datasets.update_dataset),
    "datasets.delete": ("datasets.delete", datasets.delete_dataset),
    "datasets.testIamPermissions": ("testIamPermissions", dicom_stores.test_permissions),
    "datasets.getIamPolicy": ("datasets.getIamPolicy", iam.get_policy),
    "datasets.setIamPolicy": ("datasets.setIamPolicy", iam.set_policy),
    "datasets.operations.get": ("operations.get", operations.get_operation),
    "datasets.operations.list": ("operations.list", operations.list_operations),
    "datasets.operations.cancel": ("operations.cancel", operations.cancel_operation),
    f"{_STORES}.export": ("export", dicom_stores.export),
    f"{_STORES}.import": ("import", dicom_stores.import_instances),
    f"{_STORES}.create": ("stores.create", dicom_stores.create_store),
    f"{_STORES}.list": ("stores.list", dicom_stores.list_stores),
    f"{_STORES}.get": ("stores.get", dicom_stores.get_store),
    f"{_STORES}.patch": ("stores.patch", dicom_stores.update_store),
    f"{_STORES}.delete": ("stores.delete", dicom_stores.delete_store),
    f"{_STORES}.testIamPermissions": ("testIamPermissions", dicom_stores.test_permissions),
    f"{_STORES}.getIamPolicy": ("stores.getIamPolicy", iam.get_policy),
    f"{_STORES}.setIamPolicy": ("stores.setIamPolicy", iam.set_policy),
    f"{_STORES}.getDICOMStoreMetrics": ("metrics", dicom_stores.store_metrics),
    f"{_STORES}.dicomWeb.studies.getStudyMetrics": (
        "dicomStores.dicomWeb.studies.getStudyMetrics",
        dicom_stores.study_metrics,
    ),
    f"{_STORES}.dicomWeb.studies.series.getSeriesMetrics": (
        "dicomStores.dicomWeb.studies.series.getSeriesMetrics",
        dicom_stores.series_metrics,
    ),
    f"{_STORES}.searchForStudies": ("search", qido.search_store),
    f"{_STORES}.searchForSeries": ("search", qido.search_store),
    f"{_STORES}.searchForInstances": ("search", qido.search_store),
    f"{_STUDIES}.searchForSeries": ("search", qido.search_store),
    f"{_STUDIES}.searchForInstances": ("search", qido.search_store),
    f"{_SERIES}.searchForInstances": ("search", qido.search_store),
    f"{_STORES}.storeInstances": ("store", stow.store_instances),
    f"{_STUDIES}.storeInstances": ("store", stow.store_instances),
    f"{_STUDIES}.retrieveStudy": ("retrieve", wado.retrieve),
    f"{_STUDIES}.retrieveMetadata": ("retrieve", wado.metadata),
    f"{_SERIES}.retrieveSeries": ("retrieve", wado.retrieve),
    f"{_SERIES}.retrieveMetadata": ("retrieve", wado.metadata),
    f"{_INSTANCES}.retrieveInstance": ("retrieve", wado.retrieve),
    f"{_INSTANCES}.retrieveMetadata": ("retrieve", wado.metadata),
    f"{_STUDIES}.delete": ("delete", wado.delete),
    f"{_SERIES}.delete": ("delete", wado.delete),
    f"{_INSTANCES}.delete": ("delete", wado.delete),
}

#: Route name -> the IAM permission that the method requires (from the API's table of permissions).
PERMISSIONS = {
    "datasets.create": "healthcare.datasets.create",
    "datasets.list": "healthcare.datasets.list",
    "datasets.get": "healthcare.datasets.get",
    "datasets.patch": "healthcare.datasets.update",
    "datasets.delete": "healthcare.datasets.delete",
    "export": "healthcare.dicomStores.export",
    "import": "healthcare.dicomStores.import",
    "operations.get": "healthcare.operations.get",
    "operations.list": "healthcare.operations.list",
    "operations.cancel": "healthcare.operations.cancel",
    "stores.get": "healthcare.dicomStores.get",
    "stores.list": "healthcare.dicomStores.list",
    "stores.create": "healthcare.dicomStores.create",
    "stores.patch": "healthcare.dicomStores.update",
    "stores.delete": "healthcare.dicomStores.delete",
    "stores.getIamPolicy": "healthcare.dicomStores.getIamPolicy",
    "stores.setIamPolicy": "healthcare.dicomStores.setIamPolicy",
    "datasets.getIamPolicy": "healthcare.datasets.getIamPolicy",
    "datasets.setIamPolicy": "healthcare.datasets.setIamPolicy",
    "metrics": "healthcare.dicomStores.getDICOMStoreMetrics",
    "search": "healthcare.dicomStores.dicomWebRead",
    "retrieve": "healthcare.dicomStores.dicomWebRead",
    "store": "healthcare.dicomStores.dicomWebWrite",
    "delete": "healthcare.dicomStores.dicomWebDelete",
    "entries.list": "logging.logEntries.list",
}


@dataclass(frozen=True)
class Route:
    """A route of this server.

    :param name: its name for faults and the log of requests; several methods may share one.
    :param method: the method of the API.
    :param handler: executes the method; None if this server does not have it.
    """

    name: str
    method: Method
    handler: Handler | None


#: These are matched first, because they are polled thousands of times.
_POLLED = frozenset({"datasets.operations.get", "datasets.operations.list"})


def _routes() -> list[Route]:
    def rank(identifier: str) -> tuple[bool, bool]:
        # Ids may contain colons, so that a path with a custom verb (":export") also matches the pattern of a
        # path without one: patterns with a verb are matched first.
        has_verb = ":" in methods()[identifier].path.pattern.rpartition(")")[2]
        return identifier not in _POLLED, not has_verb

    routes = []
    for identifier in sorted(methods(), key=rank):
        name, handler = _HANDLED.get(identifier, (identifier.removeprefix("datasets."), None))
        routes.append(Route(name, methods()[identifier], handler))
    return [*routes, Route("entries.list", entries_list(), log_entries.list_entries)]


ROUTES = _routes()
NAMES = frozenset(route.name for route in ROUTES)


@dataclass(frozen=True)
class Target:
    """The route of a request.

    :param route: the route that matches.
    :param names: the variables of the URL's path, such as ``name`` or ``parent``.
    """

    route: Route
    names: dict[str, str]

    @property
    def dataset(self) -> str | None:
        """The dataset of the resource that the request names; None if it is not in a dataset."""
        name = next(iter(self.names.values()), "")
        return dataset_of(name) if "/datasets/" in name else None

    def denial(self) -> str:
        """Return Google's error message for a caller without the permission that the method requires."""
        permission = PERMISSIONS.get(self.route.name, f"healthcare.{self.route.name}")
        # Cloud Logging names no resource.
        resource = "".join(f" '//healthcare.googleapis.com/{name}'" for name in [*self.names.values()][:1])
        return f"Permission '{permission}' denied on resource{resource} (or it may not exist)."


def find(http_method: str, path: str) -> Target | None:
    """Return the route of a request; None if it is no method of the API.

    :param path: the path of the URL, which begins with one of the API's versions.
    """
    version, _, rest = path.removeprefix("/").partition("/")
    if version in API_VERSIONS:
        path = f"/v1/{rest}"
    for route in ROUTES:
        if route.method.http_method == http_method and (match := route.method.path.fullmatch(path)):
            return Target(route, match.groupdict())
    return None
