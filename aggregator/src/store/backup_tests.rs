//! Copies of real files, whole and not.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::ports::Store;
use crate::store::sqlite::{FILE, Opened, Opening};
use medevac_triage::{Change, SegmentRecord, SiteRecord};
use std::os::unix::fs::MetadataExt;

const NOW: Wall = Wall(1_790_000_000_000);

struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn copy(&self) -> PathBuf {
        self.dir.path().join("copy.db")
    }

    fn open(&self) -> (SqliteStore, Opened) {
        let fence_deadline = Duration::from_secs(30);
        SqliteStore::open(&Opening { state_dir: self.state(), machine: "machine-a".into(), fence_deadline }).unwrap()
    }

    /// A store in which incident `number` was the last one.
    fn at(&self, number: u64) -> Opened {
        let (mut store, opened) = self.open();
        let site = SiteRecord { next_incident: number, ..SiteRecord::default() };
        let mode = medevac_triage::Mode::Act;
        let segment = SegmentRecord { id: "default".into(), mode, ..SegmentRecord::default() };
        let put = |key: &str, record| Change::Put(key.to_owned(), Box::new(record));
        let changes = [put("site", Record::Site(site)), put("segment/default", Record::Segment(segment))];
        store.commit(&opened.epoch, &changes).unwrap();
        opened
    }

    fn order(&self, from: &Path) -> Order {
        Order {
            state_dir: self.state(),
            from: from.to_owned(),
            machine: "machine-a".into(),
            above: 0,
            reason: "the disk was lost".into(),
            now: NOW,
        }
    }

    fn restore(&self) -> Result<Done, BackupError> {
        restore(&self.order(&self.copy()))
    }

    fn records(&self) -> Vec<(Key, Record)> {
        self.open().0.load().unwrap()
    }
}

fn incidents(records: &[(Key, Record)]) -> u64 {
    let site = records.iter().find_map(|(_, record)| if let Record::Site(site) = record { Some(site) } else { None });
    site.unwrap().next_incident
}

#[test]
fn a_copy_of_a_store_in_use_is_one_state_of_it_and_for_its_owner_alone() {
    let site = Site::new();
    let (mut store, opened) = site.open();
    let state = site.state();
    let writer = std::thread::spawn(move || {
        for number in 1..400 {
            let at = SiteRecord { next_incident: number, alerts: number, ..SiteRecord::default() };
            let segment = SegmentRecord { id: number.to_string().as_str().into(), ..SegmentRecord::default() };
            let puts = [("site", Record::Site(at)), ("segment/last", Record::Segment(segment))];
            let changes = puts.map(|(key, record)| Change::Put(key.to_owned(), Box::new(record)));
            store.commit(&opened.epoch, &changes).unwrap();
        }
    });
    let mut copies = 0;
    while !writer.is_finished() || copies == 0 {
        let to = site.dir.path().join(format!("{copies}.db"));
        backup(&state, &to, NOW).unwrap();
        assert_eq!(std::fs::metadata(&to).unwrap().mode() & 0o777, 0o600);
        let copy = Copy::read(&to).unwrap();
        let last =
            copy.records.iter().find_map(|(_, r)| if let Record::Segment(s) = r { Some(s.id.clone()) } else { None });
        if let Some(last) = last {
            assert_eq!(last.to_string(), incidents(&copy.records).to_string(), "both of one commit, or neither");
        }
        copies += 1;
    }
    writer.join().unwrap();
    assert!(matches!(backup(&state, &site.dir.path().join("0.db"), NOW), Err(BackupError::Exists(_))));
    let left: Vec<_> = std::fs::read_dir(site.dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("part")), "{left:?}");
}

