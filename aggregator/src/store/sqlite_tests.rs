//! The store on real files.

#![allow(clippy::unwrap_used)]

use super::*;
use medevac_triage::SiteRecord;

fn opening(dir: &Path) -> Opening {
    Opening { state_dir: dir.to_owned(), machine: "machine-a".into(), fence_deadline: Duration::from_secs(30) }
}

fn site(next_incident: u64) -> Record {
    Record::Site(SiteRecord { next_incident, ..SiteRecord::default() })
}

fn set(key: &str, record: Record) -> Change {
    Change::Put(key.to_owned(), Box::new(record))
}

#[test]
fn what_was_committed_is_there_at_the_next_start_under_a_higher_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, first) = SqliteStore::open(&opening(dir.path())).unwrap();
    store.commit(&first.epoch, &[set("site", site(7)), set("gone", site(1))]).unwrap();
    store.commit(&first.epoch, &[Change::Delete("gone".into())]).unwrap();
    drop(store);
    let (mut store, second) = SqliteStore::open(&opening(dir.path())).unwrap();
    assert_eq!(store.load().unwrap(), vec![("site".to_owned(), site(7))]);
    assert_eq!(second.epoch.number, first.epoch.number + 1);
    assert_ne!(second.epoch.start, first.epoch.start);
    assert_eq!(second.site, first.site);
    assert_eq!(second.secret, first.secret);
    assert_eq!(second.earlier_fence_deadline, Duration::from_secs(30));
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _) = SqliteStore::open(&opening(dir.path())).unwrap();
    assert!(matches!(SqliteStore::open(&opening(dir.path())), Err(OpenError::Locked { .. })));
}

#[test]
fn files_are_readable_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (mut store, opened) = SqliteStore::open(&opening(&state)).unwrap();
    store.commit(&opened.epoch, &[set("site", site(1))]).unwrap();
    assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    for file in std::fs::read_dir(&state).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o077, 0, "{:?}", file.path());
    }
}

#[test]
fn a_superseded_epoch_cannot_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, opened) = SqliteStore::open(&opening(dir.path())).unwrap();
    let twin = Epoch { number: opened.epoch.number, start: "another start".into() };
    assert!(matches!(store.commit(&twin, &[set("site", site(1))]), Err(StoreError::Superseded { .. })));
    let older = Epoch { number: opened.epoch.number - 1, start: opened.epoch.start.clone() };
    assert!(matches!(store.commit(&older, &[set("site", site(1))]), Err(StoreError::Superseded { .. })));
    assert!(store.load().unwrap().is_empty());
}

#[test]
fn a_copy_on_another_machine_is_refused_and_names_the_command_that_resolves_it() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(&opening(dir.path())).unwrap());
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join(FILE), copy.path().join(FILE)).unwrap();
    let foreign = Opening { machine: "machine-b".into(), ..opening(copy.path()) };
    let error = SqliteStore::open(&foreign).unwrap_err();
    assert!(matches!(error, OpenError::ForeignMachine { .. }));
    assert!(error.to_string().contains("take-over --reason"));
    let raised = SqliteStore::take_over(copy.path(), "machine-b", 40, "the old server burnt down").unwrap();
    assert_eq!(raised, 40 + TAKE_OVER_STEP);
    let (_, opened) = SqliteStore::open(&foreign).unwrap();
    assert_eq!(opened.epoch.number, raised + 1);
}

#[test]
fn a_copy_on_the_same_machine_identity_gets_the_same_number_and_another_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(&opening(dir.path())).unwrap());
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join(FILE), copy.path().join(FILE)).unwrap();
    let (_a, original) = SqliteStore::open(&opening(dir.path())).unwrap();
    let (_b, twin) = SqliteStore::open(&opening(copy.path())).unwrap();
    assert_eq!(original.epoch.number, twin.epoch.number);
    assert_ne!(original.epoch.start, twin.epoch.start, "agents tell them apart by the start id");
}

#[test]
fn a_commit_is_whole_or_not_at_all_when_the_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, opened) = SqliteStore::open(&opening(dir.path())).unwrap();
    let pages: i64 = store.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    store.connection.pragma_update(None, "max_page_count", pages + 2).unwrap();
    let long = Record::Xml(medevac_triage::XmlRecord { hash: "h".into(), xml: "x".repeat(64 * 1024) });
    let error = store.commit(&opened.epoch, &[set("site", site(9)), set("xml/h", long)]).unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
    drop(store);
    let (mut store, _) = SqliteStore::open(&opening(dir.path())).unwrap();
    assert!(store.load().unwrap().is_empty(), "nothing of the failed commit is left");
}

#[test]
fn a_torn_tail_of_the_log_loses_only_the_unfinished_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, opened) = SqliteStore::open(&opening(dir.path())).unwrap();
    store.commit(&opened.epoch, &[set("site", site(1))]).unwrap();
    let wal = dir.path().join("medevac.db-wal");
    let whole = std::fs::metadata(&wal).unwrap().len();
    store.commit(&opened.epoch, &[set("site", site(2)), set("other", site(3))]).unwrap();
    // As a power cut in the middle of the second commit leaves it.
    let crashed = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join(FILE), crashed.path().join(FILE)).unwrap();
    let torn = std::fs::read(&wal).unwrap();
    std::fs::write(crashed.path().join("medevac.db-wal"), &torn[..usize::try_from(whole).unwrap() + 1000]).unwrap();
    let (mut store, _) = SqliteStore::open(&opening(crashed.path())).unwrap();
    assert_eq!(store.load().unwrap(), vec![("site".to_owned(), site(1))]);
}

#[test]
fn a_damaged_record_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(&opening(dir.path())).unwrap();
    store.connection.execute("INSERT INTO record VALUES('host/hv1', '{')", []).unwrap();
    let error = store.load().unwrap_err();
    assert!(error.to_string().contains("host/hv1"), "{error}");
}

#[test]
fn a_newer_layout_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = SqliteStore::open(&opening(dir.path())).unwrap();
    store.connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema'", []).unwrap();
    drop(store);
    assert!(matches!(SqliteStore::open(&opening(dir.path())), Err(OpenError::NewerSchema { found: 99, .. })));
}

#[test]
fn debug_output_holds_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, opened) = SqliteStore::open(&opening(dir.path())).unwrap();
    assert!(!format!("{opened:?}").contains(&opened.secret));
}

#[test]
fn a_store_that_takes_over_gives_no_number_that_another_copy_may_have_given() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, opened) = SqliteStore::open(&opening(dir.path())).unwrap();
    store.commit(&opened.epoch, &[set("site", site(7))]).unwrap();
    drop(store);
    let epoch = SqliteStore::take_over(dir.path(), "machine-a", 0, "an old copy").unwrap();
    let (mut store, _) = SqliteStore::open(&opening(dir.path())).unwrap();
    let [(_, Record::Site(kept))] = &store.load().unwrap()[..] else { panic!() };
    assert!(kept.next_incident >= epoch * 1000 && kept.alerts >= epoch * 1000, "{kept:?}");
}
