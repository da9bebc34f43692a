"""A thin client of the local Healthcare API's control endpoints (``/_emulator``)."""

from __future__ import annotations

from typing import Any

from rig.servers import loopback_session

Json = dict[str, Any]


class Control:
    """Controls one local Healthcare API: settings, held exports, faults, and the log of requests.

    :param url: address of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = loopback_session()

    def settings(self, **changes: Any) -> Json:
        """Change the given settings and return all of them."""
        if not changes:
            return self._call("GET", "settings")
        return self._call("PATCH", "settings", changes)

    def step(self, operation: str | None = None, instances: int | None = None) -> Json:
        """Let held exports write a number of further instances (None: all), and return the Operations."""
        return self._call("POST", "step", {"operation": operation, "instances": instances})

    def fault(self, route: str, **fault: Any) -> str:
        """Inject a fault into a route, and return the id of the fault."""
        return str(self._call("POST", "faults", {"route": route, **fault})["id"])

    def faults(self) -> Json:
        """Return the faults, each with the number of times that it has fired."""
        return self._call("GET", "faults")

    def remove_fault(self, identifier: str) -> None:
        """Remove one fault."""
        self._call("DELETE", f"faults/{identifier}")

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._call("DELETE", "faults")

    def exports(self) -> Json:
        """Return the accepted exports with their requests, states and logs."""
        return self._call("GET", "exports")

    def imports(self) -> Json:
        """Return the accepted imports with their requests, states and logs."""
        return self._call("GET", "imports")

    def deliveries(self) -> Json:
        """Return what was streamed to BigQuery and published to Pub/Sub, and what failed."""
        return self._call("GET", "deliveries")

    def operation_state(self, name: str) -> str:
        """Return the state of an Operation in the API: RUNNING, SUCCEEDED, CANCELLED or FAILED."""
        operation = self._session.get(f"{self.url}/v1/{name}", timeout=30).json()
        if not operation.get("done"):
            return "RUNNING"
        return {None: "SUCCEEDED", 1: "CANCELLED"}.get(operation.get("error", {}).get("code"), "FAILED")

    def requests(self) -> Json:
        """Return the numbers of requests, and the latest requests."""
        return self._call("GET", "requests")

    def reset_requests(self) -> None:
        """Empty the log of requests."""
        self._call("DELETE", "requests")

    def tokens(self, valid: list[str] | None) -> None:
        """Accept only these access tokens; None accepts all."""
        self._call("POST", "tokens", {"valid": valid})

    def _call(self, method: str, path: str, body: Json | None = None) -> Json:
        response = self._session.request(method, f"{self.url}/_emulator/{path}", json=body, timeout=120)
        if not response.ok:
            raise RuntimeError(f"{method} /_emulator/{path} answered {response.status_code}: {response.text}")
        answer: Json = response.json() if response.content else {}
        return answer
