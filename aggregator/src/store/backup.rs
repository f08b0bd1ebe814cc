//! A copy of the store while it is in use, and the way back from one.
//!
//! ```text
//!   backup:  store --VACUUM INTO--> .FILE.part --whole? fsync--> FILE       one state of it, 0600
//!   restore: FILE --whole? this site's?--> one transaction over the store: the old one, or the new one
//! ```

use super::sqlite::{Meta, OpenError, SqliteStore, get, number_or, put, random, write};
use crate::engine::written;
use medevac_triage::{Key, Record, Restoring, Voided, Wall, restored};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// When the copy was made, in the copy.
const MADE: &str = "backup_wall_ms";
/// A commit of the running aggregator is waited for this long.
const BUSY: Duration = Duration::from_secs(10);

/// Why there is no backup, or none was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the store at {path} cannot be used")]
    Sqlite {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("{0} is there already: name another file; a backup is never overwritten")]
    Exists(PathBuf),
    #[error("{0} is no whole store of medevac: {1}")]
    NotWhole(PathBuf, String),
    #[error(
        "{path} is of site {found}, this store is of site {own}: if this machine is to serve that site from now on, \
         move {dir} away first"
    )]
    Foreign { path: PathBuf, found: String, own: String, dir: PathBuf },
    #[error("{0} is the store itself")]
    Itself(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

fn sqlite(path: &Path) -> impl Fn(rusqlite::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Sqlite { path: path.clone(), source }
}

/// Copies the store of a directory, in use or not, as it is at one moment. Nothing is there
/// under the name before the whole of it is.
///
/// # Errors
/// Where there is no store, no room, or a file of that name.
pub fn backup(state_dir: &Path, to: &Path, now: Wall) -> Result<(), BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let part = to.with_file_name(format!(".{name}.part"));
    let _ = std::fs::remove_file(&part);
    let copied = copy(&state_dir.join(super::sqlite::FILE), &part, now);
    let moved = copied.and_then(|()| std::fs::rename(&part, to).map_err(io(to)));
    if moved.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    moved?;
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io(dir))
}

fn copy(store: &Path, part: &Path, now: Wall) -> Result<(), BackupError> {
    let failed = sqlite(store);
    let live = Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(&failed)?;
    live.busy_timeout(BUSY).map_err(&failed)?;
    // Ours before anything is in it: domain XML and the responders' secret will be.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).map_err(io(part))?;
    live.execute("VACUUM INTO ?1", [part.to_string_lossy()]).map_err(&failed)?;
    let failed = sqlite(part);
    let mut copied = Connection::open(part).map_err(&failed)?;
    copied.pragma_update(None, "journal_mode", "DELETE").map_err(&failed)?;
    let tx = copied.transaction().map_err(&failed)?;
    put(&tx, MADE, &now.0.to_string()).map_err(&failed)?;
    tx.commit().map_err(&failed)?;
    drop(copied);
    Copy::read(part)?;
    File::open(part).and_then(|file| file.sync_all()).map_err(io(part))
}

/// All that is in a copy.
struct Copy {
    meta: Meta,
    records: Vec<(Key, Record)>,
}

impl Copy {
    /// Reads a copy without touching it, and makes sure that it is whole.
    fn read(path: &Path) -> Result<Self, BackupError> {
        File::open(path).map_err(io(path))?;
        let not = |what: String| BackupError::NotWhole(path.to_owned(), what);
        let wal = PathBuf::from(format!("{}-wal", path.display()));
        if wal.exists() {
            return Err(not(format!("{} lies beside it; make a copy with `medevac-aggregator backup`", wal.display())));
        }
        let damaged = |error: rusqlite::Error| not(error.to_string());
        let url = format!("file:{}?immutable=1", path.display().to_string().replace('%', "%25").replace('?', "%3f"));
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(url, flags).map_err(damaged)?;
        let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(damaged)?;
        if sound != "ok" {
            return Err(not(sound));
        }
        let pairs = |table: &str| -> rusqlite::Result<Vec<(String, String)>> {
            let mut rows = connection.prepare(&format!("SELECT key, value FROM {table} ORDER BY key"))?;
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let meta: Meta = pairs("meta").map_err(damaged)?.into_iter().collect();
        let schema = meta.get("schema").and_then(|schema| schema.parse().ok());
        match schema {
            Some(found) if found > super::sqlite::SCHEMA => {
                return Err(OpenError::NewerSchema { path: path.to_owned(), found }.into());
            }
            Some(_) => {}
            None => return Err(not("it names no layout".to_owned())),
        }
        for key in ["site", "secret", "epoch"] {
            if !meta.contains_key(key) {
                return Err(not(format!("{key} is missing")));
            }
        }
        let parse = |(key, value): (String, String)| match serde_json::from_str(&value) {
            Ok(record) => Ok((key, record)),
            Err(error) => Err(not(format!("record {key} cannot be read: {error}"))),
        };
        let records = pairs("record").map_err(damaged)?.into_iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { meta, records })
    }

    fn number(&self, key: &str) -> u64 {
        self.meta.get(key).and_then(|value| value.parse().ok()).unwrap_or_default()
    }
}

