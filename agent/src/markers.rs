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
//! marker; one that is a mount of its own has its own. Paths are those of QEMU and
//! libvirt, and are read as they see them (see `view`).

mod reading;

use crate::domain_xml::{directory_of, place_of};
use crate::guests::Marked;
use crate::view::View;
use reading::{Folders, Reading, Said, Sight};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
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
/// Why a marker in a directory proves nothing.
const DIFFERS: &str = "libvirt and a QEMU see different storages there";
/// A reader needs little.
const STACK: usize = 128 * 1024;

/// What is to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Disk images, and who uses them.
    pub files: BTreeMap<String, Used>,
    /// Directories of guests elsewhere: read only.
    pub directories: BTreeSet<String>,
}

/// How an image is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// A marker may be made beside it.
    pub make: bool,
    /// QEMUs that run with it, by pid and start time. Beside them it is libvirt that starts the next one.
    pub by: BTreeSet<(i32, u64)>,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub storage: BTreeMap<String, Marked>,
    /// Image -> the image behind it.
    pub backing: BTreeMap<String, String>,
}

/// Reads whatever is wanted, again and again, as libvirt and its QEMUs see it, and reports when
/// something changed. Ends when an end of its channels has gone.
pub async fn run(
    proc: PathBuf,
    mut wanted: watch::Receiver<Wanted>,
    mut libvirts: watch::Receiver<Option<View>>,
    found: mpsc::Sender<Found>,
) {
    // One slot per place: a thread never waits to hand over what it read.
    let (done, mut readings) = mpsc::channel(PLACES_MAX);
    let mut reader = Reader::new(done, Sight { proc, libvirts: libvirts.borrow_and_update().clone(), turn: 0 });
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
            changed = libvirts.changed() => {
                if changed.is_err() {
                    return;
                }
                reader.sees(libvirts.borrow_and_update().clone());
                next = Instant::now();
            }
            Some(reading) = readings.recv() => {
                if !reader.take(reading) {
                    next = Instant::now();
                }
            }
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
    sight: Sight,
    /// Places whose thread has not come back.
    began: BTreeMap<String, Instant>,
    found: Found,
    sent: Option<Found>,
}

impl Reader {
    fn new(done: mpsc::Sender<Reading>, sight: Sight) -> Reader {
        Reader { done, sight, began: BTreeMap::new(), found: Found::default(), sent: None }
    }

    /// libvirt sees files in another way than before, or is out of sight: a marker that was read
    /// stays what it is, but nobody has read it in the way that counts now.
    fn sees(&mut self, libvirts: Option<View>) {
        if self.sight.libvirts != libvirts {
            self.sight = Sight { libvirts, turn: self.sight.turn + 1, proc: self.sight.proc.clone() };
            self.found.storage.values_mut().for_each(|marked| marked.readable = false);
        }
    }

