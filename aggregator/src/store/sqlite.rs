//! The store: one SQLite file in a directory that one process owns.
//!
//! ```text
//!   state_dir/            0700
//!     lock                flock: a second process on this directory is refused
//!     medevac.db          0600
//!       record(key, value)   one small JSON record each
//!       meta(key, value)     site, machine, epoch number and start, secret, ...
//! ```
//!
//! Each opening commits epoch number + 1 with a new random start id before
//! anything else: what an older process, or a copy of this file elsewhere,
//! still tries to write or order is told apart by it.

use crate::engine::written;
use crate::ports::{Store, StoreError};
use medevac_triage::{Change, Epoch, Key, Record};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const FILE: &str = "medevac.db";
/// The layout of the tables. A newer one is refused, an older one migrated.
pub(super) const SCHEMA: u64 = 1;
/// How far a take-over jumps: farther than any other copy of this file can
/// have come by being started over and over in the meantime.
const TAKE_OVER_STEP: u64 = 1000;

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {source}; the state directory must exist on a local disk and belong to the user that runs this")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is in use by another process: one aggregator at a time; stop that one first")]
    Locked { path: PathBuf },
    #[error(
        "{path} was written on another machine (its machine id begins with {pinned}, ours with {own}): this is a copy. \
         Two deciders would order the same hosts. If the other one is gone for good, run: \
         medevac-aggregator take-over --reason '...'"
    )]
    ForeignMachine { path: PathBuf, pinned: String, own: String },
    #[error(
        "{path} has layout {found}, this version knows {SCHEMA}: install the version that wrote it, or a newer one"
    )]
    NewerSchema { path: PathBuf, found: u64 },
    #[error("{path}: {source}; look at free space and permissions, or restore a backup")]
    Sqlite {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("{path}: {what} is missing or unreadable: the file is damaged; restore a backup")]
    Damaged { path: PathBuf, what: &'static str },
}

/// The highest epoch of somebody else that an agent named.
const RIVAL: &str = "rival_epoch";
/// The longest that an order of any start may be under way.
const FENCE_DEADLINE: &str = "fence_deadline_ms";

/// What a store says of itself.
pub(super) type Meta = std::collections::BTreeMap<String, String>;

/// What must be known to open a store.
#[derive(Clone, Debug)]
pub struct Opening {
    pub state_dir: PathBuf,
    /// Identity of this machine; the store is pinned to it.
    pub machine: String,
    /// The longest that a fence order of this process can take.
    pub fence_deadline: Duration,
}

/// What the store told at opening.
#[derive(Clone)]
pub struct Opened {
    pub site: String,
    pub epoch: Epoch,
    /// Orders of earlier starts may be under way for this long.
    pub earlier_fence_deadline: Duration,
    /// From which the responders' keys are derived: 32 bytes, hex.
    pub secret: String,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("site", &self.site).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// The open store. Holds the directory's lock for as long as it lives.
#[derive(Debug)]
pub struct SqliteStore {
    pub(super) connection: Connection,
    path: PathBuf,
    _lock: File,
}

impl SqliteStore {
    /// Locks the directory, makes or opens the database, commits the next epoch.
    ///
    /// # Errors
    /// Another process, another machine's copy, a damaged or newer file, a full disk.
    pub fn open(opening: &Opening) -> Result<(Self, Opened), OpenError> {
        let mut store = Self::attach(&opening.state_dir)?;
        let path = store.path.clone();
        let failed = |source| OpenError::Sqlite { path: path.clone(), source };
        let tx = store.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let pinned = get(&tx, "machine").map_err(failed)?;
        match pinned {
            None => put(&tx, "machine", &opening.machine).map_err(failed)?,
            Some(pinned) if pinned == opening.machine => {}
            Some(pinned) => {
                let (pinned, own) = (head(&pinned), head(&opening.machine));
                return Err(OpenError::ForeignMachine { path: path.clone(), pinned, own });
            }
        }
        let number = number(&tx, "epoch")
            .map_err(failed)?
            .ok_or(OpenError::Damaged { path: path.clone(), what: "the epoch" })?;
        let epoch = Epoch { number: number + 1, start: random() };
        put(&tx, "epoch", &epoch.number.to_string()).map_err(failed)?;
        put(&tx, "start", &epoch.start).map_err(failed)?;
        let earlier = number_or(&tx, FENCE_DEADLINE, 0).map_err(failed)?;
        let longest = earlier.max(medevac_triage::millis(opening.fence_deadline));
        put(&tx, FENCE_DEADLINE, &longest.to_string()).map_err(failed)?;
        let need =
            |what: &'static str, value: Option<String>| value.ok_or(OpenError::Damaged { path: path.clone(), what });
        let site = need("the site id", get(&tx, "site").map_err(failed)?)?;
        let secret = need("the site's secret", get(&tx, "secret").map_err(failed)?)?;
        tx.commit().map_err(failed)?;
        let opened = Opened { site, epoch, earlier_fence_deadline: Duration::from_millis(earlier), secret };
        Ok((store, opened))
    }

