//! Real sockets in folders that stand for this host and for containers, beside a recorded /proc.
use super::*;
use crate::qemu::recorded::{Recorded, SELF_MOUNTS, START};
use std::os::unix::net::UnixListener;
use tempfile::TempDir;

const CONTAINER: &str = "mnt:[4026532999]";

struct Machine {
    host: TempDir,
    proc: Recorded,
}

/// Somebody listens below a root as libvirt does.
fn listen(root: &Path, socket: &str) -> UnixListener {
    let path = root.join(socket.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    UnixListener::bind(path).unwrap()
}

impl Machine {
    fn new() -> Machine {
        Machine { host: tempfile::tempdir().unwrap(), proc: Recorded::new() }
    }

    fn place(&self, socket: Option<&Path>) -> Place {
        let (root, proc) = (self.host.path().to_owned(), self.proc.path().to_owned());
        Place { root, proc, ..Place::new(LOCAL, socket) }
    }

    /// A libvirtd in a container with a /run of its own.
    fn container(&self, pid: i32) -> (TempDir, UnixListener) {
        let root = tempfile::tempdir().unwrap();
        let listener = listen(root.path(), SOCKETS[0]);
        self.proc.process(pid, "libvirtd", CONTAINER, root.path());
        (root, listener)
    }

    /// This test listens at the sockets: it is the daemon that /proc shows.
    fn we_are(&self, program: &str, mounts: &str, root: &Path) -> View {
        let pid = i32::try_from(std::process::id()).unwrap();
        self.proc.process(pid, program, mounts, root);
        View::Of { pid, start: START }
    }
}

async fn why(place: &Place) -> String {
    place.find().await.unwrap_err().to_string()
}

#[tokio::test]
async fn libvirt_on_the_host_is_left_to_its_own_client() {
    let machine = Machine::new();
    let _listener = listen(machine.host.path(), SOCKETS[1]);
    machine.we_are("virtqemud", SELF_MOUNTS, Path::new("/"));
    let found = machine.place(None).find().await.unwrap();
    assert_eq!((found.uri.as_str(), found.view.clone(), found.is_replaced()), (LOCAL, Some(View::Own), false));
}

#[tokio::test]
async fn a_container_that_shares_run_is_known_by_who_listens() {
    let (machine, root) = (Machine::new(), tempfile::tempdir().unwrap());
    let _listener = listen(machine.host.path(), SOCKETS[0]);
    let view = machine.we_are("libvirtd", CONTAINER, root.path());
    let found = machine.place(None).find().await.unwrap();
    assert_eq!((found.uri.as_str(), found.view), (LOCAL, Some(view)));
}

#[tokio::test]
async fn where_systemd_listens_the_daemon_that_runs_is_asked_and_else_systemd() {
    let (machine, root) = (Machine::new(), tempfile::tempdir().unwrap());
    let _listener = listen(machine.host.path(), SOCKETS[0]);
    machine.we_are("systemd", SELF_MOUNTS, Path::new("/"));
    assert_eq!(machine.place(None).find().await.unwrap().view, Some(View::Own));
    machine.proc.process(9, "libvirtd (deleted)", CONTAINER, root.path());
    assert_eq!(machine.place(None).find().await.unwrap().view, Some(View::Of { pid: 9, start: START }));
    machine.proc.process(10, "virtqemud", SELF_MOUNTS, Path::new("/"));
    assert_eq!(machine.place(None).find().await.unwrap().view, None, "two that see different files: nobody can tell");
}

#[tokio::test]
async fn a_container_with_a_run_of_its_own_is_found_by_its_process() {
    let machine = Machine::new();
    let (_root, _listener) = machine.container(9);
    let found = machine.place(None).find().await.unwrap();
    let socket = machine.proc.path().join("9/root/run/libvirt/libvirt-sock");
    assert_eq!(found.uri, format!("qemu+unix:///system?socket={}", socket.display()));
    assert_eq!(found.view, Some(View::Of { pid: 9, start: START }));
    machine.proc.ends(9);
    assert!(found.is_replaced());
}

#[tokio::test]
async fn of_several_containers_none_is_guessed() {
    let machine = Machine::new();
    let (first, _listener) = machine.container(9);
    let _second = machine.container(10);
    assert!(why(&machine.place(None)).await.contains("2 libvirts"));
    let named = first.path().join("run/libvirt/libvirt-sock");
    assert_eq!(machine.place(Some(&named)).find().await.unwrap().uri, by_socket(&named));
}

#[tokio::test]
async fn a_link_in_a_container_leads_nobody_to_another_socket() {
    let (machine, elsewhere) = (Machine::new(), tempfile::tempdir().unwrap());
    let _listener = listen(elsewhere.path(), SOCKETS[0]);
    let root = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("run"), root.path().join("run")).unwrap();
    machine.proc.process(9, "libvirtd", CONTAINER, root.path());
    assert!(why(&machine.place(None)).await.contains("set libvirt.socket"));
}

#[tokio::test]
async fn where_there_is_none_the_key_to_set_is_said() {
    let machine = Machine::new();
    let said = why(&machine.place(None)).await;
    assert!(said.contains("not at any known path") && said.contains("set libvirt.socket"), "{said}");
    let missing = machine.host.path().join("missing");
    assert!(why(&machine.place(Some(&missing))).await.contains("no socket is there"));
}

#[tokio::test]
async fn a_socket_that_was_made_anew_is_noticed() {
    let machine = Machine::new();
    let listener = listen(machine.host.path(), SOCKETS[0]);
    let found = machine.place(None).find().await.unwrap();
    let path = machine.host.path().join("run/libvirt/libvirt-sock");
    // Kept open: a file system may give the number of a file that is gone to the next one.
    fs::rename(&path, machine.host.path().join("former")).unwrap();
    let _anew = UnixListener::bind(&path).unwrap();
    assert!(found.is_replaced() && !machine.place(None).find().await.unwrap().is_replaced());
    drop(listener);
}
