"""The fault proxy: stands before Keystone and Nova, writes down every request, and misbehaves on order.

    client --> 5000, 8774 --> [first rule that matches] --> 15000, 18774
                    |                 |
                    |                 +-- rules.json, written by proxy.py, read again when it changes
                    +-- requests.jsonl: one line when a request arrived, one when it was answered

Run by services.py (standard library alone) as `python3 -S -E proxy_main.py FOLDER`;
FOLDER/fronts.json says which port stands for which.
"""

import http.client
import json
import re
import socket
import ssl
import struct
import sys
import threading
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Longer than any answer of Nova's (disabling a host it believes up takes it 60 s).
UPSTREAM_TIMEOUT_S = 120.0
# Answers kept for stale reads: more than a case has pages.
MAX_KEPT = 2000
# Bodies are evidence, not ballast.
MAX_BODY_LOGGED = 4096
# The longest that a request without an answer is held.
HANG_S = 600.0
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}
HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n"


class Rules:
    """What to do to whom; counts how often each was done."""

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        self.seen, self.rules, self.used = None, [], {}

    def _read(self) -> None:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            self.seen, self.rules = None, []
            return
        if (stat.st_ino, stat.st_mtime_ns) != self.seen:
            self.rules = json.loads(self.path.read_text())
            self.seen = (stat.st_ino, stat.st_mtime_ns)

    def take(self, front: str, method: str, path: str, body: str) -> dict:
        """The rule for this request, its use counted; empty when there is none."""
        with self.lock:
            self._read()
            for rule in self.rules:
                if rule["front"] != front or rule["method"] not in (None, method):
                    continue
                if not re.search(rule["path"], path) or not re.search(rule["body"], body):
                    continue
                used = self.used.get(rule["id"], 0)
                if used < rule["skip"]:
                    self.used[rule["id"]] = used + 1
                    continue
                if rule["times"] is not None and used - rule["skip"] >= rule["times"]:
                    continue
                self.used[rule["id"]] = used + 1
                return rule
        return {}


class Log:
    """requests.jsonl. No header is written: they hold tokens; nor any body for Keystone: it holds passwords."""

    def __init__(self, path: Path):
        self.path, self.lock, self.count = path, threading.Lock(), 0

    def write(self, **line) -> None:
        line["t"], line["wall"] = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
        with self.lock, open(self.path, "a") as out:
            out.write(json.dumps(line) + "\n")

    def number(self) -> int:
        with self.lock:
            self.count += 1
            return self.count


