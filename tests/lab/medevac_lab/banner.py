"""A second service of user space: greets on TCP 22, as an ssh server would.

A host whose kernel still completes connections but that greets nobody is
frozen: that is what this service is there to tell.
"""

import socket
import sys


def main() -> None:
    listener = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=64, reuse_port=False)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(1.0)
            try:
                connection.sendall(b"SSH-2.0-lab\r\n")
            except OSError:
                continue


if __name__ == "__main__":
    main()
