"""Talks rubbish to the ports of aggregator and agents, from somewhere on the management plane.

    garbage.py SECONDS PKI AGGREGATOR:PORT HOST:PORT ...   ->  one line of JSON: how often what was tried

Over TCP: random bytes, HTTP/1 and HTTP/2 without TLS, a frame that says it is
huge, half a TLS handshake held open 200 times. With a certificate that is
valid (of hv3): HTTP/1, garbage instead of HTTP/2, a message of 4 GiB on the
stream of the agents. Over UDP: datagrams of every size to every host.
"""

import contextlib
import json
import os
import random
import select
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from pathlib import Path

# Attempts of one kind a second: enough to be rude, and the machine stays usable for those who are judged.
PAUSE_S = 0.02
HELD = 200
PATIENCE_S = 1.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, body: bytes, length: int | None = None) -> bytes:
    """One HTTP/2 frame; `length` is what it claims."""
    said = len(body) if length is None else length
    return said.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def header(name: str, value: str) -> bytes:
    """HPACK's plainest form: a literal, not indexed."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def half_a_handshake() -> bytes:
    """The first half of an honest ClientHello."""
    out = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    hello = out.read()
    return hello[: len(hello) // 2]


class Garbage:
    """Every kind has a thread of its own until the time is over."""

    def __init__(self, seconds: float, pki: Path, aggregator: tuple, hosts: list[tuple]):
        self.until, self.pki = time.monotonic() + seconds, pki
        self.aggregator, self.hosts = aggregator, hosts
        self.done: Counter = Counter()

    def over(self) -> bool:
        return time.monotonic() > self.until

    def connect(self) -> socket.socket:
        link = socket.create_connection(self.aggregator, PATIENCE_S)
        link.settimeout(PATIENCE_S)
        return link

    def as_host(self, *protocols: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.pki / "ca.pem"))
        context.load_cert_chain(self.pki / "hosts" / "hv3.pem", self.pki / "hosts" / "hv3.key")
        context.set_alpn_protocols(list(protocols))
        return context.wrap_socket(self.connect(), server_hostname=self.aggregator[0])

    def say(self, link: socket.socket, words: bytes) -> None:
        """Says it and listens until the other side has had enough."""
        with contextlib.closing(link), contextlib.suppress(OSError):
            link.sendall(words)
            while link.recv(65536):
                pass

    def plain(self, kind: str) -> None:
        words = {
            "random": os.urandom(4096),
            "http1": b"GET /api/v1/status HTTP/1.1\r\nhost: x\r\n\r\n",
            "http2": PREFACE + frame(0, 0, 1, os.urandom(1000), 0xFFFFFF),
            "huge-record": b"\x16\x03\x01\xff\xff" + os.urandom(20000),
        }
        self.say(self.connect(), words[kind])

    def authentic(self, kind: str) -> None:
        """With a certificate that is taken: what comes then is still rubbish."""
        time.sleep(0.5)
        if kind == "host-http1":
            return self.say(self.as_host("http/1.1"), b"POST /api/v1/verbs HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 500_000)
        link = self.as_host("h2")
        if kind == "host-rubbish":
            return self.say(link, PREFACE + os.urandom(100_000))
        head = [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", "/medevac.v1.Nerve/Session"),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        headers = frame(1, 4, 1, b"".join(header(*one) for one in head))
        # A message's five bytes before it: not compressed, 4 GiB long.
        body = frame(0, 0, 1, b"\0\xff\xff\xff\xff" + os.urandom(10_000))
        self.say(link, PREFACE + frame(4, 0, 0, b"") + headers + body)

    def repeat(self, kind: str, act) -> None:
        while not self.over():
            # Being hung up on is what is to be expected.
            with contextlib.suppress(OSError):
                act(kind)
            self.done[kind] += 1
            time.sleep(PAUSE_S)

    def hold(self) -> None:
        """200 halves of handshakes held open; those that are hung up on come again."""
        held: list[socket.socket] = []
        words = half_a_handshake()
        while not self.over():
            # Whoever answers half a handshake hangs up.
            for link in select.select(held, [], [], 0)[0]:
                held.remove(link)
                link.close()
            while len(held) < HELD and not self.over():
                with contextlib.suppress(OSError):
                    link = self.connect()
                    link.sendall(words)
                    held.append(link)
                    self.done["half-handshake"] += 1
            time.sleep(0.2)

    def datagrams(self) -> None:
        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        targets = [*self.hosts, self.aggregator]
        while not self.over():
            for target in targets:
                size = random.choice((0, 1, 31, 288, 289, 1400, 9000, 60000))
                words = os.urandom(size)
                if random.random() < 0.5:
                    words = (b"MDVP\x01Q" + words)[: max(size, 6)]
                with contextlib.suppress(OSError):
                    link.sendto(words, target)
                self.done["datagram"] += 1
            time.sleep(PAUSE_S / 4)

    def run(self) -> None:
        threads = [threading.Thread(target=self.hold), threading.Thread(target=self.datagrams)]
        for kind in ("random", "http1", "http2", "huge-record"):
            threads.append(threading.Thread(target=self.repeat, args=(kind, self.plain)))
        for kind in ("host-http1", "host-rubbish", "host-huge-message"):
            threads.append(threading.Thread(target=self.repeat, args=(kind, self.authentic)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(json.dumps(self.done), flush=True)


def address(text: str) -> tuple[str, int]:
    host, port = text.rsplit(":", 1)
    return host, int(port)


if __name__ == "__main__":
    seconds, pki, aggregator, *hosts = sys.argv[1:]
    Garbage(float(seconds), Path(pki), address(aggregator), [address(host) for host in hosts]).run()
