//! One run of a ClusterLabs fence agent.
//!
//! ```text
//!   setpriv --pdeathsig KILL [unshare --pid --fork --kill-child] /usr/sbin/fence_X
//!        stdin:  action=off, options, password      (nothing in argv or environ)
//!        stdout: "Status: OFF"                      exit: 0, 2, ...
//!        own process group, own deadline: killed whole
//! ```
//!
//! It dies with us, and, where a PID namespace can be had, so do its own
//! children. The default action of these agents is *reboot*: it is never left
//! to them. Exit code 2 means "off" in a status, but a usage error in most
//! other programs, so only the code together with the printed status counts.

use medevac_settings::Secret;
use medevac_triage::Power;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// Where the packages put the agents.
pub const AGENTS: &str = "/usr/sbin";
/// What is kept of an agent's output; the rest is read and dropped.
const OUTPUT_MAX: usize = 8 * 1024;
/// What is shown of it.
const SHOWN_MAX: usize = 200;
/// A killed agent is waited for at most this long.
const REAP: Duration = Duration::from_secs(2);

/// One level of one host: an agent and its parameters.
#[derive(Clone, PartialEq, Eq)]
pub struct Device {
    /// Name below `/usr/sbin`, or an absolute path.
    pub agent: String,
    pub options: BTreeMap<String, String>,
    /// Read anew for each run, so that a changed password needs no restart.
    pub password_file: Option<PathBuf>,
    /// For one run: an off order and the status after it have one each.
    pub deadline: Duration,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("label", &self.label()).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// Options that together say which plug of which device is meant.
const PLACE: [&str; 12] = [
    "ip",
    "ipaddr",
    "ipport",
    "plug",
    "port",
    "systems_uri",
    "systems-uri",
    "nodename",
    "uuid",
    "devices",
    "status_file",
    "tty",
];

/// In a template's password file and options: the name of the host that is meant.
pub const EACH_HOST: &str = "{host}";

impl Device {
    /// A template, made the device of one host.
    pub fn at(&self, host: &str, address: &str, plug: &str) -> Self {
        let named = |text: &str| text.replace(EACH_HOST, host);
        let mut options: BTreeMap<_, _> = self.options.iter().map(|(key, value)| (key.clone(), named(value))).collect();
        options.insert("ip".to_owned(), address.to_owned());
        if !plug.is_empty() {
            options.insert("plug".to_owned(), plug.to_owned());
        }
        let password_file = self.password_file.as_ref().map(|path| PathBuf::from(named(&path.to_string_lossy())));
        Self { agent: self.agent.clone(), options, password_file, deadline: self.deadline }
    }

    pub fn agent_name(&self) -> String {
        Path::new(&self.agent).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    /// What an operator recognises: `fence_ipmilan 10.0.9.11:623`.
    pub fn label(&self) -> String {
        let agent = self.agent_name();
        let place = self.place();
        let shown: Vec<_> = place.values().map(String::as_str).collect();
        if shown.is_empty() { agent } else { format!("{agent} {}", shown.join(":")) }
    }

    /// Which plug of which device: no two hosts may have the same.
    pub fn place(&self) -> BTreeMap<String, String> {
        let spelt = |key: &str| match key {
            "ipaddr" => "ip".to_owned(),
            // `port` is the old name of `plug`.
            "port" => "plug".to_owned(),
            "systems-uri" => "systems_uri".to_owned(),
            other => other.to_owned(),
        };
        let places = self.options.iter().filter(|(key, _)| PLACE.contains(&key.as_str()));
        places.map(|(key, value)| (spelt(key), value.clone())).collect()
    }

    fn path(&self) -> PathBuf {
        Path::new(AGENTS).join(&self.agent)
    }

    /// What the agent reads: one `name=value` a line, the action first.
    fn input(&self, action: Action) -> Result<(Secret, Option<Secret>), String> {
        let mut input = format!("action={}\n", action.name());
        for (name, value) in &self.options {
            input.push_str(&format!("{name}={value}\n"));
        }
        let Some(path) = &self.password_file else { return Ok((Secret::new(input), None)) };
        let password = password(path)?;
        input.push_str(&format!("password={}\n", password.expose()));
        Ok((Secret::new(input), Some(password)))
    }
}

/// Reads a password that nobody else can read.
///
/// # Errors
/// When it is missing, empty, of several lines, or readable for others.
pub fn password(path: &Path) -> Result<Secret, String> {
    Secret::read(path).map_err(|error| format!("password file {error}"))
}

/// What an agent is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Off,
    On,
    Status,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Off => "off",
            Action::On => "on",
            Action::Status => "status",
        }
    }
}

