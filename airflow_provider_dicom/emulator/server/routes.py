"""Which URL is which method of the API, and what that means here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_dicom.emulator.handlers import dicom_stores
from airflow_provider_dicom.emulator.server import dicomweb
from airflow_provider_dicom.emulator.server.discovery import Method, methods

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.messages import Handler

UNKNOWN = "unknown"

#: Methods that faults and counters know by a short name; the others by the part after ``datasets.``.
_NAMES = {
    "datasets.dicomStores.export": "export",
    "datasets.dicomStores.get": "stores.get",
    "datasets.dicomStores.list": "stores.list",
    "datasets.dicomStores.create": "stores.create",
    "datasets.dicomStores.patch": "stores.patch",
    "datasets.dicomStores.delete": "stores.delete",
    "datasets.dicomStores.getDICOMStoreMetrics": "metrics",
    "datasets.dicomStores.testIamPermissions": "testIamPermissions",
    "datasets.testIamPermissions": "testIamPermissions",
    "datasets.operations.get": "operations.get",
    "datasets.operations.list": "operations.list",
    "datasets.operations.cancel": "operations.cancel",
}
#: DICOMweb methods by the beginning of the last part of their ids.
_DICOMWEB_NAMES = {"search": "search", "store": "store", "retrieve": "retrieve", "delete": "delete"}

#: What each needs, by its name here (the API's table of roles and permissions).
PERMISSIONS = {
    "export": "healthcare.dicomStores.export",
    "operations.get": "healthcare.operations.get",
    "operations.list": "healthcare.operations.list",
    "operations.cancel": "healthcare.operations.cancel",
    "stores.get": "healthcare.dicomStores.get",
    "stores.list": "healthcare.dicomStores.list",
    "stores.create": "healthcare.dicomStores.create",
    "stores.patch": "healthcare.dicomStores.update",
    "stores.delete": "healthcare.dicomStores.delete",
    "metrics": "healthcare.dicomStores.getDICOMStoreMetrics",
    "search": "healthcare.dicomStores.dicomWebRead",
    "retrieve": "healthcare.dicomStores.dicomWebRead",
    "store": "healthcare.dicomStores.dicomWebWrite",
    "delete": "healthcare.dicomStores.dicomWebDelete",
}


@dataclass(frozen=True)
class Route:
    """A method of the API as it is found here.

    :param name: what faults and counters call it.
    :param handler: what carries it out; None if this server does not.
    """

    name: str
    method: Method
    handler: Handler | None


def _name(identifier: str) -> str:
    if identifier in _NAMES:
        return _NAMES[identifier]
    if identifier in dicomweb.HANDLERS:
        last = identifier.rsplit(".", 1)[1]
        return next(name for start, name in _DICOMWEB_NAMES.items() if last.startswith(start))
    return identifier.removeprefix("datasets.")


#: What is asked for thousands of times.
_HOT = frozenset({"datasets.operations.get", "datasets.operations.list"})


def _routes() -> list[Route]:
    handlers = {**dicom_stores.HANDLERS, **dicomweb.HANDLERS}

    def rank(identifier: str) -> tuple[bool, bool]:
        # An id may hold a colon, so a path with a verb (":export") is also one without: verbs come first.
        has_verb = ":" in methods()[identifier].path.pattern.rpartition(")")[2]
        return identifier not in _HOT, not has_verb

    return [
        Route(_name(identifier), methods()[identifier], handlers.get(identifier))
        for identifier in sorted(methods(), key=rank)
    ]


ROUTES = _routes()
NAMES = frozenset(route.name for route in ROUTES)


@dataclass(frozen=True)
class Target:
    """What a request calls.

    :param names: the variables of the URL's path, such as ``name`` or ``parent``.
    """

    route: Route
    names: dict[str, str]

    def denial(self) -> str:
        """Return what Google's APIs say to a caller who lacks the permission that this needs."""
        permission = PERMISSIONS.get(self.route.name, f"healthcare.{self.route.name}")
        resource = next(iter(self.names.values()), "")
        return (
            f"Permission '{permission}' denied on resource '//healthcare.googleapis.com/{resource}' "
            "(or it may not exist)."
        )


def find(http_method: str, path: str) -> Target | None:
    """Return what a request calls, if it is a method of the API."""
    for route in ROUTES:
        if route.method.http_method == http_method and (match := route.method.path.fullmatch(path)):
            return Target(route, match.groupdict())
    return None
