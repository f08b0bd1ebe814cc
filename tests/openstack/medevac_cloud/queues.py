"""Looks at RabbitMQ's queues, or empties them; run by services.py with the unpacked modules.

    queues.py WHERE consumers NAME       prints how many take messages from it
    queues.py WHERE purge NAME...        drops the messages that wait in them
"""

import sys

import amqp
from amqp.exceptions import NotFound

CONNECT_TIMEOUT_S = 5


def main() -> None:
    where, verb, names = sys.argv[1], sys.argv[2], sys.argv[3:]
    with amqp.Connection(where, userid="guest", password="guest", connect_timeout=CONNECT_TIMEOUT_S) as link:
        for name in names:
            # A question about a missing queue closes its channel.
            channel = link.channel()
            try:
                found = channel.queue_declare(name, passive=True)
            except NotFound:
                found = None
            if verb == "consumers":
                print(found.consumer_count if found else 0)
            elif found:
                channel.queue_purge(name)


if __name__ == "__main__":
    main()