    /// Makes this machine the store's own and jumps above every epoch that a
    /// copy can have reached, and above every epoch that an agent named to this
    /// store's aggregator. `above` adds what a person read elsewhere.
    ///
    /// # Errors
    /// As for [`SqliteStore::open`], but for another machine's copy.
    pub fn take_over(state_dir: &Path, machine: &str, above: u64, reason: &str) -> Result<u64, OpenError> {
        let mut store = Self::attach(state_dir)?;
        let path = store.path.clone();
        let failed = |source| OpenError::Sqlite { path: path.clone(), source };
        let tx = store.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let number = number(&tx, "epoch")
            .map_err(failed)?
            .ok_or(OpenError::Damaged { path: path.clone(), what: "the epoch" })?;
        let met = number_or(&tx, RIVAL, 0).map_err(failed)?;
        let next = self::above(number.max(above).max(met));
        put(&tx, "epoch", &next.to_string()).map_err(failed)?;
        put(&tx, "start", &random()).map_err(failed)?;
        put(&tx, "machine", machine).map_err(failed)?;
        put(&tx, &format!("take_over/{next}"), reason).map_err(failed)?;
        jump(&tx, next).map_err(failed)?;
        tx.commit().map_err(failed)?;
        Ok(next)
    }

    /// Locks the directory and makes the tables; the epoch stays as it is.
    pub(super) fn attach(dir: &Path) -> Result<Self, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))?;
        let mode = std::fs::metadata(dir).map_err(io(dir))?.mode();
        if mode & 0o077 != 0 {
            // Domain XML and the responders' secret are in there.
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(io(dir))?;
        }
        let lock = lock(&dir.join("lock"))?;
        let path = dir.join(FILE);
        let mut private = OpenOptions::new();
        // Made by us first, so that it is never readable for others; the WAL beside it inherits the mode.
        private.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io(&path))?;
        let connection = prepared(&path)?;
        Ok(Self { connection, path, _lock: lock })
    }

    /// A number that only rises.
    fn raise(&mut self, key: &str, to: u64) -> Result<(), StoreError> {
        let path = self.path.display().to_string();
        let failed = |source: rusqlite::Error| StoreError::Failed { path: path.clone(), what: source.to_string() };
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        if number_or(&tx, key, 0).map_err(failed)? < to {
            put(&tx, key, &to.to_string()).map_err(failed)?;
        }
        tx.commit().map_err(failed)
    }

    fn failed(&self, what: &impl std::fmt::Display) -> StoreError {
        StoreError::Failed { path: self.path.display().to_string(), what: what.to_string() }
    }
}

/// An epoch that no other copy of this store can have reached.
pub(super) fn above(highest: u64) -> u64 {
    highest + TAKE_OVER_STEP
}

/// This may be an old copy: what it counts goes on above whatever another one can have counted.
fn jump(tx: &Transaction<'_>, epoch: u64) -> rusqlite::Result<()> {
    let text: Option<String> =
        tx.query_row("SELECT value FROM record WHERE key = 'site'", [], |row| row.get(0)).optional()?;
    // What cannot be read is told by the start, which reads everything.
    let Some(Record::Site(site)) = text.and_then(|text| serde_json::from_str(&text).ok()) else { return Ok(()) };
    let Ok(site) = written(&Record::Site(medevac_triage::jumped(site, epoch))) else { return Ok(()) };
    write(tx, &[("site", Some(site))])
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { path: path.to_owned() }),
        Err(errno) => Err(io(errno.into())),
    }
}

