//! A table of records with a draft laid over it.
//!
//! ```text
//!   get/iter ---> draft ---> base          edit/put/remove ---> draft
//!                                          apply(committed) ---> base, draft emptied
//! ```
//!
//! Later observations of one turn must see what earlier ones decided, yet
//! durable state may change only by a committed change. So decisions go into
//! the draft, the turn's difference is what is committed, and the committed
//! change is what alters the base.

use crate::record::{Change, Key, Record};
use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};

/// A kind of record and how it is named.
pub trait Kept: Clone + PartialEq {
    type Id: Ord + Clone + std::fmt::Debug;
    fn id(&self) -> Self::Id;
    fn key(id: &Self::Id) -> Key;
    /// What `key` wrote, without the kind in front.
    fn parse(rest: &str) -> Option<Self::Id>;
    fn wrap(self) -> Record;
}

/// What lies behind a key, or all of it.
pub fn after<'a, K: Ord, V>(map: &'a BTreeMap<K, V>, key: Option<&K>) -> impl Iterator<Item = (&'a K, &'a V)> {
    let from = key.map_or(Bound::Unbounded, Bound::Excluded);
    map.range((from, Bound::Unbounded))
}

#[derive(Debug)]
pub struct Table<V: Kept> {
    base: BTreeMap<V::Id, V>,
    draft: BTreeMap<V::Id, Option<V>>,
}

impl<V: Kept> Default for Table<V> {
    fn default() -> Self {
        Self { base: BTreeMap::new(), draft: BTreeMap::new() }
    }
}

impl<V: Kept> Table<V> {
    pub fn get(&self, id: &V::Id) -> Option<&V> {
        match self.draft.get(id) {
            Some(drafted) => drafted.as_ref(),
            None => self.base.get(id),
        }
    }

    /// The record for change; copied into the draft on first use.
    pub fn edit(&mut self, id: &V::Id) -> Option<&mut V> {
        if !self.draft.contains_key(id) {
            let copy = self.base.get(id)?.clone();
            self.draft.insert(id.clone(), Some(copy));
        }
        self.draft.get_mut(id)?.as_mut()
    }

    pub fn put(&mut self, value: V) {
        self.draft.insert(value.id(), Some(value));
    }

    pub fn remove(&mut self, id: &V::Id) {
        if self.get(id).is_some() {
            self.draft.insert(id.clone(), None);
        }
    }

    /// All records as this turn sees them, drafted ones last.
    pub fn iter(&self) -> impl Iterator<Item = &V> {
        let untouched = self.base.iter().filter(|(id, _)| !self.draft.contains_key(*id)).map(|(_, value)| value);
        untouched.chain(self.draft.values().flatten())
    }

    /// Those with an id in this range, as this turn sees them, in order.
    pub fn range(&self, range: RangeInclusive<V::Id>) -> BTreeMap<V::Id, &V> {
        let mut found: BTreeMap<V::Id, &V> = self.base.range(range.clone()).map(|(id, v)| (id.clone(), v)).collect();
        for (id, drafted) in self.draft.range(range) {
            match drafted {
                Some(value) => found.insert(id.clone(), value),
                None => found.remove(id),
            };
        }
        found
    }

    /// At most so many that are kept, in order, behind one of them. For readers between turns,
    /// when nothing is drafted.
    pub fn after(&self, id: Option<&V::Id>, most: usize) -> Vec<&V> {
        after(&self.base, id).take(most).map(|(_, value)| value).collect()
    }

    /// All ids as this turn sees them, in order.
    pub fn ids(&self) -> Vec<V::Id> {
        let mut ids: Vec<_> = self.iter().map(Kept::id).collect();
        ids.sort();
        ids
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// What the draft changes; entries that came back to their old value are no change.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.draft.iter().filter(|(id, drafted)| self.base.get(*id) != drafted.as_ref()).map(|(id, drafted)| {
            match drafted {
                Some(value) => Change::Put(V::key(id), Box::new(value.clone().wrap())),
                None => Change::Delete(V::key(id)),
            }
        })
    }

    /// Forgets the draft: its difference has been handed out.
    pub fn settle(&mut self) {
        self.draft.clear();
    }

    /// Applies one committed value.
    pub fn apply_put(&mut self, value: V) {
        self.base.insert(value.id(), value);
    }

    /// Applies one committed end; `true` when there was such a record.
    pub fn apply_delete(&mut self, rest: &str) -> bool {
        V::parse(rest).is_some_and(|id| self.base.remove(&id).is_some())
    }
}
