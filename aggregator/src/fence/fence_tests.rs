//! Fence agents that work, hang, lie, print rubbish or are missing.

#![allow(clippy::unwrap_used)]

use super::*;
use medevac_triage::IncidentId;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// A fence agent as a shell script that sees its input as `$input`.
fn agent(dir: &Path, name: &str, script: &str) -> Device {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\ninput=$(cat)\ncd {}\n{script}\n", dir.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Device {
        agent: path.to_string_lossy().into_owned(),
        options: [("ip".to_owned(), "10.0.9.11".to_owned())].into(),
        password_file: None,
        deadline: Duration::from_secs(10),
    }
}

/// Keeps its power in a file; obeys.
const HONEST: &str = r#"
printf '%s\n' "$input" >> log
action=$(printf '%s\n' "$input" | sed -n 's/^action=//p')
case $action in
  off|on) echo $action > power;;
  status) if [ "$(cat power 2>/dev/null)" = off ]; then echo "Status: OFF"; exit 2; else echo "Status: ON"; fi;;
  *) echo reboot > power;;
esac"#;

fn levels(devices: Vec<Device>) -> Levels {
    Levels { devices, runner: Arc::new(subprocess::Runner::new()) }
}

#[tokio::test]
async fn off_is_what_status_says_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let levels = levels(vec![agent(dir.path(), "fence_honest", HONEST)]);
    assert_eq!(levels.read(false).await.0, Power::On);
    let answer = levels.off().await;
    assert_eq!((answer.power, answer.nothing_sent), (Power::Off, false), "{}", answer.detail);
    assert_eq!(answer.device, "fence_honest 10.0.9.11");
    assert!(levels.on().await.0);
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let actions: Vec<_> = log.lines().filter(|line| line.starts_with("action=")).collect();
    let told = ["action=status", "action=off", "action=status", "action=on", "action=status"];
    assert_eq!(actions, told, "the action is always named");
}

#[tokio::test]
async fn an_agent_that_claims_success_and_does_nothing_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let liar = agent(
        dir.path(),
        "fence_liar",
        "case $input in *action=status*) echo 'Status: ON';; *) echo 'Success: Powered OFF';; esac",
    );
    let answer = levels(vec![liar]).off().await;
    assert_eq!(answer.power, Power::On);
    assert!(!answer.nothing_sent);
}

#[tokio::test]
async fn rubbish_with_the_exit_code_of_off_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let rubbish = agent(dir.path(), "fence_rubbish", "head -c 100000 /dev/urandom; echo usage: >&2; exit 2");
    let answer = levels(vec![rubbish]).off().await;
    assert_eq!(answer.power, Power::Unknown);
    assert!(answer.detail.len() < 2000, "what is shown is bounded");
    let both = agent(dir.path(), "fence_both", "echo 'Status: OFF'; exit 0");
    assert_eq!(levels(vec![both]).read(false).await.0, Power::Unknown);
}

#[tokio::test]
async fn an_agent_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let mut hanging = agent(dir.path(), "fence_hangs", "sleep 4321 & echo $! > child; sleep 4321");
    hanging.deadline = Duration::from_millis(500);
    let begun = Instant::now();
    let answer = levels(vec![hanging]).off().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(answer.power, Power::Unknown);
    assert!(answer.detail.contains("killed"), "{}", answer.detail);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!running("4321"), "a child of the agent is left");
}

fn running(word: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split('\0').any(|arg| arg == word)
    })
}

#[tokio::test]
async fn a_missing_agent_sent_nothing_and_says_what_to_install() {
    let dir = tempfile::tempdir().unwrap();
    let mut missing = agent(dir.path(), "fence_x", "");
    missing.agent = "fence_no_such".into();
    let answer = levels(vec![missing]).off().await;
    assert!(answer.nothing_sent);
    assert_eq!(answer.power, Power::Unknown);
    assert!(answer.detail.contains("install"), "{}", answer.detail);
}

#[tokio::test]
async fn the_second_level_is_tried_when_the_first_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broken = agent(dir.path(), "fence_broken", "echo 'Unable to connect' >&2; exit 1");
    let honest = agent(dir.path(), "fence_honest", HONEST);
    let answer = levels(vec![broken, honest]).off().await;
    assert_eq!(answer.power, Power::Off);
    assert!(answer.device.starts_with("fence_honest"));
    assert!(answer.detail.contains("Unable to connect"));
}

