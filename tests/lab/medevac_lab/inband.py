"""What a host's own ipmitool would tell: the lab's hosts have no /dev/ipmi0.

    driver: ipmitool -I lanplus lan set 1 ipaddr ADDRESS     each host's simulator knows its own address
            ipmitool -I lanplus lan print N  --output--> HOST/etc/medevac/ipmi/lan-N
    agent:  ipmitool -I open lan print N  = a script in its PATH that shows that file

The controllers' network is out of the hosts' reach, as it should be, so the
script cannot ask by itself: it shows what the real ipmitool got from the
host's own simulator a moment ago, with its exit code.
"""

from . import plan
from .host import ENV, Host
from .net import Network

FOLDER = "etc/medevac/ipmi"
SCRIPT = """#!/bin/sh
# -I open WHAT print CHANNEL
answer=/etc/medevac/ipmi/$3-$5
if [ ! -e "$answer" ]; then
  echo "Could not open device at /dev/ipmi0 or /dev/ipmi/0 or /dev/ipmidev/0: No such file or directory" >&2
  exit 1
fi
cat "$answer"
cat "$answer.err" >&2
exit "$(cat "$answer.code")"
"""
CHANNELS = range(1, 12)


def install(host: Host) -> None:
    """The script, found before the machine's own ipmitool; it counts from the agent's next start after a boot."""
    folder = host.folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "ipmitool"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    path = f"/etc/medevac/ipmi:{ENV['PATH']}"
    argv = [str(host.lab / "bin" / "medevac-agent"), "--config", "/etc/medevac/agent.toml"]
    host.set_services({"agent": {"argv": argv, "env": {"PATH": path}, "autostart": True}})


def ask(host: Host, *words: str):
    """The real ipmitool, from where the controllers can be reached."""
    reach = ["-I", "lanplus", "-C", "3", "-H", host.address("bmc"), "-U", plan.BMC_USER, "-P", plan.BMC_PASSWORD]
    return Network(host.lab).run_in(
        "agg", ["ipmitool", *reach, *words], capture_output=True, text=True, timeout=30, check=False
    )


def tell(host: Host, address: str | None = None) -> None:
    """The host's controller says that it is there, and the host's ipmitool shows it."""
    done = ask(host, "lan", "set", "1", "ipaddr", address or host.address("bmc"))
    if done.returncode != 0:
        raise RuntimeError(f"{host}: its controller takes no address: {done.stderr or done.stdout}")
    for what in ("lan", "lan6"):
        for channel in CHANNELS:
            # The simulator has one channel; of the others the first stands for all.
            shown = ask(host, what, "print", str(channel)) if channel < 3 else shown
            answer = host.folder / FOLDER / f"{what}-{channel}"
            answer.write_text(shown.stdout)
            answer.with_name(f"{answer.name}.err").write_text(shown.stderr)
            answer.with_name(f"{answer.name}.code").write_text(f"{shown.returncode}\n")
