//! Questions to libvirt, one at a time and in order: a later answer is a later truth.

use super::{Agent, duties::Done};
use crate::hypervisor::{Domain, Fault};
use std::collections::VecDeque;

/// Questions that wait. Beyond it one whole list is cheaper than so many single ones.
const QUEUE: usize = 64;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Read {
    List(u64),
    One(String),
}

/// Its answer.
#[derive(Debug)]
pub enum Answer {
    List(u64, Result<Vec<Domain>, Fault>),
    One(String, Result<Option<Domain>, Fault>),
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Reads {
    queue: VecDeque<Read>,
    busy: bool,
    lists: u64,
}

impl Reads {
    /// Reads everything; returns the number of that list. Goes first: it tells the most.
    pub(super) fn list(&mut self) -> u64 {
        let waiting = self.queue.iter().find_map(|r| match r {
            Read::List(id) => Some(*id),
            Read::One(_) => None,
        });
        waiting.unwrap_or_else(|| {
            self.lists += 1;
            self.queue.push_front(Read::List(self.lists));
            self.lists
        })
    }

    /// Reads one domain, unless that is to be done anyway.
    pub(super) fn one(&mut self, uuid: &str) {
        let read = Read::One(uuid.to_owned());
        if self.queue.contains(&read) {
            return;
        }
        if self.queue.len() >= QUEUE {
            // The list is put in front of the single questions, and answers them all.
            self.queue.retain(|r| matches!(r, Read::List(_)));
            self.list();
            return;
        }
        self.queue.push_back(read);
    }

    /// Drops all questions: there is nobody to ask.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }
}

impl Agent {
    /// Asks the next question when the last one is answered.
    pub(super) fn read_next(&mut self) {
        if self.reads.busy {
            return;
        }
        let Some(read) = self.reads.queue.pop_front() else { return };
        self.reads.busy = true;
        let hypervisor = std::sync::Arc::clone(&self.hypervisor);
        self.spawn(async move {
            Done::Read(match read {
                Read::List(id) => Answer::List(id, hypervisor.domains().await),
                Read::One(uuid) => {
                    let domain = hypervisor.domain(&uuid).await;
                    Answer::One(uuid, domain)
                }
            })
        });
    }

    pub(super) fn on_answer(&mut self, answer: Answer) {
        self.reads.busy = false;
        match answer {
            Answer::List(id, Ok(domains)) => {
                let was_seen = self.guests.libvirt_answers();
                let facts = self.guests.domains(domains);
                self.regained(was_seen);
                self.note(facts);
                self.listed(id, true);
            }
            Answer::List(id, Err(e)) => {
                tracing::debug!("no list: {e}");
                self.listed(id, false);
            }
            Answer::One(uuid, Ok(domain)) => {
                let facts = self.guests.domain(&uuid, domain);
                self.note(facts);
            }
            Answer::One(uuid, Err(e)) => tracing::debug!(guest = uuid, "not read: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_waits_serves_everyone_who_asks_before_it_begins() {
        let mut r = Reads::default();
        r.one("a");
        r.one("a");
        assert_eq!((r.list(), r.list()), (1, 1));
        assert_eq!(r.queue, [Read::List(1), Read::One("a".into())]);
        r.queue.pop_front();
        assert_eq!(r.list(), 2, "one that has begun is too old for whoever asks now");
    }

    #[test]
    fn too_many_questions_become_one_list() {
        let mut r = Reads::default();
        (0..=QUEUE).for_each(|i| r.one(&i.to_string()));
        assert_eq!(r.queue, [Read::List(1)]);
    }
}