/// What became of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Never started: nothing reached any device.
    NotRun {
        why: String,
    },
    /// Did not end in time; it was killed, and what it did is unknown.
    Hung {
        after: Duration,
    },
    Ended {
        code: Option<i32>,
        stdout: String,
        stderr: String,
    },
}

impl Run {
    /// The power, if this was a status: only when exit code and text agree.
    pub fn power(&self) -> Power {
        let Run::Ended { code, stdout, .. } = self else { return Power::Unknown };
        let says = |word: &str| stdout.lines().any(|line| line.trim().eq_ignore_ascii_case(word));
        match (code, says("status: on"), says("status: off")) {
            (Some(0), true, false) => Power::On,
            (Some(2), false, true) => Power::Off,
            _ => Power::Unknown,
        }
    }

    /// One line for people.
    pub fn told(&self) -> String {
        match self {
            Run::NotRun { why } => format!("not run: {why}"),
            Run::Hung { after } => format!("no end within {} s, killed", after.as_secs()),
            Run::Ended { code, stdout, stderr } => {
                let words = last_line(stdout).or_else(|| last_line(stderr)).unwrap_or_default();
                let code = code.map_or_else(|| "killed by a signal".to_owned(), |code| format!("exit {code}"));
                if words.is_empty() { code } else { format!("{code}, \"{words}\"") }
            }
        }
    }
}

fn last_line(text: &str) -> Option<String> {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect())
}

/// Starts agents so that they end with us.
#[derive(Debug, Default)]
pub struct Runner {
    contained: OnceLock<bool>,
}

/// Wraps a program into a PID namespace, so that its children end with it.
const CONTAIN: [&str; 4] = ["unshare", "--pid", "--fork", "--kill-child=KILL"];

impl Runner {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a PID namespace can be had here; tried once.
    async fn contained(&self) -> bool {
        if let Some(known) = self.contained.get() {
            return *known;
        }
        let tried = Command::new(CONTAIN[0])
            .args(&CONTAIN[1..])
            .arg("true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        let works = tried.is_ok_and(|status| status.success());
        if !works {
            tracing::warn!(
                code = "MDV-FENCE-UNCONTAINED",
                "no PID namespaces here: helpers of a fence agent may outlive this process by their own time limit"
            );
        }
        *self.contained.get_or_init(|| works)
    }

    /// Runs the agent once. Takes at most the device's deadline and a moment.
    pub async fn run(&self, device: &Device, action: Action) -> Run {
        let (input, secret) = match device.input(action) {
            Ok(input) => input,
            Err(why) => return Run::NotRun { why },
        };
        let path = device.path();
        if !path.is_file() {
            let why = format!("{} is not there: install the package fence-agents, or correct `agent`", path.display());
            return Run::NotRun { why };
        }
        let mut child = match self.command(&path).await.spawn() {
            Ok(child) => child,
            Err(error) => return Run::NotRun { why: format!("{}: {error}", path.display()) },
        };
        let run = match tokio::time::timeout(device.deadline, talk(&mut child, input.expose())).await {
            Ok(Ok(run)) => run,
            Ok(Err(error)) => Run::Ended { code: None, stdout: String::new(), stderr: error.to_string() },
            Err(_) => Run::Hung { after: device.deadline },
        };
        end(&mut child).await;
        hidden(run, secret.as_ref().map(Secret::expose))
    }

    async fn command(&self, path: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if self.contained().await {
            command.args(CONTAIN);
        }
        command
            .arg(path)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// Gives the input, reads both outputs to their bounded end, waits.
async fn talk(child: &mut Child, input: &str) -> io::Result<Run> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // An agent that does not read its input still gets a verdict by its exit.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let (status, stdout, stderr, ()) = tokio::join!(child.wait(), bounded(stdout), bounded(stderr), write);
    Ok(Run::Ended { code: status?.code(), stdout, stderr })
}

async fn bounded(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0u8; 4096]);
    while let Ok(read) = pipe.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        let room = OUTPUT_MAX.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(&buffer[..room]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Kills the whole process group and reaps the child.
async fn end(child: &mut Child) {
    // `id` is there only while the child is not reaped, so no stranger's group is hit.
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        let _ = tokio::time::timeout(REAP, child.wait()).await;
    }
}

/// Takes the password out of what an agent printed.
fn hidden(run: Run, secret: Option<&str>) -> Run {
    match (run, secret) {
        (Run::Ended { code, stdout, stderr }, Some(secret)) => {
            let hide = |text: String| text.replace(secret, "***");
            Run::Ended { code, stdout: hide(stdout), stderr: hide(stderr) }
        }
        (run, _) => run,
    }
}
