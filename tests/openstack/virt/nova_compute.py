"""nova-compute of a lab host: Nova's own, told where the lab's driver lies.

Run as a service of the host, with the unpacked modules, as
`python3 nova_compute.py --config-file /etc/nova/nova.conf`.
"""

import sys
from pathlib import Path

# Monkey-patches the standard library: before anything else.
import nova.cmd.compute  # isort: skip
import nova.service
import nova.servicegroup.api
import nova.virt

HERE = Path(__file__).resolve().parent
# One look tells whoever waits for this host that it takes orders.
READY = Path("/run/nova-compute.ready")


def tell_when_ready() -> None:
    started = nova.service.Service.start

    def start(service) -> None:
        started(service)
        READY.touch()

    nova.service.Service.start = start


if __name__ == "__main__":
    # Nova looks for drivers in this package alone.
    nova.virt.__path__.append(str(HERE))
    sys.path.insert(0, str(HERE.parents[1] / "lab"))
    # Five idle seconds before the first sign of life would only make every case longer.
    nova.servicegroup.api.INITIAL_REPORTING_DELAY = 0.2
    READY.unlink(missing_ok=True)
    tell_when_ready()
    sys.argv[0] = "nova-compute"
    sys.exit(nova.cmd.compute.main())
