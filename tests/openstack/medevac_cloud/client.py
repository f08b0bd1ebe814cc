"""The cases' own view of the cloud: plain HTTP to Keystone, Nova and Glance.

It speaks to the services themselves, never through the fault proxy, and from
inside the cloud's namespace, so that no cut cable and no fault blinds the test
as well. A socket belongs to the namespace in which it was made, for ever; only
the making needs a visit.
"""

import contextlib
import http.client
import json
import os
import socket
import threading
from pathlib import Path

from medevac_lab import procs

from . import plan

# An ordinary answer takes 0.1 s; disabling a host that is dead but not yet
# known to be down takes Nova a minute, and that is worth seeing in a test.
TIMEOUT_S = 90.0
_OWN = "/proc/thread-self/ns/net"


def connect(namespace: Path, address: str, port: int, timeout: float) -> socket.socket:
    """A connection made inside a network namespace; only this thread visits it."""
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        procs.setns(namespace, procs.CLONE_NEWNET)
        try:
            link = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            procs.setns(f"/proc/self/fd/{home}", procs.CLONE_NEWNET)
    finally:
        os.close(home)
    link.settimeout(timeout)
    try:
        link.connect((address, port))
    except OSError:
        link.close()
        raise
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


class ApiError(Exception):
    """An answer of 400 or more."""

    def __init__(self, method: str, url: str, status: int, body):
        super().__init__(f"{method} {url} -> {status}: {body}")
        self.status, self.body = status, body

    @property
    def message(self) -> str:
        """Nova wraps it in one key that names the kind."""
        inner = next(iter(self.body.values()), {}) if isinstance(self.body, dict) else {}
        return inner.get("message", "") if isinstance(inner, dict) else str(self.body)


class Answer:
    """One answer: status, headers by lower-case name, body as JSON where it is."""

    def __init__(self, reply: http.client.HTTPResponse):
        text = reply.read()
        self.status = reply.status
        self.headers = {name.lower(): value for name, value in reply.getheaders()}
        try:
            self.body = json.loads(text) if text else None
        except ValueError:
            self.body = text.decode(errors="replace")


class Client:
    """HTTP from inside one namespace; safe to use from several threads."""

    def __init__(self, lab: Path, namespace: str = plan.NAMESPACE):
        self.namespace = lab / "netns" / namespace
        self._token, self._lock = "", threading.Lock()
        self.timeout = TIMEOUT_S

    def raw(
        self, method: str, url: str, body=None, headers: dict | None = None, timeout: float = 0, data: bytes = b""
    ) -> Answer:
        """One request on a connection of its own."""
        timeout = timeout or self.timeout
        host, _, path = url.removeprefix("http://").partition("/")
        address, port = host.split(":")
        given = {"Accept": "application/json", **(headers or {})}
        if body is not None:
            data = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        link = http.client.HTTPConnection(address, int(port), timeout=timeout)
        with contextlib.closing(link):
            link.sock = connect(self.namespace, address, int(port), timeout)
            link.request(method, f"/{path}", data or None, given)
            return Answer(link.getresponse())

    def login(
        self, user: str = "admin", password: str = plan.PASSWORD, project: str = plan.PROJECT, front: bool = False
    ) -> Answer:
        """A token, as Keystone answers it."""
        domain = {"id": "default"}
        identity = {
            "methods": ["password"],
            "password": {"user": {"name": user, "domain": domain, "password": password}},
        }
        body = {"auth": {"identity": identity, "scope": {"project": {"name": project, "domain": domain}}}}
        answer = self.raw("POST", f"{plan.url('keystone', front)}/v3/auth/tokens", body)
        if answer.status != 201:
            raise ApiError("POST", "/v3/auth/tokens", answer.status, answer.body)
        return answer

    def token(self) -> str:
        with self._lock:
            if not self._token:
                self._token = self.login().headers["x-subject-token"]
            return self._token

    def forget_token(self) -> None:
        with self._lock:
            self._token = ""

    def call(
        self, service: str, method: str, path: str, body=None, headers: dict | None = None, data: bytes = b"", ok=True
    ) -> Answer:
        """With a token, renewed once when it is refused; ApiError unless `ok` is false."""
        url = plan.url(service) + path
        for _ in range(2):
            answer = self.raw(method, url, body, {"X-Auth-Token": self.token(), **(headers or {})}, data=data)
            if answer.status != 401:
                break
            self.forget_token()
        if ok and answer.status >= 400:
            raise ApiError(method, url, answer.status, answer.body)
        return answer

    def nova(self, method: str, path: str, body=None, version: str = plan.MICROVERSION, ok=True) -> Answer:
        headers = {"OpenStack-API-Version": f"compute {version}"}
        return self.call("nova-api", method, f"/v2.1{path}", body, headers, ok=ok)

    def upload(self, name: str, kind: str, data: bytes, **properties: str) -> str:
        """A public image of Glance's: raw, or a kernel (aki) or initrd (ari)."""
        container = "bare" if kind == "raw" else kind
        body = {"name": name, "disk_format": kind, "container_format": container, "visibility": "public", **properties}
        image = self.call("glance", "POST", "/v2/images", body).body["id"]
        octets = {"Content-Type": "application/octet-stream"}
        self.call("glance", "PUT", f"/v2/images/{image}/file", headers=octets, data=data)
        return image


def listens(lab: Path, port: int, address: str = plan.ADDRESS, namespace: str = plan.NAMESPACE) -> bool:
    """True when something takes connections there."""
    with contextlib.suppress(OSError):
        connect(lab / "netns" / namespace, address, port, 1.0).close()
        return True
    return False


__all__ = ["Answer", "ApiError", "Client", "connect", "listens"]
