//! Against libvirt's own test driver: no daemon, but the real library, its event loop and XML.
use super::*;
use crate::verdict;

const XML: &str = "<domain type='test'><name>mdv</name><uuid>3f1a2b3c-0000-4000-8000-00000000000a</uuid>\
    <memory unit='MiB'>64</memory><os><type>hvm</type></os>\
    <metadata><m:protect xmlns:m='urn:medevac:1'/></metadata></domain>";
const UUID: &str = "3f1a2b3c-0000-4000-8000-00000000000a";

async fn connected() -> (Libvirt, mpsc::Receiver<Report>) {
    let libvirt = Libvirt::new("test:///default", None, Duration::from_secs(5)).unwrap();
    // Bound: more than this test makes happen.
    let (tx, mut rx) = mpsc::channel(256);
    tokio::spawn(libvirt.clone().supervise(tx));
    let first = tokio::time::timeout(Duration::from_secs(10), rx.recv()).await.unwrap();
    assert!(matches!(first, Some(Report::Connected)), "{first:?}");
    (libvirt, rx)
}

async fn lifecycle(rx: &mut mpsc::Receiver<Report>, uuid: &str, wanted: i32) -> i32 {
    loop {
        let report = tokio::time::timeout(Duration::from_secs(10), rx.recv()).await.unwrap();
        if let Some(Report::Event(Event::Lifecycle { uuid: u, event, detail })) = report
            && u == uuid
            && event == wanted
        {
            return detail;
        }
    }
}

#[tokio::test]
async fn a_domain_lives_and_dies_and_every_step_is_heard() {
    let (libvirt, mut rx) = connected().await;
    libvirt.define(XML).await.unwrap();
    libvirt.start(UUID).await.unwrap();
    lifecycle(&mut rx, UUID, 2).await;
    let d = libvirt.domain(UUID).await.unwrap().unwrap();
    assert!(verdict::is_running(&d) && d.persistent && d.description.unwrap().marked);
    libvirt.destroy(UUID).await.unwrap();
    let detail = lifecycle(&mut rx, UUID, verdict::event::STOPPED).await;
    assert_eq!(verdict::stopped(detail, None), medevac_proto::session::StopReason::Destroyed);
    let d = libvirt.domains().await.unwrap().into_iter().find(|d| d.uuid == UUID).unwrap();
    assert!(!verdict::is_active(&d));
    libvirt.set_autostart(UUID, true).await.unwrap();
    libvirt.note_autostart(UUID, true).await.unwrap();
    let d = libvirt.domain(UUID).await.unwrap().unwrap();
    assert!(d.autostart && d.description.clone().unwrap().autostart_noted && d.description.unwrap().marked);
    libvirt.note_autostart(UUID, false).await.unwrap();
    assert!(!libvirt.domain(UUID).await.unwrap().unwrap().description.unwrap().autostart_noted);
    libvirt.set_autostart(UUID, false).await.unwrap();
    assert_eq!(libvirt.migration(UUID).await.ok(), Some(Migration::None));
    libvirt.undefine(UUID).await.unwrap();
    assert_eq!(libvirt.domain(UUID).await.unwrap(), None);
    assert!(matches!(libvirt.start(UUID).await, Err(Fault::Refused(_))));
}

#[tokio::test]
async fn rubbish_is_refused_with_libvirts_own_words() {
    let (libvirt, _rx) = connected().await;
    for xml in ["<domain/>", "rubbish", "a\0b"] {
        assert!(matches!(libvirt.define(xml).await, Err(Fault::Refused(_))), "{xml}");
    }
}

#[tokio::test]
async fn a_missing_libvirt_is_said_and_tried_again() {
    let uri = "qemu+unix:///system?socket=/nonexistent/libvirt-sock";
    let libvirt = Libvirt::new(uri, None, Duration::from_secs(2)).unwrap();
    // Bound: two reports are looked at.
    let (tx, mut rx) = mpsc::channel(4);
    tokio::spawn(libvirt.clone().supervise(tx));
    for _ in 0..2 {
        let report = tokio::time::timeout(Duration::from_secs(10), rx.recv()).await.unwrap();
        assert!(matches!(report, Some(Report::Lost(_))), "{report:?}");
    }
    assert!(matches!(libvirt.domains().await, Err(Fault::NotAnswering(_))));
}

#[tokio::test]
async fn a_libvirt_that_accepts_and_never_answers_is_given_up_and_hides_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    // Never accepted: the kernel completes the connection by itself, as for a stopped libvirtd.
    let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let hung = Libvirt::new(&uri, None, Duration::from_secs(2)).unwrap();
    // Bound: one report is looked at.
    let (tx, mut rx) = mpsc::channel(4);
    tokio::spawn(hung.supervise(tx));
    let (good, _reports) = connected().await;
    assert!(!good.domains().await.unwrap().is_empty(), "another connection is not held up");
    let report = tokio::time::timeout(Duration::from_secs(10), rx.recv()).await.unwrap();
    assert!(matches!(report, Some(Report::Lost(why)) if why.contains("not connected within")));
}
