"""The pager behind Alertmanager: takes whatever it is sent, and keeps it, a line each."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer


class Note(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        at = time.time()
        body = self.rfile.read(int(self.headers["content-length"]))
        with open(sys.argv[2], "a") as notes:
            notes.write(json.dumps({**json.loads(body), "received_at": at}) + "\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Note).serve_forever()
