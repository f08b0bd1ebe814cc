//! The whole aggregator while its file is read again, and while its store is copied and put back.

#![allow(clippy::unwrap_used)]

mod common;

use common::certificates;
use medevac_aggregator::app::{self, Running};
use medevac_aggregator::config::Read;
use medevac_aggregator::reload::Reloader;
use medevac_aggregator::store::backup;
use medevac_proto::rest;
use medevac_triage::Wall;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

struct Site {
    dir: tempfile::TempDir,
    running: Running,
    reloader: Reloader,
}

fn text(dir: &Path) -> String {
    let shown = dir.display();
    format!(
        "listen = '127.0.0.1:0'\nsocket = '{shown}/sock'\nstate_dir = '{shown}/state'\n\
         machine_identity = '{shown}/machine-id'\n[metrics]\nlisten = ''\n\
         [tls]\nca = '{shown}/ca.pem'\ncert = '{shown}/aggregator.pem'\nkey = '{shown}/aggregator.key'\n"
    )
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        std::fs::write(dir.path().join("machine-id"), "machine-of-the-aggregator\n").unwrap();
        let path = dir.path().join("aggregator.toml");
        std::fs::write(&path, text(dir.path())).unwrap();
        let read = Read::load(&path).unwrap();
        let running = app::start(&read.config).await.unwrap();
        let reloader = running.reloader(&path, read);
        Self { dir, running, reloader }
    }

    fn write(&self, more: &str) {
        let whole = text(self.dir.path()) + more;
        std::fs::write(self.dir.path().join("aggregator.toml"), whole).unwrap();
    }

    async fn reload(&mut self, more: &str) -> Result<Vec<String>, String> {
        self.write(more);
        self.reloader.reload().await
    }

    async fn alerts(&self) -> Vec<rest::Alert> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder().unix_socket(self.dir.path().join("sock")).build().unwrap();
        let status: rest::Status = client.get("http://x/api/v1/status").send().await.unwrap().json().await.unwrap();
        status.alerts
    }

    async fn refused(&self) -> Option<String> {
        let mut alerts = self.alerts().await.into_iter();
        alerts.find(|alert| alert.code == "MDV-CONFIG-REFUSED").map(|alert| alert.text)
    }
}

const FENCE: &str = "[[fence]]\nhost = 'hv1'\nagent = 'fence_dummy'\n[fence.options]\nplug = '1'\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_taken_as_a_whole_or_not_at_all() {
    let mut site = Site::start().await;
    site.reload(&format!("{FENCE}[timing]\nsettle = '2m'\n")).await.unwrap();
    assert_eq!(site.refused().await, None);
    let faults = [
        ("[timing]\nsettle = '1ms'\n", "timing.settle = \"1ms\": must be a duration from \"2s\""),
        ("[timing]\nsettel = '1m'\n", "did you mean \"settle\""),
        ("plnaes = 3\n", "unknown key"),
        ("[segments.a]\nhosts = ['hv1']\n[segments.b]\nhosts = ['hv1']\n", "a host is in one"),
        ("[segments.a]\n[segments.a]\n", "duplicate key"),
        ("[timing\n", "not TOML"),
        ("[probe]\nbanner_ports = ['22']\n", "must be a list of whole numbers"),
        ("[timing]\nsettle = '1m'", "has no end"),
    ];
    for (more, why) in faults {
        let refused = site.reload(more).await.unwrap_err();
        assert!(refused.contains(why), "{more}: {refused}");
        let told = site.refused().await.unwrap();
        assert!(told.contains("refused since") && told.contains(why), "{told}");
    }
    site.reload(&format!("{FENCE}[timing]\nsettle = '1m'\n")).await.unwrap();
    assert_eq!(site.refused().await, None);
    site.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_restart_takes_refuses_all_of_it_by_name() {
    let mut site = Site::start().await;
    let safe = "[timing]\nprobe_deadline = '500ms'\n";
    let deadline = |site: &Site| site.running.registry.shared.sight.get().deadline;
    for (more, key) in [
        ("cloud = 'openstack'\n", "cloud"),
        ("host_running_me = 'hv1'\n", "host_running_me"),
        ("[identity]\nlifetime = '24h'\n", "[identity]"),
        ("[openstack]\ncloud = 'prod'\n", "[openstack]"),
    ] {
        let whole =
            if more.starts_with('[') { text(site.dir.path()) + more } else { more.to_owned() + &text(site.dir.path()) };
        std::fs::write(site.dir.path().join("aggregator.toml"), whole + safe).unwrap();
        let refused = site.reloader.reload().await.unwrap_err();
        assert!(refused.contains("only a restart") && refused.contains(key), "{refused}");
        assert_eq!(deadline(&site), Duration::from_millis(800), "nothing of it is taken");
    }
    site.reload(safe).await.unwrap();
    assert_eq!(deadline(&site), Duration::from_millis(500));
    site.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_running_store_comes_back_paused_and_observing() {
    let site = Site::start().await;
    let (state, copy) = (site.dir.path().join("state"), site.dir.path().join("copy.db"));
    backup::backup(&state, &copy, Wall(1)).unwrap();
    let Site { dir, running, reloader } = site;
    running.stop().await.unwrap();
    let order = backup::Order {
        state_dir: state,
        from: copy,
        machine: "machine-of-the-aggregator".into(),
        above: 0,
        reason: "tried out".into(),
        now: Wall(2),
    };
    let done = loop {
        match backup::restore(&order) {
            Err(backup::BackupError::Open(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => break other.unwrap(),
        }
    };
    let running = app::start(&Read::load(&dir.path().join("aggregator.toml")).unwrap().config).await.unwrap();
    let site = Site { dir, running, reloader };
    let told = site.alerts().await;
    let of = |code: &str| told.iter().find(|alert| alert.code == code).map(|alert| alert.text.clone());
    assert!(of("MDV-PAUSED").unwrap().contains("tried out") && of("MDV-RESTORED").is_some(), "{told:?}");
    assert_eq!(site.running.registry.shared.epoch.number, done.epoch + 1);
    site.running.stop().await.unwrap();
}

fn program(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_medevac-aggregator"));
    command.args(words).arg("--config").arg(dir.join("aggregator.toml")).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Killed at any moment, it has restored all or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_leaves_the_old_store_or_the_new_one() {
    let Site { dir, running, .. } = Site::start().await;
    running.stop().await.unwrap();
    let (path, state): (PathBuf, _) = (dir.path().to_owned(), dir.path().join("state"));
    let copy = path.join("copy.db");
    assert!(program(&path, &["backup", &copy.display().to_string()]).status().unwrap().success());
    let count = |from: &Path| {
        let probe = tempfile::tempdir().unwrap();
        let to = probe.path().join("look.db");
        backup::backup(from, &to, Wall(1)).unwrap(); // Reads it whole.
    };
    let (mut killed, mut done) = (0, 0);
    for wait in (0..60).map(|step| Duration::from_millis(step * 2)) {
        let words = ["restore", &copy.display().to_string(), "--reason", "killed"];
        let mut child = program(&path, &words).spawn().unwrap();
        std::thread::sleep(wait);
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        if ended.success() {
            done += 1
        } else {
            killed += 1
        };
        count(&state);
    }
    assert!(killed > 0, "none was killed, {done} ended first");
    assert!(
        program(&path, &["restore", &copy.display().to_string(), "--reason", "at last"]).status().unwrap().success()
    );
}
