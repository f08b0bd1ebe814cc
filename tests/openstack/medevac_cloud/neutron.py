"""The least of a Neutron that Nova needs for servers without a network.

Nova asks for ports and security groups of every server, also of one booted with
`networks: none`, and answers 500 where nobody is there. Every collection is empty.

Run by services.py (standard library alone) as `python3 -S -E neutron.py ADDRESS PORT`.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        words = self.path.split("?")[0].strip("/").split("/")
        if words == [""]:
            link = {"rel": "self", "href": "http://{}:{}/v2.0/".format(*sys.argv[1:3])}
            self.answer(200, {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]})
        elif len(words) == 2 and words[0] == "v2.0":
            self.answer(200, {words[1].replace("-", "_"): []})
        elif words[:2] == ["v2.0", "quotas"]:
            self.answer(200, {"quota": {}})
        else:
            self.refuse()

    def refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(404, {"NeutronError": {"type": "NotFound", "message": self.path, "detail": ""}})

    do_POST = do_PUT = do_DELETE = refuse


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # Nova's workers ask in bursts; a full queue would cost a second for the repeated SYN.
    request_queue_size = 128


if __name__ == "__main__":
    Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
