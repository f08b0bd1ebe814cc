//! Markers: a small file with a random id in each directory that holds disks.
//!
//! Two hosts that read the same id there see the same storage; nothing else
//! proves that. Storage may hang for ever, so every directory is read by a
//! thread that nobody waits for: it is given a deadline, and left behind.
//!
//! ```text
//!   wanted files --> thread per place --> marker, image behind each image --> Found
//! ```
//!
//! A place is a directory, together with the folders below it that are named by a
//! UUID: Nova has one per server. Those on the file system of the place share its
//! marker; one that is a mount of its own has its own.

use crate::domain_xml::{directory_of, place_of};
use crate::guests::Marked;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Name of the marker file.
pub const MARKER: &str = ".medevac-storage-id";
/// Storage that has not answered after this long is not readable now.
const DEADLINE: Duration = Duration::from_secs(2);
/// Markers are read again this often: a mount that came or went is noticed.
const EVERY: Duration = Duration::from_secs(20);
/// Places read per host. Far above what guests use; keeps a bad order from starting threads.
const PLACES_MAX: usize = 256;
/// A reader needs little.
const STACK: usize = 128 * 1024;

/// What is to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Disk images; `true` where a marker may be made beside them.
    pub files: BTreeMap<String, bool>,
    /// Directories of guests elsewhere: read only.
    pub directories: BTreeSet<String>,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub storage: BTreeMap<String, Marked>,
    /// Image -> the image behind it.
    pub backing: BTreeMap<String, String>,
}

/// Directory -> images in it; `true` where a marker may be made beside one.
type Folders = BTreeMap<String, Vec<(String, bool)>>;

/// One place's reading.
#[derive(Debug)]
struct Reading {
    place: String,
    /// Of the place and of each folder. `Ok(None)`: there is no marker.
    markers: BTreeMap<String, io::Result<Option<String>>>,
    backing: Vec<(String, String)>,
}

/// Reads whatever is wanted, again and again, and reports when something changed.
/// Ends when either end of its channels has gone.
pub async fn run(mut wanted: watch::Receiver<Wanted>, found: mpsc::Sender<Found>) {
    // One slot per place: a thread never waits to hand over what it read.
    let (done, mut readings) = mpsc::channel(PLACES_MAX);
    let mut reader = Reader { done, began: BTreeMap::new(), found: Found::default(), sent: None };
    let mut next = Instant::now();
    let mut settled = Instant::now() + DEADLINE;
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                next = Instant::now();
            }
            Some(reading) = readings.recv() => reader.take(reading),
            () = tokio::time::sleep_until(next) => {
                let wants = wanted.borrow_and_update().clone();
                reader.begin(&wants);
                (next, settled) = (Instant::now() + EVERY, Instant::now() + DEADLINE);
            }
            () = tokio::time::sleep_until(settled), if !reader.began.is_empty() => {
                reader.give_up_waiting();
                settled = Instant::now() + DEADLINE;
            }
        }
        if reader.has_news() && found.send(reader.found.clone()).await.is_err() {
            return;
        }
    }
}

struct Reader {
    done: mpsc::Sender<Reading>,
    /// Places whose thread has not come back.
    began: BTreeMap<String, Instant>,
    found: Found,
    sent: Option<Found>,
}

impl Reader {
    fn begin(&mut self, wants: &Wanted) {
        let mut places: BTreeMap<String, Folders> = BTreeMap::new();
        for (path, make) in wants.files.iter().filter(|(p, _)| p.starts_with('/')) {
            let folder = directory_of(path);
            let place = places.entry(place_of(&folder).to_owned()).or_default();
            place.entry(folder).or_default().push((path.clone(), *make));
        }
        for folder in wants.directories.iter().filter(|d| d.starts_with('/')) {
            places.entry(place_of(folder).to_owned()).or_default().entry(folder.clone()).or_default();
        }
        let wanted = |folder: &str| {
            let place = place_of(folder);
            places.get(place).is_some_and(|folders| place == folder || folders.contains_key(folder))
        };
        self.found.storage.retain(|folder, _| wanted(folder));
        self.found.backing.retain(|p, _| wants.files.contains_key(p));
        // Where this host's own guests lie comes first.
        let mut places: Vec<(String, Folders)> = places.into_iter().collect();
        places.sort_by_key(|(_, folders)| folders.values().all(Vec::is_empty));
        for (place, folders) in places.into_iter().take(PLACES_MAX) {
            // A thread that hangs is not joined by a second one.
            if !self.began.contains_key(&place) {
                self.read(place, folders);
            }
        }
    }

