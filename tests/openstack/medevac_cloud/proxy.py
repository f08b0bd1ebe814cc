"""Orders to the fault proxy, and what it saw.

    cloud.proxy.cut_after_accept(times=1)              the next evacuate is carried out and never answered
    cloud.proxy.error(503, method="GET")               all reads fail
    cloud.proxy.stale()                                reads show what was before
    cloud.proxy.clear()
    cloud.proxy.evacuations(server)                    each POST evacuate for it: when, what became of it

Evacuations are what a rule is about unless it names a method or a path.
"""

import json
import subprocess
import time
from pathlib import Path

from . import plan

EVACUATE = {"method": "POST", "path": r"/servers/[^/]+/action$", "body": r'"evacuate"'}
ANY = {"method": None, "path": "", "body": ""}
# A key on a curve is made in milliseconds.
OPENSSL_TIMEOUT_S = 60


class Proxy:
    """The driver's side of proxy_main.py."""

    def __init__(self, lab: Path):
        self.folder = plan.folder(lab) / "proxy"
        self.begun = 0.0

    def install(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fronts = [
            {"name": name, "port": port, "behind": plan.PORTS[name], "tls": tls}
            for tls, ports in ((False, plan.FRONTS), (True, plan.TLS_FRONTS))
            for name, port in ports.items()
        ]
        told = {"address": plan.ADDRESS, "fronts": fronts, **self._certificate()}
        (self.folder / "fronts.json").write_text(json.dumps(told))

    @property
    def ca(self) -> Path:
        """The authority to be trusted by a client of the TLS front."""
        return self.folder / "ca.pem"

    def _certificate(self) -> dict[str, str]:
        """An authority of our own, and a certificate of it for the cloud's address."""
        names = {name: str(self.folder / name) for name in ("ca.key", "cert.pem", "cert.key", "request", "extensions")}
        Path(names["extensions"]).write_text(f"subjectAltName = IP:{plan.ADDRESS}\nbasicConstraints = CA:FALSE\n")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        authority = ["-x509", "-days", "30", "-subj", "/CN=an authority that nobody knows"]
        sign = ["-CA", str(self.ca), "-CAkey", names["ca.key"], "-CAcreateserial", "-extfile", names["extensions"]]
        for words in (
            ["req", *key, *authority, "-keyout", names["ca.key"], "-out", str(self.ca)],
            ["req", *key, "-subj", "/CN=cloud", "-keyout", names["cert.key"], "-out", names["request"]],
            ["x509", "-req", "-days", "30", "-in", names["request"], "-out", names["cert.pem"], *sign],
        ):
            subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=OPENSSL_TIMEOUT_S)
        return {"cert": names["cert.pem"], "key": names["cert.key"]}

    def mark(self) -> None:
        """From here on counts."""
        self.begun = time.clock_gettime(time.CLOCK_BOOTTIME)

    # -- faults -------------------------------------------------------------
    def fault(
        self, kind: str, *, times: int | None = None, skip: int = 0, front: str = "nova-api", match=None, **given
    ) -> int:
        """Adds a rule: the first `skip` requests that match pass, the next `times` (all) meet the fault.

        `match` (or method=, path=, body=, the latter two regular expressions)
        says which requests; evacuations when none of them is given.
        """
        picked = {name: given.pop(name) for name in ANY if name in given}
        where = {**ANY, **match} if match else {**ANY, **picked} if picked else EVACUATE
        if front != "nova-api" and not match and not picked:
            where = ANY
        rules = self._rules()
        number = time.monotonic_ns()
        rules.append({"id": number, "kind": kind, "front": front, "times": times, "skip": skip, **where, **given})
        self._write(rules)
        return number

    def delay(self, seconds: float, **more) -> int:
        """The request is late at Nova."""
        return self.fault("delay", seconds=seconds, **more)

    def delay_answer(self, seconds: float, **more) -> int:
        """Nova acts at once, its answer is late."""
        return self.fault("delay-after", seconds=seconds, **more)

    def error(
        self, status: int = 503, forward: bool = False, headers: dict | None = None, answer=None, **more
    ) -> int:
        """That status instead of an answer; with `forward` Nova has acted nevertheless."""
        told = answer if answer is not None else {"error": {"code": status, "message": "the fault proxy says so"}}
        return self.fault("error", status=status, forward=forward, headers=headers or {}, answer=told, **more)

    def too_many(self, retry_after: int = 1, status: int = 429, **more) -> int:
        return self.error(status, headers={"Retry-After": str(retry_after)}, **more)

    def html(self, status: int = 502, forward: bool = False, **more) -> int:
        """What a load balancer says of itself; with status 200 the worst of all."""
        return self.fault("html", status=status, forward=forward, **more)

    def cut(self, **more) -> int:
        """The connection is reset before Nova hears of the request."""
        return self.fault("cut", **more)

    def cut_after_accept(self, **more) -> int:
        """Nova has answered; the client only sees its connection reset."""
        return self.fault("cut-after", **more)

    def hang(self, after_accept: bool = False, **more) -> int:
        """No answer, until the client gives up."""
        return self.fault("hang-after" if after_accept else "hang", **more)

    def stale(self, path: str = "", **more) -> int:
        """Reads show what they showed last before now; what was never read is read once."""
        return self.fault("stale", method="GET", path=path, **more)

    def short_list(self, keep: int = 0, path: str = r"/servers(/detail)?(\?|$)", **more) -> int:
        """200, and a list that ends too early: what a cell without its database looks like."""
        return self.fault("short-list", keep=keep, method="GET", path=path, **more)

    def clear(self, rule: int | None = None) -> None:
        """One rule, or all of them."""
        self._write([known for known in self._rules() if rule is not None and known["id"] != rule])

    def _rules(self) -> list[dict]:
        try:
            return json.loads((self.folder / "rules.json").read_text())
        except FileNotFoundError:
            return []

    def _write(self, rules: list[dict]) -> None:
        draft = self.folder / "rules.tmp"
        draft.write_text(json.dumps(rules))
        draft.rename(self.folder / "rules.json")

    # -- evidence -----------------------------------------------------------
    def requests(self, method: str | None = None, path: str = "", front: str = "nova-api") -> list[dict]:
        """Every request since the case began, in order of arrival.

        t, wall, method, path, body, fault; and once it was answered: reached
        (Nova heard it), upstream (Nova's status), status (what the client
        got), id (Nova's request id), took.
        """
        found: dict[int, dict] = {}
        try:
            lines = (self.folder / "requests.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            entry = json.loads(line)
            if "request" in entry:
                if entry["t"] >= self.begun:
                    found[entry["request"]] = entry
            elif entry["answered"] in found:
                found[entry["answered"]] |= {key: entry[key] for key in entry if key not in ("t", "wall", "answered")}
        return [
            entry
            for entry in found.values()
            if entry["front"] == front and method in (None, entry["method"]) and path in entry["path"]
        ]

    def evacuations(self, server=None) -> list[dict]:
        """The POSTs that ask for an evacuation, of one server or of any; `server` is added to each."""
        posts = []
        for entry in self.requests("POST", "/servers/"):
            try:
                is_one = "evacuate" in json.loads(entry["body"])
            except ValueError:
                continue
            identity = entry["path"].split("/servers/")[1].split("/")[0]
            if is_one and (server is None or identity == str(getattr(server, "uuid", server))):
                posts.append({**entry, "server": identity})
        return posts

    def evacuate_posts(self) -> dict[str, int]:
        """server -> how many evacuations were asked of Nova for it; more than one is what must never be."""
        counts: dict[str, int] = {}
        for entry in self.evacuations():
            counts[entry["server"]] = counts.get(entry["server"], 0) + 1
        return counts