#[test]
fn a_restored_store_goes_on_far_above_and_touches_nothing() {
    let site = Site::new();
    let first = site.at(3);
    backup(&site.state(), &site.copy(), NOW).unwrap();
    let second = site.at(8);
    let done = site.restore().unwrap();
    assert_eq!((done.site.as_str(), done.made), (first.site.as_str(), Some(NOW)));
    assert!(done.epoch > second.epoch.number + 999);
    let (mut store, opened) = site.open();
    assert_eq!((opened.epoch.number, &opened.site, &opened.secret), (done.epoch + 1, &first.site, &first.secret));
    assert_eq!(opened.earlier_fence_deadline, Duration::from_secs(30));
    let records = store.load().unwrap();
    assert!(incidents(&records) > 8, "a number names one order, for good");
    let modes: Vec<_> =
        records.iter().filter_map(|(_, r)| if let Record::Segment(s) = r { Some(s.mode) } else { None }).collect();
    assert_eq!(modes, [medevac_triage::Mode::Observe]);
    drop(store);
    assert_eq!(incidents(&Copy::read(&done.before.unwrap()).unwrap().records), 8, "what was there is kept");
}

#[test]
fn a_new_machine_gets_the_site_and_a_store_that_was_never_used_is_no_hindrance() {
    let (old, new) = (Site::new(), Site::new());
    let opened = old.at(3);
    backup(&old.state(), &old.copy(), NOW).unwrap();
    let order = Order { machine: "machine-b".into(), above: 40, ..new.order(&old.copy()) };
    let done = restore(&order).unwrap();
    assert_eq!((done.site.clone(), done.epoch, done.before), (opened.site, 1040, None));
    assert!(
        SqliteStore::open(&Opening {
            state_dir: new.state(),
            machine: "machine-b".into(),
            fence_deadline: Duration::ZERO
        })
        .is_ok()
    );
}

#[test]
fn what_is_no_copy_of_this_site_is_refused_and_nothing_changes() {
    let (site, other) = (Site::new(), Site::new());
    site.at(3);
    other.at(5);
    backup(&other.state(), &other.copy(), NOW).unwrap();
    let before = site.records();
    let foreign = restore(&site.order(&other.copy())).unwrap_err();
    assert!(matches!(foreign, BackupError::Foreign { .. }), "{foreign}");
    let whole = std::fs::read(other.copy()).unwrap();
    for (cut, why) in
        [(whole.len() / 2, "half"), (whole.len() - 4096, "the last page"), (100, "a head"), (0, "nothing")]
    {
        std::fs::write(site.copy(), &whole[..cut]).unwrap();
        let refused = site.restore().unwrap_err();
        assert!(matches!(refused, BackupError::NotWhole(..)), "{why}: {refused}");
    }
    std::fs::write(site.copy(), "a letter, not a store\n".repeat(500)).unwrap();
    assert!(matches!(site.restore().unwrap_err(), BackupError::NotWhole(..)));
    let itself = restore(&site.order(&site.state().join(FILE))).unwrap_err();
    assert!(matches!(itself, BackupError::Itself(_)), "{itself}");
    assert_eq!(site.records(), before);
}

#[test]
fn a_copy_with_a_record_that_nobody_can_read_or_of_a_newer_layout_is_refused() {
    let site = Site::new();
    site.at(3);
    backup(&site.state(), &site.copy(), NOW).unwrap();
    let copy = Connection::open(site.copy()).unwrap();
    copy.execute("INSERT INTO record VALUES('host/hv1', '{\"record\":\"starship\"}')", []).unwrap();
    let refused = site.restore().unwrap_err().to_string();
    assert!(refused.contains("host/hv1"), "{refused}");
    copy.execute("UPDATE meta SET value = '99' WHERE key = 'schema'", []).unwrap();
    assert!(matches!(site.restore().unwrap_err(), BackupError::Open(OpenError::NewerSchema { found: 99, .. })));
}

#[test]
fn the_store_of_a_running_aggregator_is_not_replaced() {
    let site = Site::new();
    site.at(3);
    backup(&site.state(), &site.copy(), NOW).unwrap();
    let _running = site.open();
    assert!(matches!(site.restore().unwrap_err(), BackupError::Open(OpenError::Locked { .. })));
}