    fn read(&mut self, place: String, folders: Folders) {
        let done = self.done.clone();
        let name = place.clone();
        let work = move || drop(done.blocking_send(read(place, &folders)));
        let thread = std::thread::Builder::new().name("marker".into()).stack_size(STACK).spawn(work);
        match thread {
            Ok(_) => drop(self.began.insert(name, Instant::now())),
            Err(e) => tracing::warn!("cannot read the marker in {name}: no thread: {e}"),
        }
    }

    fn take(&mut self, reading: Reading) {
        self.began.remove(&reading.place);
        for (directory, marker) in reading.markers {
            let marked = self.found.storage.entry(directory).or_default();
            match marker {
                Ok(Some(marker)) => *marked = Marked { marker, readable: true },
                // The directory answers and has none: what was known of it is no longer so.
                Ok(None) => *marked = Marked::default(),
                Err(_) => marked.readable = false,
            }
        }
        self.found.backing.extend(reading.backing);
    }

    fn give_up_waiting(&mut self) {
        for (place, _) in self.began.iter().filter(|(_, began)| began.elapsed() >= DEADLINE) {
            self.found.storage.entry(place.clone()).or_default();
            let in_it = self.found.storage.iter_mut().filter(|(d, _)| place_of(d) == place);
            in_it.for_each(|(_, marked)| marked.readable = false);
        }
    }

    /// Whether there is something new to report, counting it as reported.
    fn has_news(&mut self) -> bool {
        let news = self.sent.as_ref() != Some(&self.found);
        if news {
            self.sent = Some(self.found.clone());
        }
        news
    }
}

fn read(place: String, folders: &Folders) -> Reading {
    let home = device(&place);
    let shares = |folder: &String| *folder == place || home.is_some() && device(folder) == home;
    let (inside, apart): (Vec<_>, Vec<_>) = folders.iter().partition(|(folder, _)| shares(folder));
    // Where a mount is missing, the empty mount point must not get a marker of its own:
    // one is made only beside an image that is there.
    let there = |files: &[(String, bool)]| files.iter().any(|(path, make)| *make && Path::new(path).exists());
    let make = inside.iter().any(|(_, files)| there(files));
    let marker = read_marker(Path::new(&place), make);
    let same = || marker.as_ref().map(Clone::clone).map_err(|e| io::Error::from(e.kind()));
    let mut markers: BTreeMap<_, _> = inside.into_iter().map(|(folder, _)| (folder.clone(), same())).collect();
    for (folder, files) in apart {
        markers.insert(folder.clone(), read_marker(Path::new(folder), there(files)));
    }
    markers.insert(place.clone(), marker);
    let behind = |(path, _): &(String, bool)| Some((path.clone(), backing_file(Path::new(path))?));
    let backing = folders.values().flatten().filter_map(behind).collect();
    Reading { place, markers, backing }
}

/// The file system on which a directory lies.
fn device(directory: &str) -> Option<u64> {
    fs::metadata(directory).ok().map(|found| std::os::unix::fs::MetadataExt::dev(&found))
}

/// Reads the marker of a directory; makes one where there is none and it may.
fn read_marker(directory: &Path, make: bool) -> io::Result<Option<String>> {
    let path = directory.join(MARKER);
    match fs::metadata(directory) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    }
    for _ in 0..2 {
        match File::open(&path) {
            Ok(file) => return Ok(marker_in(file)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Err(_) if !make => return Ok(None),
            Err(_) => {}
        }
        // Made under its final name only if nobody else was faster; then theirs is read.
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                writeln!(file, "{}", uuid::Uuid::new_v4())?;
                file.sync_all()?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            // Read-only storage without a marker proves nothing, and harms nothing.
            Err(_) => return Ok(None),
        }
    }
    File::open(&path).map(marker_in)
}

/// A marker is a UUID; anything else (also one that is just being written) is none.
fn marker_in(file: File) -> Option<String> {
    let mut text = String::new();
    file.take(64).read_to_string(&mut text).ok()?;
    uuid::Uuid::parse_str(text.trim()).ok().map(|u| u.to_string())
}

