//! The spool's file: records behind each other, each with its length and a checksum.
//!
//! ```text
//!   | length u32 | FNV-1a u32 | kind u8 | body |   kind 1 fact, 2 gap, 3 mark
//! ```
//!
//! Reading stops at the first record that does not check: nothing is synced,
//! so after a crash of the host the tail may be anything.

use super::Entry;
use medevac_proto::session::{Fact, GapRecord};
use prost::Message;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A fact is a few hundred bytes; a length above this is damage.
const RECORD_MAX: usize = 64 * 1024;

/// One record of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    Entry(Entry),
    /// Facts of this boot up to `acked` are done with; the next one gets `next_seq`.
    Mark {
        boot_id: String,
        acked: u64,
        next_seq: u64,
    },
}

/// The open file; `None` while the disk does not let us have one.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    length: u64,
}

impl LogFile {
    /// Opens or creates the file and reads what is whole in it.
    pub(crate) fn open(path: &Path) -> (LogFile, Vec<Record>) {
        let bytes = fs::read(path).unwrap_or_default();
        let (records, whole) = parse(&bytes);
        if whole < bytes.len() {
            tracing::warn!("the spool's last {} bytes were cut: not written whole", bytes.len() - whole);
        }
        let mut log = LogFile { path: path.to_owned(), file: None, length: whole as u64 };
        if let Err(e) = log.ready() {
            tracing::error!(
                code = "MDV-SPOOL-DISK",
                "cannot open {}: {e}; facts are kept in memory only",
                path.display()
            );
        }
        (log, records)
    }

    /// Bytes in the file.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Appends one record; a half-written one is cut off again.
    pub(crate) fn append(&mut self, record: &Record) -> io::Result<()> {
        let bytes = encode(record);
        let length = self.length;
        let file = self.ready()?;
        if let Err(e) = file.write_all(&bytes) {
            // What cannot be cut now is cut by its checksum later.
            let _ = file.set_len(length).and_then(|()| file.seek(SeekFrom::Start(length)));
            return Err(e);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Replaces the whole content, or leaves the old one.
    pub(crate) fn replace(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let bytes: Vec<u8> = records.flat_map(|r| encode(&r)).collect();
        let written = crate::state::private(&new).and_then(|mut f| f.write_all(&bytes));
        written.and_then(|()| fs::rename(&new, &self.path)).inspect_err(|_| drop(fs::remove_file(&new)))?;
        (self.file, self.length) = (None, bytes.len() as u64);
        self.ready().map(drop)
    }

    fn ready(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            use std::os::unix::fs::OpenOptionsExt;
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
            file.set_len(self.length)?;
            file.seek(SeekFrom::Start(self.length))?;
            self.file = Some(file);
        }
        self.file.as_mut().ok_or_else(|| io::Error::other("the spool has no file"))
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let (kind, body) = match record {
        Record::Entry(Entry::Fact(f)) => (1, f.encode_to_vec()),
        Record::Entry(Entry::Gap(g)) => (2, g.encode_to_vec()),
        Record::Mark { boot_id, acked, next_seq } => {
            // The gap record's fields fit a mark; its kind tells them apart.
            let mark =
                GapRecord { boot_id: boot_id.clone(), first_seq: *acked, last_seq: *next_seq, why: String::new() };
            (3, mark.encode_to_vec())
        }
    };
    let mut out = Vec::with_capacity(body.len() + 9);
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&checksum(kind, &body).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&body);
    out
}

/// The records that check, and how many bytes they take.
fn parse(bytes: &[u8]) -> (Vec<Record>, usize) {
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some((record, size)) = parse_one(&bytes[at..]) {
        records.push(record);
        at += size;
    }
    (records, at)
}

fn parse_one(bytes: &[u8]) -> Option<(Record, usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let length = word(0)? as usize;
    if length > RECORD_MAX {
        return None;
    }
    let kind = *bytes.get(8)?;
    let body = bytes.get(9..9 + length)?;
    if word(4)? != checksum(kind, body) {
        return None;
    }
    let record = match kind {
        1 => Record::Entry(Entry::Fact(Fact::decode(body).ok()?)),
        2 => Record::Entry(Entry::Gap(GapRecord::decode(body).ok()?)),
        3 => {
            let g = GapRecord::decode(body).ok()?;
            Record::Mark { boot_id: g.boot_id, acked: g.first_seq, next_seq: g.last_seq }
        }
        _ => return None,
    };
    Some((record, 9 + length))
}

fn checksum(kind: u8, body: &[u8]) -> u32 {
    let step = |h: u32, b: &u8| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193);
    body.iter().fold(step(0x811c_9dc5, &kind), step)
}
