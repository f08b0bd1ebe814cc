//! Places read on this machine, and in containers as a recorded /proc shows them.
use super::*;
use crate::domain_xml::place_of;
use crate::qemu::recorded::{Recorded, START};
use std::fs;
use tempfile::TempDir;

const CONTAINER: &str = "mnt:[4026532999]";
const LEFT_OVER: &str = "mnt:[4026532777]";
const QEMU: (i32, u64) = (7, START);
const LIBVIRTD: i32 = 9;

fn used(by: &[(i32, u64)]) -> Used {
    Used { make: true, by: by.iter().copied().collect() }
}

fn here() -> Sight {
    Sight { proc: "/proc".into(), libvirts: Some(View::Own), turn: 0 }
}

/// What is said of one directory with these images.
fn said_of(directory: &str, images: &[(&str, Used)], sight: &Sight) -> Said {
    let images = images.iter().map(|(path, used)| ((*path).to_owned(), used.clone())).collect();
    let mut reading = read(directory.to_owned(), &[(directory.to_owned(), images)].into(), sight);
    reading.markers.remove(directory).unwrap()
}

#[test]
fn a_marker_is_made_once_beside_an_image_and_read_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let (directory, image) = (dir.path().display().to_string(), dir.path().join("a.img").display().to_string());
    let images = [(image.as_str(), used(&[]))];
    assert_eq!(said_of(&directory, &images, &here()), Said::Nothing, "no image, no marker");
    fs::write(&image, b"x").unwrap();
    let first = said_of(&directory, &images, &here());
    assert!(matches!(first, Said::Marker(_)));
    assert_eq!(said_of(&directory, &[], &here()), first);
}

#[test]
fn folders_named_by_a_uuid_share_a_marker_unless_they_are_mounts_or_missing() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().display().to_string();
    let folder = |last: u32| format!("{place}/00000000-0000-0000-0000-00000000000{last}");
    let image = |last| format!("{}/disk", folder(last));
    fs::create_dir(folder(1)).unwrap();
    fs::write(image(1), b"x").unwrap();
    // Another file system, as a mount is.
    std::os::unix::fs::symlink("/proc", folder(2)).unwrap();
    let folders = [1, 2, 3].map(|last| (folder(last), vec![(image(last), used(&[]))]));
    assert!(folders.iter().all(|(folder, _)| place_of(folder) == place));
    let markers = read(place.clone(), &folders.into(), &here()).markers;
    assert!(matches!(markers[&place], Said::Marker(_)) && markers[&folder(1)] == markers[&place]);
    assert_eq!((&markers[&folder(2)], &markers[&folder(3)]), (&Said::Nothing, &Said::Nothing));
    assert!(!Path::new(&folder(1)).join(MARKER).exists(), "nothing of ours lies among a server's files");
}

#[test]
fn rubbish_is_no_marker() {
    let dir = tempfile::tempdir().unwrap();
    let root = View::Own.enter(Path::new("/proc")).unwrap();
    fs::write(dir.path().join(MARKER), b"../../etc").unwrap();
    assert_eq!(read_marker(&root, dir.path(), true).unwrap(), None);
    assert_eq!(read_marker(&root, &dir.path().join("missing"), true).unwrap(), None);
}

#[test]
fn the_image_behind_an_image_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let root = View::Own.enter(Path::new("/proc")).unwrap();
    let path = dir.path().join("top.qcow2");
    let mut bytes = b"QFI\xfb\x00\x00\x00\x03".to_vec();
    bytes.extend_from_slice(&32u64.to_be_bytes());
    bytes.extend_from_slice(&10u32.to_be_bytes());
    bytes.resize(32, 0);
    bytes.extend_from_slice(b"base.qcow2");
    fs::write(&path, &bytes).unwrap();
    assert_eq!(backing_file(&root, &path), Some(dir.path().join("base.qcow2").display().to_string()));
    fs::write(&path, &bytes[..20]).unwrap();
    assert_eq!(backing_file(&root, &path), None, "cut short");
    fs::write(&path, b"raw").unwrap();
    assert_eq!(backing_file(&root, &path), None);
}

