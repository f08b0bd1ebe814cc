//! Every key of `agent.toml`: what it is for, and whether a reload takes it. See docs/configuration.md.

use medevac_settings::Key;
use medevac_settings::reference::{restart, taken};

/// In the order of the page.
pub const KEYS: [Key; 18] = [
    restart("aggregators", "Where the aggregators listen; one stream is held to each. `medevac-agent join` writes it."),
    restart("host", "This host's name, with `insecure_plaintext` alone: else its certificate names it."),
    restart("insecure_plaintext", "Without TLS: for trials on loopback."),
    restart("state_dir", "Local disk: what this host was told and has done, and facts not yet delivered."),
    restart("machine_identity", "This machine's identity; another machine under this host's name is an alarm."),
    restart("tls.ca", "The site's authority. A changed file is read without a reload."),
    restart("tls.cert", "This host's certificate; the same."),
    restart("tls.key", "Its key; the same."),
    restart("libvirt.uri", "The hypervisor."),
    restart("libvirt.socket", "Where libvirt listens, where that is no place that the agent knows; empty: it looks."),
    restart("libvirt.call_deadline", "A libvirtd that does not answer in this time is reported as not answering."),
    restart("metrics.listen", "Where numbers are served; empty: nowhere."),
    restart("metrics.client_certificate", "Whether whoever reads them must show a certificate."),
    taken(
        "planes",
        "This host's own address on each network that fails independently of the others. None: one plane, `mgmt`, with the address of the session.",
    ),
    taken("responder.port", "The UDP port on which other hosts ask whether this one lives."),
    taken("probe.banner_ports", "Services of other hosts that speak first (ssh), asked when looking at them."),
    taken("read_controller", "Whether the address of this host's own power controller (BMC) is read and offered."),
    taken("spool.max_mib", "Facts that no aggregator has taken yet."),
];