/// The image behind a qcow2 image: a relative name counts from the image's own directory.
fn backing_file(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let mut header = [0; 20];
    file.read_exact(&mut header).ok()?;
    let offset = u64::from_be_bytes(header[8..16].try_into().ok()?);
    let length = u32::from_be_bytes(header[16..20].try_into().ok()?);
    // The format allows names of up to 1023 bytes within the first cluster.
    if header[..4] != *b"QFI\xfb" || offset == 0 || length == 0 || length > 1023 {
        return None;
    }
    let mut name = vec![0; length as usize];
    io::Seek::seek(&mut file, io::SeekFrom::Start(offset)).ok()?;
    file.read_exact(&mut name).ok()?;
    let name = String::from_utf8(name).ok()?;
    if name.contains("://") || name.starts_with("json:") {
        return Some(name);
    }
    Some(path.parent()?.join(name).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `read` finds in a directory with these images.
    fn marker_of(directory: &Path, files: &[(String, bool)]) -> Option<String> {
        let directory = directory.display().to_string();
        let mut reading = read(directory.clone(), &[(directory.clone(), files.to_vec())].into());
        reading.markers.remove(&directory).unwrap().unwrap()
    }

    #[test]
    fn a_marker_is_made_once_beside_an_image_and_read_by_all() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.img").display().to_string();
        let files = [(image.clone(), true)];
        assert_eq!(marker_of(dir.path(), &files), None, "no image, no marker");
        fs::write(&image, b"x").unwrap();
        let first = marker_of(dir.path(), &files);
        assert!(first.is_some());
        assert_eq!(marker_of(dir.path(), &[]), first);
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
        let folders = [1, 2, 3].map(|last| (folder(last), vec![(image(last), true)]));
        assert!(folders.iter().all(|(folder, _)| place_of(folder) == place));
        let markers = read(place.clone(), &folders.into()).markers;
        let marker = |directory: &String| markers[directory].as_ref().unwrap().clone();
        assert!(marker(&place).is_some() && marker(&folder(1)) == marker(&place));
        assert_eq!((marker(&folder(2)), marker(&folder(3))), (None, None));
        assert!(!Path::new(&folder(1)).join(MARKER).exists(), "nothing of ours lies among a server's files");
    }

    #[test]
    fn rubbish_is_no_marker() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MARKER), b"../../etc").unwrap();
        assert_eq!(read_marker(dir.path(), true).unwrap(), None);
        assert_eq!(read_marker(&dir.path().join("missing"), true).unwrap(), None);
    }

    #[test]
    fn the_image_behind_an_image_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("top.qcow2");
        let mut bytes = b"QFI\xfb\x00\x00\x00\x03".to_vec();
        bytes.extend_from_slice(&32u64.to_be_bytes());
        bytes.extend_from_slice(&10u32.to_be_bytes());
        bytes.resize(32, 0);
        bytes.extend_from_slice(b"base.qcow2");
        fs::write(&path, &bytes).unwrap();
        assert_eq!(backing_file(&path), Some(dir.path().join("base.qcow2").display().to_string()));
        fs::write(&path, &bytes[..20]).unwrap();
        assert_eq!(backing_file(&path), None, "cut short");
        fs::write(&path, b"raw").unwrap();
        assert_eq!(backing_file(&path), None);
    }

    #[tokio::test]
    async fn storage_that_stops_answering_keeps_its_marker_but_is_not_readable() {
        let (done, _rx) = mpsc::channel(1);
        let mut reader = Reader { done, began: BTreeMap::new(), found: Found::default(), sent: None };
        let reading = |marker| Reading { place: "/d".into(), markers: [("/d".into(), marker)].into(), backing: vec![] };
        reader.take(reading(Ok(Some("m".into()))));
        assert!(reader.has_news() && !reader.has_news());
        reader.take(reading(Err(io::Error::other("stale"))));
        let kept = Marked { marker: "m".into(), readable: false };
        assert_eq!(reader.found.storage["/d"], kept);
        reader.take(reading(Ok(None)));
        assert_eq!(reader.found.storage["/d"], Marked::default());
    }

    #[tokio::test]
    async fn where_this_hosts_own_guests_lie_is_read_before_what_others_ask_for() {
        let (done, _rx) = mpsc::channel(PLACES_MAX);
        let mut reader = Reader { done, began: BTreeMap::new(), found: Found::default(), sent: None };
        let directories = (0..2 * PLACES_MAX).map(|n| format!("/missing/{n}")).collect();
        let own = "/missing/own".to_owned();
        reader.begin(&Wanted { files: [(format!("{own}/disk"), true)].into(), directories });
        assert!(reader.began.len() == PLACES_MAX && reader.began.contains_key(&own));
    }

    #[tokio::test]
    async fn what_is_wanted_is_read_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.img");
        fs::write(&image, b"x").unwrap();
        // Bound: one report at a time is enough here.
        let (tx, mut rx) = mpsc::channel(4);
        let (want, wanted) = watch::channel(Wanted::default());
        tokio::spawn(run(wanted, tx));
        want.send(Wanted { files: [(image.display().to_string(), true)].into(), ..Wanted::default() }).unwrap();
        let found = async {
            while let Some(found) = rx.recv().await {
                if found.storage.values().any(|m| m.readable) {
                    return true;
                }
            }
            false
        };
        assert!(tokio::time::timeout(Duration::from_secs(5), found).await.unwrap());
    }
}
