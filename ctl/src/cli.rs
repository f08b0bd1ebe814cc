//! What can be typed.

use crate::examples;
use clap::{Args as ClapArgs, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Where the aggregator on this machine listens.
pub const SOCKET: &str = "/run/medevac/aggregator.sock";

pub const EXIT_CODES: &str = "\
Exit codes:
  0  done, or already so
  1  refused: the message says by what rule and what to do
  2  not understood: see --help
  3  the aggregator cannot be reached, or does not answer
A verb that is said again once it is done ends with 0, too, but for those that are about an
incident: that may be over (1, closed). A playbook may try 3 again; 1 and 2 need a person.";

/// Shows what medevac sees and does, and tells it what to do.
#[derive(Debug, Parser)]
#[command(name = "medevacctl", version, after_help = EXIT_CODES)]
pub struct Args {
    #[command(flatten)]
    pub reach: Reach,
    /// Print the API's own JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// As wide as it is: nothing is cut or wrapped to fit the terminal
    #[arg(long, global = true)]
    pub wide: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

/// How to reach the aggregator.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Reaching the aggregator")]
pub struct Reach {
    /// The unix socket of an aggregator on this machine (root, and members of its `socket_group`)
    #[arg(long, global = true, default_value = SOCKET, conflicts_with = "address")]
    pub socket: PathBuf,
    /// HOST:PORT of an aggregator elsewhere; needs --ca, --cert and --key
    #[arg(long, global = true)]
    pub address: Option<String>,
    /// The authority's certificate: ca.pem
    #[arg(long, global = true)]
    pub ca: Option<PathBuf>,
    /// Your certificate: operator.pem
    #[arg(long, global = true)]
    pub cert: Option<PathBuf>,
    /// Your key: operator.key
    #[arg(long, global = true)]
    pub key: Option<PathBuf>,
}

/// Why: kept with what is done.
#[derive(Clone, Debug, ClapArgs)]
pub struct Why {
    /// Why you do this; it is kept, and shown to whoever asks later
    #[arg(long)]
    pub reason: Option<String>,
}

/// The same again and again.
#[derive(Clone, Copy, Debug, Default, ClapArgs)]
pub struct Again {
    /// Show it again and again, every 2 s or as many as given, until Ctrl-C
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub watch: Option<u64>,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// What medevac may do in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Decides, shows, alerts; touches nothing
    Observe,
    /// Every plan waits for `approve`
    Approve,
    /// Acts
    Act,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Observe => "observe",
            Mode::Approve => "approve",
            Mode::Act => "act",
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// What is covered, what is not, what is going on
    Status(Again),
    /// All hosts, each with what could prove its death
    Hosts(Again),
    /// All instances and where they may be running
    Instances {
        /// Only those that are not protected, or cannot be recovered elsewhere, with the reason
        #[arg(long)]
        unprotected: bool,
        #[command(flatten)]
        again: Again,
    },
    /// Open incidents
    Incidents {
        /// Closed ones, too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        again: Again,
    },
    /// One incident, with its timeline
    Incident {
        /// Such as inc-7
        id: String,
        #[command(flatten)]
        again: Again,
    },
    /// What was seen, by whom, what was decided, what was refused and why
    Explain {
        /// An incident such as inc-7; or `matrix`: what is done about a host that has lost networks
        id: String,
    },
    /// What people were told of, and who has not heard it yet
    Alerts {
        /// Resolved ones, too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        again: Again,
    },
    /// Try receivers out, or send again what one has refused
    #[command(subcommand)]
    Alert(AlertWord),
    /// Who said what to medevac, why, and what came of it
    Audit,
    /// Choose what medevac may do in a segment
    Mode {
        /// As `medevacctl status` calls it
        segment: String,
        mode: Mode,
        /// Do not ask before `act`
        #[arg(long)]
        yes: bool,
        /// You know that nobody else restarts guests or shoots hosts there, whatever the agents found
        #[arg(long)]
        others_are_off: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Order nothing anywhere until `resume`
    Pause(Why),
    /// End a pause
    Resume(Why),
    /// Take a host out of care, or back into it
    Maintenance {
        /// As `medevacctl hosts` calls it
        host: String,
        #[arg(value_enum, default_value = "on")]
        switch: Switch,
        /// Ends by itself when the host has been away and is back
        #[arg(long)]
        until_back: bool,
        /// Ends by itself after this long, such as 90m or 2h, and one alert says so
        #[arg(long = "for", value_name = "TIME", value_parser = medevac_settings::parse_limit)]
        limit: Option<Duration>,
        #[command(flatten)]
        why: Why,
    },
    /// Let an incident's plan go ahead
    Approve(Incident),
    /// End an incident without acting on it any further
    Cancel(Incident),
    /// Try again what failed or waits
    Retry(Incident),
    /// Your word that a host is off: proof of its death. Be sure
    ConfirmFenced {
        /// As `medevacctl hosts` calls it
        host: String,
        /// The boot that you mean, if not its last one
        #[arg(long)]
        boot: Option<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Switch a host off now, whatever its state, and recover its instances
    Fence(Host),
    /// Let a fenced host take part again
    Release(Host),
    /// Switch a host on by its fence device
    PowerOn(Host),
    /// Your word that the fence device switches this host and no other
    PinDevice(Host),
    /// By what hosts are switched off: shown, imported, accepted. Switches nothing
    #[command(subcommand)]
    FenceDevices(Devices),
    /// Protect an instance
    Protect(Instance),
    /// No longer protect an instance
    Unprotect(Instance),
    /// End an instance's wait for hosts that nobody has heard for long and that never showed it running.
    /// Your word that it runs on none of them: be sure. A host that did show it needs `confirm-fenced`
    Recover(Instance),
    /// Whom to let in: tokens by which machines join
    Token {
        #[command(subcommand)]
        what: Token,
    },
    /// Who may join, and whose certificates were revoked
    Identity,
    /// A host's certificates, or one by its serial number, are no longer welcome: what they opened ends
    Revoke {
        /// HOST, or a serial number of 16 hex digits or more
        whose: String,
        #[command(flatten)]
        why: Why,
    },
    /// A host that is gone for good, or whose machine was replaced: whoever joins by its name is a new one
    Forget(Host),
    /// What this program ends with, for playbooks and scripts
    #[command(long_about = EXIT_CODES)]
    ExitCodes,
}

impl Verb {
    /// How often it is to be shown, in seconds, if more than once.
    pub fn again(&self) -> Option<u64> {
        match self {
            Verb::Status(again)
            | Verb::Hosts(again)
            | Verb::Instances { again, .. }
            | Verb::Incidents { again, .. }
            | Verb::Incident { again, .. }
            | Verb::Alerts { again, .. } => again.watch,
            _ => None,
        }
    }
}

/// The command line, with its examples.
pub fn command() -> Command {
    examples::below(Args::command())
}

/// What was typed; a mistake, or a question for help, ends the program.
pub fn typed() -> Args {
    Args::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit())
}

#[derive(Clone, Debug, Subcommand)]
pub enum AlertWord {
    /// Send a test to all receivers, or one, and tell how each took it
    Test { receiver: Option<String> },
    /// Send again what this receiver has refused for good
    Retry {
        receiver: String,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum Devices {
    /// Each device: where its address is from, when it answered last, what is known of its wiring
    List {
        /// Of this host alone
        host: Option<String>,
    },
    /// Addresses from a CSV file with the columns host,address[,plug][,pinned]: all of it, or nothing
    Import {
        /// `-` reads standard input
        file: PathBuf,
        /// Show what it would change, and change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        why: Why,
    },
    /// The address that this host's agent offers now is the right one
    Accept(Host),
    /// Drop what was imported and offered for this host
    Forget(Host),
}

#[derive(Clone, Debug, Subcommand)]
pub enum Token {
    /// One token for each host: shown once, good for one machine, for `medevac-agent join` there
    Create(NewTokens),
}

#[derive(Clone, Debug, ClapArgs)]
pub struct NewTokens {
    /// Name that the machine will have; may be given several times
    #[arg(long = "host", required_unless_present = "hosts_file")]
    pub hosts: Vec<String>,
    /// File with one name on each line; `-` reads standard input
    #[arg(long = "hosts", value_name = "FILE")]
    pub hosts_file: Option<PathBuf>,
    /// How long it is good for: 30m, 1h, 168h at most
    #[arg(long, default_value = "1h")]
    pub ttl: String,
    /// Why you do this; it is kept
    #[arg(long, default_value = "to join")]
    pub reason: String,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct Incident {
    /// Such as inc-7
    pub incident: String,
    #[command(flatten)]
    pub why: Why,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct Host {
    /// As `medevacctl hosts` calls it
    pub host: String,
    #[command(flatten)]
    pub why: Why,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct Instance {
    /// Its UUID
    pub instance: String,
    #[command(flatten)]
    pub why: Why,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_exit_codes_are_in_the_help() {
        assert!(command().render_help().to_string().contains("cannot be reached"));
        let mut command = command();
        let told = command.find_subcommand_mut("exit-codes").unwrap().render_long_help().to_string();
        assert!(told.contains("3  the aggregator cannot be reached"), "{told}");
    }

    #[test]
    fn only_what_shows_can_be_watched() {
        let typed = |words: &str| Args::try_parse_from(words.split(' ')).map(|args| args.verb.again());
        assert_eq!(typed("medevacctl status --watch").unwrap(), Some(2));
        assert_eq!(typed("medevacctl incident inc-7 --watch 5").unwrap(), Some(5));
        assert_eq!(typed("medevacctl hosts").unwrap(), None);
        assert!(typed("medevacctl fence hv1 --watch").is_err() && typed("medevacctl status --watch 0").is_err());
    }
}