/// What is to be restored, and how.
#[derive(Clone, Debug)]
pub struct Order {
    pub state_dir: PathBuf,
    pub from: PathBuf,
    /// Identity of this machine: the store is pinned to it.
    pub machine: String,
    /// The highest epoch that an agent or a log named.
    pub above: u64,
    pub reason: String,
    pub now: Wall,
}

/// What came of it.
#[derive(Debug)]
pub struct Done {
    pub site: String,
    pub epoch: u64,
    pub voided: Voided,
    /// When the copy was made, where it says so.
    pub made: Option<Wall>,
    /// The store as it was before, if there was one.
    pub before: Option<PathBuf>,
}

/// Puts a copy in the place of the store, which nobody has open, in one commit.
///
/// # Errors
/// A running aggregator, another site's copy, one that is not whole: nothing has changed then.
pub fn restore(order: &Order) -> Result<Done, BackupError> {
    let Order { state_dir, from, .. } = order;
    let path = state_dir.join(super::sqlite::FILE);
    let same = |a: &Path, b: &Path| a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
    if same(&path, from) {
        return Err(BackupError::Itself(from.clone()));
    }
    let copy = Copy::read(from)?;
    let mut store = SqliteStore::attach(state_dir)?;
    let failed = sqlite(&path);
    let (own, new) = store.site_and_whether_new().map_err(&failed)?;
    let found = copy.meta.get("site").cloned().unwrap_or_default();
    if own != found && !new {
        return Err(BackupError::Foreign { path: from.clone(), found, own, dir: state_dir.clone() });
    }
    let highest = store.highest_epoch().map_err(&failed)?;
    let epoch =
        super::sqlite::above(highest.max(copy.number("epoch")).max(copy.number("rival_epoch")).max(order.above));
    let before = (!new).then(|| state_dir.join(format!("before-restore-{epoch}.db")));
    if let Some(before) = &before {
        let _ = std::fs::remove_file(before);
        backup(state_dir, before, order.now)?;
    }
    let made = copy.meta.get(MADE).and_then(|made| made.parse().ok()).map(Wall);
    let how = Restoring { epoch, wall: order.now, what: what(made), reason: order.reason.clone() };
    let meta = meta(&copy, order, &how);
    let (records, voided) = restored(copy.records, &how);
    store.replace(&meta, &rows(records, from)?).map_err(&failed)?;
    Ok(Done { site: found, epoch, voided, made, before })
}

fn what(made: Option<Wall>) -> String {
    let at = made.and_then(|Wall(ms)| jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok());
    match at {
        Some(at) => format!("restored from a backup of {}", at.strftime("%F %H:%M UTC")),
        None => "restored from a backup of unknown age".to_owned(),
    }
}

fn rows(records: Vec<(Key, Record)>, from: &Path) -> Result<Vec<(Key, String)>, BackupError> {
    let row = |(key, record): (Key, Record)| match written(&record) {
        Ok(text) => Ok((key, text)),
        Err(error) => Err(BackupError::NotWhole(from.to_owned(), format!("record {key}: {error}"))),
    };
    records.into_iter().map(row).collect()
}

/// What the copy says of itself, under the new epoch, for this machine.
fn meta(copy: &Copy, order: &Order, how: &Restoring) -> Meta {
    let mut meta = copy.meta.clone();
    meta.remove(MADE);
    meta.insert("epoch".to_owned(), how.epoch.to_string());
    meta.insert("start".to_owned(), random());
    meta.insert("machine".to_owned(), order.machine.clone());
    meta.insert(format!("restore/{}", how.epoch), format!("{}: {}", how.what, how.reason));
    meta
}

impl SqliteStore {
    /// Whose store it is; `true`: nobody's yet.
    fn site_and_whether_new(&mut self) -> rusqlite::Result<(String, bool)> {
        let tx = self.connection.transaction()?;
        let site = get(&tx, "site")?.unwrap_or_default();
        Ok((site, number_or(&tx, "epoch", 0)? == 0 && get(&tx, "machine")?.is_none()))
    }

    fn highest_epoch(&mut self) -> rusqlite::Result<u64> {
        let tx = self.connection.transaction()?;
        Ok(number_or(&tx, "epoch", 0)?.max(number_or(&tx, "rival_epoch", 0)?))
    }

    /// All of it or nothing: SQLite's own promise. The longest fence that either knew is kept.
    fn replace(&mut self, meta: &Meta, records: &[(Key, String)]) -> rusqlite::Result<()> {
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let longest = number_or(&tx, "fence_deadline_ms", 0)?;
        tx.execute_batch("DELETE FROM meta; DELETE FROM record;")?;
        for (key, value) in meta {
            put(&tx, key, value)?;
        }
        if number_or(&tx, "fence_deadline_ms", 0)? < longest {
            put(&tx, "fence_deadline_ms", &longest.to_string())?;
        }
        let all: Vec<_> = records.iter().map(|(key, value)| (key.as_str(), Some(value.clone()))).collect();
        write(&tx, &all)?;
        tx.commit()
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
