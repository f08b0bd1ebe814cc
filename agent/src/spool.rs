//! Facts that nobody has acknowledged yet.
//!
//! ```text
//!   push -> [1][2][gap 3..5][6][7] -> sent at once, and again after every reconnect
//!                 ack(2) cuts from the left
//! ```
//!
//! Kept in memory and in a file without fsync: the file survives the agent, not
//! the host; what a crashed host saw last is found in the inventory after it.
//! When full, the oldest of the least class goes first and a gap record counts
//! it. A full disk stops nothing: the facts stay in memory, and it is said.

mod file;

use file::{LogFile, Record};
use medevac_proto::session::{Fact, GapRecord, fact::What};
use prost::Message;
use std::collections::VecDeque;
use std::path::Path;

/// Facts held in memory whatever the file may hold: about 10 MiB, and far more than
/// a host produces while an aggregator is away for a day.
const FACTS_MAX: usize = 50_000;

/// Rewriting the file pays off once this much of it is acknowledged.
const REWRITE_BYTES: u64 = 256 * 1024;

/// What waits to be acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    Fact(Fact),
    Gap(GapRecord),
}

impl Entry {
    fn boot_id(&self) -> &str {
        match self {
            Entry::Fact(f) => &f.boot_id,
            Entry::Gap(g) => &g.boot_id,
        }
    }

    fn last_seq(&self) -> u64 {
        match self {
            Entry::Fact(f) => f.seq,
            Entry::Gap(g) => g.last_seq,
        }
    }

    /// What is lost first when there is no room: 0 before 1 before 2. Gaps stay.
    fn class(&self) -> u8 {
        match self {
            Entry::Gap(_) => u8::MAX,
            Entry::Fact(f) => match f.what {
                Some(What::InstanceGone(_) | What::InstanceStopped(_)) => 2,
                Some(What::InstanceStarted(_)) => 1,
                Some(What::SightLost(_) | What::SightRegained(_)) | None => 0,
            },
        }
    }

    fn size(&self) -> u64 {
        match self {
            Entry::Fact(f) => f.encoded_len() as u64,
            Entry::Gap(g) => g.encoded_len() as u64,
        }
    }
}

/// How full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Facts and gaps that wait.
    pub facts: usize,
    pub bytes: u64,
    pub max_bytes: u64,
    /// Facts lost for want of room since this process began.
    pub dropped: u64,
    /// Everything that waits is on disk too.
    pub on_disk: bool,
}

/// The spool of one agent.
#[derive(Debug)]
pub struct Spool {
    boot_id: String,
    next_seq: u64,
    /// With a number that only grows: how far a stream has got, whatever is cut or lost meanwhile.
    entries: VecDeque<(u64, Entry)>,
    next_id: u64,
    bytes: u64,
    max_bytes: u64,
    log: LogFile,
    /// Facts that are in memory alone because the disk refused them.
    unwritten: bool,
    dropped: u64,
}

impl Spool {
    /// What is in it stays; the next fact makes room if there is too much.
    pub fn set_max_mib(&mut self, max_mib: u64) {
        self.max_bytes = max_mib * 1024 * 1024;
    }

    /// Reads the file in `dir`. A damaged tail is cut: it was being written when the host died.
    pub fn open(dir: &Path, boot_id: &str, max_mib: u64) -> Spool {
        let (log, records) = LogFile::open(&dir.join("spool"));
        let mut spool = Spool {
            boot_id: boot_id.to_owned(),
            next_seq: 1,
            entries: VecDeque::new(),
            next_id: 1,
            bytes: 0,
            max_bytes: 0,
            log,
            unwritten: false,
            dropped: 0,
        };
        spool.set_max_mib(max_mib);
        for record in records {
            spool.replay(record);
        }
        spool.make_room();
        spool
    }

    fn replay(&mut self, record: Record) {
        match record {
            Record::Entry(entry) => {
                if entry.boot_id() == self.boot_id {
                    self.next_seq = self.next_seq.max(entry.last_seq() + 1);
                }
                self.append(entry);
            }
            Record::Mark { boot_id, acked, next_seq } => {
                self.cut(&boot_id, acked);
                if boot_id == self.boot_id {
                    self.next_seq = self.next_seq.max(next_seq);
                }
            }
        }
    }

    /// Takes a fact, numbers it, and returns it ready to be sent.
    pub fn push(&mut self, what: What, boot_ms: u64, wall_ms: u64) -> Fact {
        let fact = Fact { seq: self.next_seq, boot_ms, wall_ms, boot_id: self.boot_id.clone(), what: Some(what) };
        self.next_seq += 1;
        let entry = Entry::Fact(fact.clone());
        if !self.unwritten
            && let Err(e) = self.log.append(&Record::Entry(entry.clone()))
        {
            self.complain(&e);
        }
        self.append(entry);
        self.make_room();
        fact
    }

    fn append(&mut self, entry: Entry) {
        self.bytes += entry.size();
        self.entries.push_back((self.next_id, entry));
        self.next_id += 1;
    }

    /// Everything of this boot up to `seq`, or of another boot, is durable at the aggregator.
    pub fn ack(&mut self, boot_id: &str, seq: u64) {
        let before = self.entries.len();
        self.cut(boot_id, seq);
        if boot_id == self.boot_id && seq >= self.next_seq {
            // The file was lost, not the aggregator's memory: go on above what it has.
            self.renumber(seq + 1);
        }
        if self.entries.len() == before {
            return;
        }
        let mark = Record::Mark { boot_id: boot_id.to_owned(), acked: seq, next_seq: self.next_seq };
        let spent = self.log.length().saturating_sub(self.bytes);
        let result = if spent > REWRITE_BYTES || self.unwritten { self.rewrite() } else { self.log.append(&mark) };
        if let Err(e) = result {
            self.complain(&e);
        }
    }

