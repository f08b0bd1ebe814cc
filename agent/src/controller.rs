//! Where the controller is that can switch this host off, as it tells itself:
//! `ipmitool lan print` over the local interface, channel by channel.
//!
//! ```text
//!   ipmitool -I open lan print 1 ... 11   -> "IP Address : 10.0.9.11"
//!   ipmitool -I open lan6 print 1 ... 11  -> "Address: fd00:9::11/64"       (channels that the first knows)
//! ```
//!
//! Only read, never set. What it says is an offer: nobody is switched off by it
//! before the aggregator has found nothing against it.

use medevac_proto::session::PowerController;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

/// It hardly ever changes, and when it does an hour is soon enough.
pub(crate) const EVERY: Duration = Duration::from_secs(3600);
/// LAN channels of IPMI: 0 is the internal bus, from 12 on they are not for addresses.
const CHANNELS: std::ops::RangeInclusive<u8> = 1..=11;
/// For one question. A controller answers within a second, or is busy with itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// For all of them: one that hangs at each is given up.
const ALL_WITHIN: Duration = Duration::from_secs(30);
/// What is kept of a reason.
const WHY_MAX: usize = 200;

/// What one run came to.
enum Told {
    Text(String),
    /// There is nobody to ask: why.
    Nobody(String),
    /// This question has no answer; another one may have.
    Nothing(String),
}

/// Asks the controller where it is. Takes at most [`ALL_WITHIN`] and a moment.
pub(crate) async fn read() -> PowerController {
    let begun = Instant::now();
    let (mut four, mut six) = (Vec::new(), Vec::new());
    let mut why = "its LAN channels have no address".to_owned();
    for channel in CHANNELS {
        if begun.elapsed() >= ALL_WITHIN {
            why = format!("it did not answer all within {} s", ALL_WITHIN.as_secs());
            break;
        }
        match ask("lan", channel).await {
            Told::Text(text) => {
                four.extend(addresses(&text).filter(IpAddr::is_ipv4));
                if let Told::Text(text) = ask("lan6", channel).await {
                    six.extend(addresses(&text).filter(IpAddr::is_ipv6));
                }
            }
            Told::Nobody(reason) => {
                why = reason;
                break;
            }
            Told::Nothing(reason) if channel == *CHANNELS.start() => why = reason,
            Told::Nothing(_) => {}
        }
    }
    let mut addresses: Vec<String> = Vec::new();
    for address in four.into_iter().chain(six).map(|ip| ip.to_string()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let why_none = if addresses.is_empty() { why } else { String::new() };
    PowerController { addresses, why_none }
}

async fn ask(what: &str, channel: u8) -> Told {
    let mut command = Command::new("ipmitool");
    command.args(["-I", "open", what, "print", &channel.to_string()]).env("LC_ALL", "C");
    command.stdin(Stdio::null()).kill_on_drop(true);
    match timeout(ANSWER_WITHIN, command.output()).await {
        Err(_) => Told::Nothing(format!("it did not answer within {} s", ANSWER_WITHIN.as_secs())),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            Told::Nobody("ipmitool is not installed".to_owned())
        }
        Ok(Err(error)) => Told::Nobody(format!("ipmitool cannot be run: {error}")),
        Ok(Ok(done)) => {
            let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            judged(done.status.success(), said(&done.stdout), &said(&done.stderr))
        }
    }
}

fn judged(well: bool, stdout: String, stderr: &str) -> Told {
    if well {
        return Told::Text(stdout);
    }
    if stderr.contains("Could not open device") {
        let why = "there is no /dev/ipmi0: this machine has no controller, or the module ipmi_devintf is not loaded";
        return Told::Nobody(why.to_owned());
    }
    let line = stderr.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("ipmitool failed");
    Told::Nothing(line.chars().filter(|c| !c.is_control()).take(WHY_MAX).collect())
}

/// Addresses in use, of either kind of answer; what a controller shows for "none" is none.
fn addresses(text: &str) -> impl Iterator<Item = IpAddr> + '_ {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let named = fields.filter(|(name, _)| matches!(name.trim(), "IP Address" | "Address"));
    let read = named.filter_map(|(_, value)| value.trim().split('/').next()?.parse::<IpAddr>().ok());
    read.filter(|ip| !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !is_link_local(ip))
}

/// Without an interface it names nobody; and it is what a controller gives itself when it has found no address.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn found(text: &str) -> Vec<String> {
        addresses(text).map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn the_address_of_a_channel_is_read_and_nothing_else() {
        let text = "Set in Progress         : Set Complete\nAuth Type Support       : NONE MD2 MD5 PASSWORD\n\
                    IP Address Source       : Static Address\nIP Address              : 10.0.9.11\n\
                    Subnet Mask             : 255.255.255.0\nMAC Address             : 3c:ec:ef:00:00:01\n\
                    SNMP Community String   : public\nDefault Gateway IP      : 10.0.9.1\n\
                    Default Gateway MAC     : 00:00:00:00:00:00\nBackup Gateway IP       : 10.0.9.2\n";
        assert_eq!(found(text), ["10.0.9.11"]);
    }

    #[test]
    fn none_in_whatever_spelling_is_none() {
        for none in ["0.0.0.0", "127.0.0.1", "169.254.3.4", "", "N/A"] {
            assert_eq!(found(&format!("IP Address              : {none}\n")), Vec::<String>::new(), "{none}");
        }
        let six = "IPv6 Static Address 0:\n    Enabled:        no\n    Address:        ::/0\n    Status:         disabled\n\
                   IPv6 Dynamic Address 0:\n    Source/Type:    SLAAC\n    Address:        fe80::3eec:efff:fe00:1/64\n";
        assert_eq!(found(six), Vec::<String>::new());
    }

    #[test]
    fn an_address_of_ipv6_is_read_without_its_prefix() {
        let text = "IPv6/IPv4 Addressing Enables: both\nIPv6 Static Address 0:\n    Enabled:        yes\n    \
                    Address:        fd00:9::11/64\n    Status:         active\n";
        assert_eq!(found(text), ["fd00:9::11"]);
    }

    #[test]
    fn a_machine_without_a_controller_says_why() {
        let no_device =
            "Could not open device at /dev/ipmi0 or /dev/ipmi/0 or /dev/ipmidev/0: No such file or directory\n";
        let Told::Nobody(why) = judged(false, String::new(), no_device) else { panic!() };
        assert!(why.contains("ipmi_devintf"), "{why}");
        let Told::Nothing(why) = judged(false, String::new(), "\nChannel 2 is not a LAN channel\n") else { panic!() };
        assert_eq!(why, "Channel 2 is not a LAN channel");
        assert!(matches!(judged(true, "IP Address : 10.0.9.11".into(), ""), Told::Text(_)));
    }
}