#[tokio::test]
async fn a_password_is_in_stdin_alone_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let mut options = std::fs::OpenOptions::new();
    let mut open = options.write(true).create(true).truncate(true).mode(0o600).open(&file).unwrap();
    std::io::Write::write_all(&mut open, b"hunter2\n").unwrap();
    let script = "tr '\\0' '\\n' < /proc/self/environ > environ; tr '\\0' ' ' < /proc/$$/cmdline > argv; echo \"$input\" >&2; echo \"$input\" > stdin; exit 1";
    let mut device = agent(dir.path(), "fence_shows", script);
    device.password_file = Some(file.clone());
    let answer = levels(vec![device.clone()]).off().await;
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(read("stdin").contains("password=hunter2"));
    assert!(!read("argv").contains("hunter2") && !read("environ").contains("hunter2"));
    assert!(!answer.detail.contains("hunter2"), "{}", answer.detail);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let answer = levels(vec![device]).off().await;
    assert!(answer.nothing_sent && answer.detail.contains("chmod 600"), "{}", answer.detail);
}

#[tokio::test]
async fn answers_go_into_the_inbox_and_a_new_start_waits_before_it_switches_on() {
    let dir = tempfile::tempdir().unwrap();
    let (inbox, mut seen) = mpsc::channel(16);
    let runtime = tokio::runtime::Handle::current();
    let levels = [(HostId::from("hv1"), vec![agent(dir.path(), "fence_honest", HONEST)])].into();
    let devices = Devices { levels, ..Devices::default() };
    let mut fencer = AgentFencer::new(devices, Duration::from_secs(60), inbox, runtime);
    let step = StepId { incident: IncidentId(1), step: 1 };
    fencer.off(step, &HostId::from("hv1"), &Through::Levels);
    let Some(Input::Seen(Observation::FenceAnswered { answer, .. })) = seen.recv().await else { panic!("no answer") };
    assert_eq!(answer.power, Power::Off);
    fencer.off(step, &HostId::from("hv2"), &Through::Levels);
    let Some(Input::Seen(Observation::FenceAnswered { answer, .. })) = seen.recv().await else { panic!("no answer") };
    assert!(answer.nothing_sent, "hv2 has no device");
    fencer.on(&HostId::from("hv1"), &Through::Levels);
    let Some(Input::Seen(Observation::PowerOnAnswered { done, detail, .. })) = seen.recv().await else {
        panic!("no answer")
    };
    assert!(!done && detail.contains("again in"), "{detail}");
}

/// A site that knows its hosts by one template, in a folder of its own.
fn templated(template: Device) -> (AgentFencer, mpsc::Receiver<Input>) {
    let (inbox, seen) = mpsc::channel(16);
    let templates = [("default".into(), template)].into();
    let runtime = tokio::runtime::Handle::current();
    (AgentFencer::new(Devices { templates, ..Devices::default() }, Duration::ZERO, inbox, runtime), seen)
}

fn at(address: &str, plug: &str) -> Through {
    Through::Template { segment: "default".into(), place: medevac_triage::Place::read(address, plug).unwrap() }
}