    /// Whether everything that waits is on disk too.
    pub fn is_on_disk(&self) -> bool {
        !self.unwritten
    }

    /// Tries again to bring what is in memory alone onto the disk. True when all of it is there.
    pub fn settle(&mut self) -> bool {
        if self.unwritten && self.rewrite().is_ok() {
            tracing::info!("the spool is on disk again");
        }
        !self.unwritten
    }

    pub fn level(&self) -> Level {
        let (facts, on_disk) = (self.entries.len(), !self.unwritten);
        Level { facts, bytes: self.bytes, max_bytes: self.max_bytes, dropped: self.dropped, on_disk }
    }

    /// What waits, oldest first, with numbers that only grow.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.iter().map(|(id, e)| (*id, e))
    }

    /// What waits behind the entry of that number.
    pub fn after(&self, id: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let first = self.entries.partition_point(|(i, _)| *i <= id);
        self.entries.range(first..).map(|(id, e)| (*id, e))
    }

    /// Number of the next fact of this boot.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// When the oldest waiting fact of this boot was seen; 0 when none waits.
    pub fn oldest_ms(&self) -> u64 {
        let own = self.entries.iter().find_map(|(_, e)| match e {
            Entry::Fact(f) if f.boot_id == self.boot_id => Some(f.boot_ms),
            _ => None,
        });
        own.unwrap_or(0)
    }

    fn cut(&mut self, boot_id: &str, seq: u64) {
        self.entries.retain(|(_, e)| e.boot_id() != boot_id || e.last_seq() > seq);
        self.bytes = self.entries.iter().map(|(_, e)| e.size()).sum();
    }

    fn renumber(&mut self, first: u64) {
        let mut next = first;
        for (_, entry) in &mut self.entries {
            match entry {
                Entry::Fact(f) if f.boot_id == self.boot_id => {
                    f.seq = next;
                    next += 1;
                }
                Entry::Gap(g) if g.boot_id == self.boot_id => {
                    let count = g.last_seq - g.first_seq;
                    (g.first_seq, g.last_seq) = (next, next + count);
                    next += count + 1;
                }
                _ => {}
            }
        }
        self.next_seq = next;
        if let Err(e) = self.rewrite() {
            self.complain(&e);
        }
    }

    fn make_room(&mut self) {
        while self.bytes > self.max_bytes || self.entries.len() > FACTS_MAX {
            // Another boot's history goes before anything of this one.
            let rank = |e: &Entry| (e.class() == u8::MAX, e.boot_id() == self.boot_id, e.class());
            let least = self.entries.iter().enumerate().min_by_key(|(i, (_, e))| (rank(e), *i));
            let Some(at) = least.map(|(i, _)| i) else {
                return;
            };
            if matches!(self.entries[at].1, Entry::Gap(_)) {
                // Nothing but gaps left: they are tiny, and what they say is worth their room.
                return;
            }
            self.lose(at);
        }
    }

    /// Replaces the fact at an index by a gap, joined with the gaps beside it.
    fn lose(&mut self, at: usize) {
        self.dropped += 1;
        let (first, lost) = &self.entries[at];
        let mut id = *first;
        let (boot_id, seq) = (lost.boot_id().to_owned(), lost.last_seq());
        let why = "the spool was full".to_owned();
        let mut gap = GapRecord { boot_id, first_seq: seq, last_seq: seq, why };
        let mut from = at;
        if let Some((_, Entry::Gap(before))) = at.checked_sub(1).and_then(|i| self.entries.get(i))
            && before.boot_id == gap.boot_id
            && before.last_seq + 1 == seq
        {
            gap.first_seq = before.first_seq;
            from = at - 1;
        }
        let mut to = at;
        if let Some((last, Entry::Gap(after))) = self.entries.get(at + 1)
            && after.boot_id == gap.boot_id
            && after.first_seq == seq + 1
        {
            gap.last_seq = after.last_seq;
            id = *last;
            to = at + 1;
        }
        self.entries.drain(from..=to);
        self.entries.insert(from, (id, Entry::Gap(gap)));
        self.bytes = self.entries.iter().map(|(_, e)| e.size()).sum();
        if self.log.length() > self.max_bytes + REWRITE_BYTES
            && let Err(e) = self.rewrite()
        {
            self.complain(&e);
        }
    }

    fn rewrite(&mut self) -> std::io::Result<()> {
        let mark = Record::Mark { boot_id: self.boot_id.clone(), acked: 0, next_seq: self.next_seq };
        let records = std::iter::once(mark).chain(self.entries.iter().map(|(_, e)| Record::Entry(e.clone())));
        self.log.replace(records)?;
        self.unwritten = false;
        Ok(())
    }

    fn complain(&mut self, e: &std::io::Error) {
        if !self.unwritten {
            tracing::error!(
                code = "MDV-SPOOL-DISK",
                "facts are kept in memory only, and are lost if the agent ends: {e}; make room on the state directory's disk"
            );
        }
        self.unwritten = true;
    }
}

#[cfg(test)]
mod tests;
