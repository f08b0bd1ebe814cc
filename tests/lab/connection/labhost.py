"""How Ansible reaches a host of the lab: its commands run in the host's namespaces, its files lie here."""

import os
import shlex
import sys
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from medevac_lab import plan  # noqa: E402
from medevac_lab.host import Host  # noqa: E402

DOCUMENTATION = """
name: labhost
short_description: a host of the lab
description: a host of the lab, entered by its namespaces
author: the medevac authors
"""


class Connection(Local):
    """As the local one, inside."""

    # Not "local": that machine would not be rebooted.
    transport = "labhost"

    def exec_command(self, cmd, in_data=None, sudoable=True):
        host = Host(plan.root(), os.path.basename(self._play_context.remote_addr), [])
        try:
            inside = [*host.enter(), "/bin/sh", "-c", cmd]
        except (RuntimeError, OSError) as error:
            raise AnsibleConnectionFailure(str(error)) from error
        return super().exec_command(shlex.join(inside), in_data=in_data, sudoable=sudoable)

    def reset(self):
        """Nothing is kept between two commands."""