/// A libvirt in a container, its QEMU, and what the two and the host have at one path.
struct Containers {
    proc: Recorded,
    root: TempDir,
    left_over: TempDir,
    /// The same path on the host.
    host: TempDir,
}

impl Containers {
    fn new() -> Containers {
        let folder = || tempfile::tempdir().unwrap();
        let containers = Containers { proc: Recorded::new(), root: folder(), left_over: folder(), host: folder() };
        containers.proc.process(LIBVIRTD, "libvirtd", CONTAINER, containers.root.path());
        containers.proc.process(QEMU.0, "qemu-kvm", CONTAINER, containers.root.path());
        containers.fill(&containers.host, "a decoy");
        containers
    }

    fn directory(&self) -> String {
        self.host.path().join("instances").display().to_string()
    }

    fn image(&self) -> String {
        format!("{}/disk", self.directory())
    }

    /// Puts an image at the path, as somebody sees it.
    fn fill(&self, root: &TempDir, content: &str) {
        let inside = self.inside(root);
        fs::create_dir_all(&inside).unwrap();
        fs::write(inside.join("disk"), content).unwrap();
    }

    fn inside(&self, root: &TempDir) -> PathBuf {
        let directory = self.directory();
        // The host's own root is the machine's.
        if root.path() == self.host.path() {
            directory.into()
        } else {
            root.path().join(directory.trim_start_matches('/'))
        }
    }

    fn sight(&self) -> Sight {
        let view = View::Of { pid: LIBVIRTD, start: START };
        Sight { proc: self.proc.path().to_owned(), libvirts: Some(view), turn: 0 }
    }

    fn said(&self, by: &[(i32, u64)], sight: &Sight) -> Said {
        said_of(&self.directory(), &[(&self.image(), used(by))], sight)
    }
}

#[test]
fn a_marker_is_made_and_read_where_the_container_has_the_image_and_not_on_the_host() {
    let c = Containers::new();
    assert_eq!(c.said(&[QEMU], &c.sight()), Said::Nothing, "what lies on the host is not asked");
    c.fill(&c.root, "an image");
    let said = c.said(&[QEMU], &c.sight());
    assert!(matches!(&said, Said::Marker(marker)
        if fs::read_to_string(c.inside(&c.root).join(MARKER)).unwrap().trim() == marker));
    assert!(!c.inside(&c.host).join(MARKER).exists());
    assert_eq!(c.said(&[], &c.sight()), said, "stopped: libvirt sees it");
}

#[test]
fn a_qemu_that_outlived_its_container_is_asked_beside_the_new_libvirt() {
    let c = Containers::new();
    c.fill(&c.root, "an image");
    c.fill(&c.left_over, "an image");
    c.proc.process(QEMU.0, "qemu-kvm", LEFT_OVER, c.left_over.path());
    assert_eq!(c.said(&[QEMU], &c.sight()), Said::Differs, "two folders, each with a marker of its own");
    let marker = c.inside(&c.root).join(MARKER);
    fs::copy(&marker, c.inside(&c.left_over).join(MARKER)).unwrap();
    assert!(matches!(c.said(&[QEMU], &c.sight()), Said::Marker(_)), "the same storage in both");
}

#[test]
fn while_libvirt_is_out_of_sight_only_what_runs_can_be_looked_at() {
    let c = Containers::new();
    c.fill(&c.root, "an image");
    let out_of_sight = Sight { libvirts: None, ..c.sight() };
    assert!(matches!(c.said(&[], &out_of_sight), Said::Unseen(_)));
    assert!(matches!(c.said(&[QEMU], &out_of_sight), Said::Marker(_)));
    c.proc.ends(QEMU.0);
    assert!(matches!(c.said(&[QEMU], &out_of_sight), Said::Unseen(_)), "it has ended meanwhile");
    assert!(matches!(c.said(&[QEMU], &c.sight()), Said::Marker(_)), "libvirt sees it still");
}

#[test]
fn a_container_that_ended_and_whose_number_another_process_has_is_not_asked() {
    let c = Containers::new();
    c.fill(&c.root, "an image");
    let former = Sight { libvirts: Some(View::Of { pid: LIBVIRTD, start: 1 }), ..c.sight() };
    assert!(matches!(c.said(&[], &former), Said::Unseen(_)));
}