/// Opens the file, checks its layout, makes tables and identity of a new site.
fn prepared(path: &Path) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    // A commit that was answered survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS record(key TEXT PRIMARY KEY, value TEXT NOT NULL);",
    )
    .map_err(failed)?;
    match number(&tx, "schema").map_err(failed)? {
        Some(found) if found > SCHEMA => return Err(OpenError::NewerSchema { path: path.to_owned(), found }),
        Some(_) => {}
        None => {
            put(&tx, "schema", &SCHEMA.to_string()).map_err(failed)?;
            put(&tx, "site", &random()).map_err(failed)?;
            put(&tx, "secret", &format!("{}{}", random(), random()).replace('-', "")).map_err(failed)?;
            put(&tx, "epoch", "0").map_err(failed)?;
        }
    }
    tx.commit().map_err(failed)?;
    Ok(connection)
}

pub(super) fn random() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Enough of an identity to recognise it, not enough to be it.
fn head(identity: &str) -> String {
    identity.chars().take(8).collect()
}

pub(super) fn get(tx: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<String>> {
    tx.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

fn number(tx: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<u64>> {
    Ok(get(tx, key)?.and_then(|value| value.parse().ok()))
}

pub(super) fn number_or(tx: &Transaction<'_>, key: &str, default: u64) -> rusqlite::Result<u64> {
    Ok(number(tx, key)?.unwrap_or(default))
}

pub(super) fn put(tx: &Transaction<'_>, key: &str, value: &str) -> rusqlite::Result<()> {
    tx.execute("INSERT INTO meta(key, value) VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET value = ?2", [key, value])?;
    Ok(())
}

pub(super) fn write(tx: &Transaction<'_>, changes: &[(&str, Option<String>)]) -> rusqlite::Result<()> {
    let mut upsert =
        tx.prepare_cached("INSERT INTO record(key, value) VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET value = ?2")?;
    let mut delete = tx.prepare_cached("DELETE FROM record WHERE key = ?1")?;
    for (key, value) in changes {
        match value {
            Some(value) => upsert.execute([*key, value.as_str()])?,
            None => delete.execute([*key])?,
        };
    }
    Ok(())
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<Vec<(Key, Record)>, StoreError> {
        let read = || -> rusqlite::Result<Vec<(String, String)>> {
            let mut rows = self.connection.prepare("SELECT key, value FROM record ORDER BY key")?;
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let rows = read().map_err(|source| self.failed(&source))?;
        let parse = |(key, value): (String, String)| match serde_json::from_str(&value) {
            Ok(record) => Ok((key, record)),
            Err(source) => Err(StoreError::Unreadable { key, source }),
        };
        rows.into_iter().map(parse).collect()
    }

    fn commit(&mut self, epoch: &Epoch, changes: &[Change]) -> Result<(), StoreError> {
        let mut rows = Vec::with_capacity(changes.len());
        for change in changes {
            let value = match change {
                Change::Put(key, record) => {
                    Some(written(record).map_err(|source| StoreError::Unreadable { key: key.clone(), source })?)
                }
                Change::Delete(_) => None,
            };
            rows.push((change.key(), value));
        }
        let path = self.path.display().to_string();
        let failed = |source: rusqlite::Error| StoreError::Failed { path: path.clone(), what: source.to_string() };
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let found = number_or(&tx, "epoch", 0).map_err(failed)?;
        let start = get(&tx, "start").map_err(failed)?;
        if found != epoch.number || start.as_deref() != Some(epoch.start.as_str()) {
            return Err(StoreError::Superseded { own: epoch.number, found });
        }
        write(&tx, &rows).map_err(failed)?;
        tx.commit().map_err(failed)
    }

    fn remember_rival(&mut self, number: u64) -> Result<(), StoreError> {
        self.raise(RIVAL, number)
    }

    fn remember_fence_deadline(&mut self, longest: Duration) -> Result<(), StoreError> {
        self.raise(FENCE_DEADLINE, medevac_triage::millis(longest))
    }
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