class Kept:
    """The latest answer to every GET, and what a stale read shows of it."""

    def __init__(self):
        self.lock, self.latest, self.stale = threading.Lock(), OrderedDict(), {}

    def note(self, key: tuple, answer: tuple) -> None:
        with self.lock:
            self.latest[key] = answer
            self.latest.move_to_end(key)
            while len(self.latest) > MAX_KEPT:
                self.latest.popitem(last=False)

    def frozen(self, rule: int, key: tuple) -> tuple | None:
        """What was last seen before the rule was first used; the same for as long as it lasts."""
        with self.lock:
            if rule not in self.stale:
                self.stale = {rule: dict(self.latest)}
            return self.stale[rule].get(key)

    def freeze(self, rule: int, key: tuple, answer: tuple) -> None:
        with self.lock:
            self.stale.setdefault(rule, {})[key] = answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Waiting for the rest of a request; a connection that is kept open waits as long for the next one.
    timeout = UPSTREAM_TIMEOUT_S

    def log_message(self, *_) -> None:
        """Everything is in requests.jsonl."""

    # -- one request --------------------------------------------------------
    def handle_any(self) -> None:
        server = self.server
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = "" if server.front == "keystone" else data.decode(errors="replace")
        number = server.log.number()
        rule = server.rules.take(server.front, self.command, self.path, body)
        begun = time.monotonic()
        server.log.write(
            request=number,
            front=server.front,
            method=self.command,
            path=self.path,
            body=body[:MAX_BODY_LOGGED],
            fault=rule.get("kind"),
            rule=rule.get("id"),
            microversion=self.headers.get("OpenStack-API-Version") or self.headers.get("X-OpenStack-Nova-API-Version"),
            sent_id=self.headers.get("X-Openstack-Request-Id"),
        )
        outcome = {"reached": False, "status": None, "upstream": None, "id": None}
        try:
            self.act(rule, data, outcome)
        except (OSError, http.client.HTTPException) as error:
            outcome["error"] = f"{type(error).__name__}: {error}"
            self.cut()
        server.log.write(answered=number, took=time.monotonic() - begun, **outcome)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any

    def act(self, rule: dict, data: bytes, outcome: dict) -> None:
        kind = rule.get("kind")
        if kind == "delay":
            time.sleep(rule["seconds"])
        elif kind == "hang":
            self.wait_for_client()
            return self.cut()
        elif kind == "cut":
            return self.cut()
        elif kind == "stale" and self.command == "GET":
            return self.stale(rule, data, outcome)
        if kind in ("error", "html") and not rule["forward"]:
            return self.answer(self.made_up(rule), outcome)
        answer = self.upstream(data, outcome)
        if kind == "cut-after":
            return self.cut()
        if kind == "hang-after":
            self.wait_for_client()
            return self.cut()
        if kind == "delay-after":
            time.sleep(rule["seconds"])
        if kind in ("error", "html"):
            answer = self.made_up(rule)
        if kind == "short-list":
            answer = shortened(answer, rule["keep"])
        return self.answer(answer, outcome)

    def stale(self, rule: dict, data: bytes, outcome: dict) -> None:
        key = (self.server.front, self.path)
        found = self.server.kept.frozen(rule["id"], key)
        if found is None:
            found = self.upstream(data, outcome)
            self.server.kept.freeze(rule["id"], key, found)
        self.answer(found, outcome)

    # -- answers: (status, headers, body) -----------------------------------
    def made_up(self, rule: dict) -> tuple:
        if rule["kind"] == "html":
            return rule["status"], [("Content-Type", "text/html")], HTML
        headers = [("Content-Type", "application/json"), *rule["headers"].items()]
        return rule["status"], headers, json.dumps(rule["answer"]).encode()

    def upstream(self, data: bytes, outcome: dict) -> tuple:
        """Passes the request on, whole, on a connection of its own."""
        server = self.server
        link = http.client.HTTPConnection(server.address, server.behind, timeout=UPSTREAM_TIMEOUT_S)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        try:
            link.connect()
            link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.request(self.command, self.path, data or None, headers)
            outcome["reached"] = True
            reply = link.getresponse()
            body = reply.read()
        finally:
            link.close()
        outcome["upstream"], outcome["id"] = reply.status, reply.getheader("X-Openstack-Request-Id")
        kept = [(name, value) for name, value in reply.getheaders() if name.lower() not in HOP_BY_HOP]
        if self.command == "GET":
            server.kept.note((server.front, self.path), (reply.status, kept, body))
        return reply.status, kept, body

    def answer(self, given: tuple, outcome: dict) -> None:
        status, headers, body = given
        outcome["status"] = status
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def cut(self) -> None:
        """The connection ends with a reset instead of an answer."""
        self.close_connection = True
        # Lingering for no time at all turns the close into a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for end in (self.wfile, self.rfile, self.connection):
            end.close()

    def wait_for_client(self) -> None:
        """Until it gives up: nothing more is to be read from it."""
        self.connection.settimeout(HANG_S)
        try:
            self.connection.recv(1)
        except OSError:
            pass


def shortened(answer: tuple, keep: int) -> tuple:
    """Every list in the body cut to its first entries, and no link to a next page."""
    status, headers, body = answer
    try:
        told = json.loads(body)
    except ValueError:
        return answer
    if not isinstance(told, dict):
        return answer
    links = {name for name in told if name.endswith("_links")}
    told = {
        name: value[:keep] if isinstance(value, list) else value for name, value in told.items() if name not in links
    }
    return status, headers, json.dumps(told).encode()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # A client that posts fifty evacuations at once must not wait for a repeated SYN.
    request_queue_size = 128

    def handle_error(self, *_) -> None:
        """A client that went away is no error of ours."""


def main() -> None:
    folder = Path(sys.argv[1])
    told = json.loads((folder / "fronts.json").read_text())
    rules, log, kept = Rules(folder / "rules.json"), Log(folder / "requests.jsonl"), Kept()
    threads = []
    for front in told["fronts"]:
        server = Server((told["address"], front["port"]), Handler)
        server.front, server.address, server.behind = front["name"], told["address"], front["behind"]
        server.rules, server.log, server.kept = rules, log, kept
        if front["tls"]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(told["cert"], told["key"])
            # The handshake belongs to the connection's own thread, not to the one that accepts.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threads.append(threading.Thread(target=server.serve_forever))
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main()