#[tokio::test]
async fn a_template_becomes_the_device_of_the_host_that_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    let mut template = agent(dir.path(), "fence_shows", r#"printf '%s\n' "$input" > stdin; exit 1"#);
    template.options =
        [("username".to_owned(), "admin".to_owned()), ("comment".to_owned(), "of {host}".to_owned())].into();
    template.password_file = Some(dir.path().join("{host}.password"));
    let file = dir.path().join("hv1.password");
    std::fs::write(&file, "hunter2\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (mut fencer, mut seen) = templated(template);
    fencer.read_power(&"hv1".into(), 7, &at("10.0.9.11", "3"), true);
    let Some(Input::Seen(Observation::PowerRead { read, power, looks, .. })) = seen.recv().await else { panic!() };
    assert_eq!((read, power, looks[0].device.as_str()), (7, Power::Unknown, "fence_shows 10.0.9.11:3"));
    let told = std::fs::read_to_string(dir.path().join("stdin")).unwrap();
    for line in ["action=status", "ip=10.0.9.11", "plug=3", "username=admin", "comment=of hv1", "password=hunter2"] {
        assert!(told.lines().any(|told| told == line), "{line} in {told}");
    }
    let elsewhere = Through::Template { segment: "edge".into(), place: Default::default() };
    let step = StepId { incident: IncidentId(1), step: 1 };
    fencer.off(step, &"hv1".into(), &elsewhere);
    let Some(Input::Seen(Observation::FenceAnswered { answer, .. })) = seen.recv().await else { panic!() };
    assert!(answer.nothing_sent && answer.power == Power::Unknown, "there is no such template any more");
}

#[tokio::test]
async fn an_order_never_waits_for_looks_at_healthy_hosts_and_ends_the_one_at_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "case $input in *action=status*ip=10.0.9.11) [ -e ordered ] || exec sleep 6543;; *action=status*) exec sleep 6543;; *action=off*) touch ordered;; esac\n{HONEST}"
    );
    let (mut fencer, mut seen) = templated(agent(dir.path(), "fence_slow", &script));
    for host in 1..40 {
        fencer.read_power(&HostId(format!("hv{host}")), 1, &at(&format!("10.0.9.1{host}"), ""), false);
        fencer.read_power(&HostId(format!("hv{host}")), 2, &at(&format!("10.0.9.1{host}"), ""), false);
    }
    assert_eq!(fencer.looking.len(), 39, "one look at each host, however often it is asked for");
    let until = Instant::now() + Duration::from_secs(10);
    while !running("6543") && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let begun = Instant::now();
    fencer.off(StepId { incident: IncidentId(1), step: 1 }, &"hv1".into(), &at("10.0.9.11", ""));
    let answer = tokio::time::timeout(Duration::from_secs(8), seen.recv()).await.unwrap();
    let Some(Input::Seen(Observation::FenceAnswered { answer, .. })) = answer else { panic!("{answer:?}") };
    assert_eq!(answer.power, Power::Off, "{}", answer.detail);
    assert!(begun.elapsed() < Duration::from_secs(8) && !fencer.looking.contains_key(&HostId::from("hv1")));
}

#[tokio::test]
async fn a_calm_look_asks_each_level_and_an_urgent_one_only_until_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    let honest = agent(dir.path(), "fence_honest", HONEST);
    let broken = agent(dir.path(), "fence_broken", "echo 'Unable to connect' >&2; exit 1");
    let levels = levels(vec![honest, broken]);
    let (power, looks) = levels.read(false).await;
    assert_eq!((power, looks.len(), looks[1].power), (Power::On, 2, Power::Unknown));
    assert!(looks[1].said.contains("Unable to connect"), "{}", looks[1].said);
    assert_eq!(levels.read(true).await.1.len(), 1);
}

#[test]
fn debug_output_of_a_device_shows_no_options() {
    let device = Device {
        agent: "fence_ipmilan".into(),
        options: [("login".to_owned(), "admin".to_owned()), ("passwd".to_owned(), "hunter2".to_owned())].into(),
        password_file: None,
        deadline: Duration::from_secs(1),
    };
    assert!(!format!("{device:?}").contains("hunter2"));
}

/// Not a test of its own: the process that the next one kills.
#[tokio::test]
#[ignore = "started by the test below, in a process of its own"]
async fn fences_until_killed() {
    let dir = std::path::PathBuf::from(std::env::var("FENCE_TEST_DIR").unwrap());
    let slow = agent(&dir, "fence_slow", "sleep 5432 & echo begun > begun; sleep 5432");
    levels(vec![slow]).off().await;
}

#[test]
fn a_fence_agent_dies_with_us_and_its_children_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut killed = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "fence::tests::fences_until_killed"])
        .env("FENCE_TEST_DIR", dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while !(dir.path().join("begun").exists() && running("5432")) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(running("5432"), "the agent has begun");
    killed.kill().unwrap();
    killed.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while running("5432") && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!running("5432"), "nothing of it is left");
}

#[tokio::test]
async fn a_clusterlabs_agent_is_understood() {
    if !Path::new("/usr/sbin/fence_dummy").exists() {
        eprintln!("skipped: the package fence-agents is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("power").to_string_lossy().into_owned();
    let levels = levels(vec![Device {
        agent: "fence_dummy".into(),
        options: [("status_file".to_owned(), file)].into(),
        password_file: None,
        deadline: Duration::from_secs(30),
    }]);
    assert!(levels.on().await.0);
    assert_eq!(levels.read(false).await.0, Power::On);
    let answer = levels.off().await;
    assert_eq!(answer.power, Power::Off, "{}", answer.detail);
    assert_eq!(levels.read(false).await.0, Power::Off);
}