    fn begin(&mut self, wants: &Wanted) {
        let mut places: BTreeMap<String, Folders> = BTreeMap::new();
        for (path, used) in wants.files.iter().filter(|(p, _)| p.starts_with('/')) {
            let folder = directory_of(path);
            let place = places.entry(place_of(&folder).to_owned()).or_default();
            place.entry(folder).or_default().push((path.clone(), used.clone()));
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
        let (done, sight) = (self.done.clone(), self.sight.clone());
        let name = place.clone();
        let work = move || drop(done.blocking_send(reading::read(place, &folders, &sight)));
        let thread = std::thread::Builder::new().name("marker".into()).stack_size(STACK).spawn(work);
        match thread {
            Ok(_) => drop(self.began.insert(name, Instant::now())),
            Err(e) => tracing::warn!("cannot read the marker in {name}: no thread: {e}"),
        }
    }

    /// Takes a reading in; `false` when it was begun before the latest change of sight: it says nothing now.
    fn take(&mut self, reading: Reading) -> bool {
        self.began.remove(&reading.place);
        if reading.turn != self.sight.turn {
            return false;
        }
        for (directory, said) in reading.markers {
            let marked = self.found.storage.entry(directory).or_default();
            match said {
                Said::Marker(marker) => *marked = Marked { marker, readable: true, why: String::new() },
                // The directory answers and has none: what was known of it is no longer so.
                Said::Nothing => *marked = Marked::default(),
                Said::Silent => marked.readable = false,
                Said::Unseen(why) => (marked.readable, marked.why) = (false, why),
                Said::Differs => *marked = Marked { why: DIFFERS.to_owned(), ..Marked::default() },
            }
        }
        self.found.backing.extend(reading.backing);
        true
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const PROC: &str = "/proc";

    fn reader() -> (Reader, mpsc::Receiver<Reading>) {
        let (done, readings) = mpsc::channel(PLACES_MAX);
        let sight = Sight { proc: PROC.into(), libvirts: Some(View::Own), turn: 0 };
        (Reader::new(done, sight), readings)
    }

    fn reading(turn: u64, said: Said) -> Reading {
        Reading { place: "/d".into(), turn, markers: [("/d".into(), said)].into(), backing: vec![] }
    }

    fn image(path: &str) -> Wanted {
        let used = Used { make: true, by: BTreeSet::new() };
        Wanted { files: [(path.to_owned(), used)].into(), ..Wanted::default() }
    }

    #[tokio::test]
    async fn storage_that_stops_answering_keeps_its_marker_but_is_not_readable() {
        let (mut reader, _readings) = reader();
        reader.take(reading(0, Said::Marker("m".into())));
        assert!(reader.has_news() && !reader.has_news());
        reader.take(reading(0, Said::Silent));
        let kept = Marked { marker: "m".into(), ..Marked::default() };
        assert_eq!(reader.found.storage["/d"], kept);
        reader.take(reading(0, Said::Nothing));
        assert_eq!(reader.found.storage["/d"], Marked::default());
    }

    #[tokio::test]
    async fn what_was_read_with_a_container_that_is_gone_is_not_readable_until_its_successor_reads_it() {
        let (mut reader, _readings) = reader();
        reader.take(reading(0, Said::Marker("m".into())));
        reader.sees(Some(View::Own));
        assert!(reader.found.storage["/d"].readable, "nothing has changed");
        reader.sees(None);
        assert_eq!(reader.found.storage["/d"], Marked { marker: "m".into(), ..Marked::default() });
        assert!(!reader.take(reading(0, Said::Marker("m".into()))), "begun before that");
        assert!(!reader.found.storage["/d"].readable);
        assert!(reader.take(reading(1, Said::Marker("m".into()))) && reader.found.storage["/d"].readable);
    }

    #[tokio::test]
    async fn a_directory_that_is_two_storages_has_no_marker_and_says_why() {
        let (mut reader, _readings) = reader();
        reader.take(reading(0, Said::Marker("m".into())));
        reader.take(reading(0, Said::Differs));
        assert_eq!(reader.found.storage["/d"], Marked { why: DIFFERS.into(), ..Marked::default() });
    }

    #[tokio::test]
    async fn where_this_hosts_own_guests_lie_is_read_before_what_others_ask_for() {
        let (mut reader, _readings) = reader();
        let directories = (0..2 * PLACES_MAX).map(|n| format!("/missing/{n}")).collect();
        let own = "/missing/own".to_owned();
        reader.begin(&Wanted { directories, ..image(&format!("{own}/disk")) });
        assert!(reader.began.len() == PLACES_MAX && reader.began.contains_key(&own));
    }

    #[tokio::test]
    async fn what_is_wanted_is_read_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        fs::write(&path, b"x").unwrap();
        // Bound: one report at a time is enough here.
        let (tx, mut rx) = mpsc::channel(4);
        let (want, wanted) = watch::channel(Wanted::default());
        let (_libvirts, sight) = watch::channel(Some(View::Own));
        tokio::spawn(run(PROC.into(), wanted, sight, tx));
        want.send(image(&path.display().to_string())).unwrap();
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
