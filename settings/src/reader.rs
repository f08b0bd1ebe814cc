//! The reader: typed questions to a file, faults noted on the way.
//!
//! Keys are dotted as in the file: `timing.settle`, `fence[0].host`,
//! `segments.NAME.mode`. A free name may itself hold dots (`hv1.example`): of
//! several ways to read a key, the longest name that is in the file wins.

use crate::node::{Lines, Node};
use crate::{Problem, Problems, duration, nearest::nearest};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeTable;

/// Reads one file; see the crate's head for the way it is used.
#[derive(Debug)]
pub struct Reader {
    root: Node,
    asked: BTreeMap<String, Question>,
    problems: Vec<Problem>,
}

/// What a key may be, as the program asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// "a duration from \"1s\" to \"5m\""; empty for a table.
    pub takes: String,
    /// As it would be written in the file; `None`: nothing stands for it.
    pub default: Option<String>,
}

impl Reader {
    /// Parses the text. Fails with line and column where it is no TOML.
    pub fn parse(text: &str) -> Result<Reader, Problems> {
        let lines = Lines::of(text);
        let table = DeTable::parse(text).map_err(|e| {
            let (line, column) = lines.place(e.span().map_or(0, |s| s.start));
            let message = format!("column {column}: not TOML: {}", e.message());
            Problems(vec![Problem { line, key: String::new(), value: None, message }])
        })?;
        let root = Node::root(table.get_ref(), &lines);
        Ok(Reader { root, asked: BTreeMap::new(), problems: Vec::new() })
    }

    /// A string; without a default it must be there.
    pub fn string(&mut self, key: &str, default: Option<&str>) -> String {
        match (self.string_opt(key), default) {
            (Some(s), Some(d)) => self.or(key, Some(s), d.to_owned()),
            (Some(s), None) => s,
            (None, Some(d)) => self.or(key, None, d.to_owned()),
            (None, None) => {
                self.require(key, "must be given: a string");
                String::new()
            }
        }
    }

    /// A string that may be missing.
    pub fn string_opt(&mut self, key: &str) -> Option<String> {
        self.read(key, "must be a string in quotes", |v| v.string().map(str::to_owned))
    }

    /// A path; without a default it must be there.
    pub fn path(&mut self, key: &str, default: Option<&str>) -> PathBuf {
        PathBuf::from(self.string(key, default))
    }

    /// A path that may be missing.
    pub fn path_opt(&mut self, key: &str) -> Option<PathBuf> {
        self.string_opt(key).map(PathBuf::from)
    }

    /// A list of strings; empty when missing.
    pub fn strings(&mut self, key: &str) -> Vec<String> {
        self.strings_or(key, &[])
    }

    /// A list of strings with a default.
    pub fn strings_or(&mut self, key: &str, default: &[&str]) -> Vec<String> {
        let given = self.read(key, "must be a list of strings: [\"..\", ..]", |v| {
            let items = v.array()?.iter();
            items.map(|i| i.string().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        self.or(key, given, default.iter().map(|s| s.to_string()).collect())
    }

    /// `true` or `false`.
    pub fn bool(&mut self, key: &str, default: bool) -> bool {
        let given = self.read(key, "must be true or false", |v| v.bool());
        self.or(key, given, default)
    }

    /// A whole number within a range.
    pub fn u64(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = (range.start(), range.end());
        let say = format!("must be a whole number from {low} to {high}");
        let given = self.read(key, &say, |v| v.unsigned().filter(|n| range.contains(n)));
        self.or(key, given, default)
    }

    /// A whole number that may be missing, and may be negative.
    pub fn integer_opt(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let (low, high) = (range.start(), range.end());
        let say = format!("must be a whole number from {low} to {high}");
        self.read(key, &say, |v| v.signed().filter(|n| range.contains(n)))
    }

    /// One of a few words, or nothing.
    pub fn choice_opt(&mut self, key: &str, words: &[&str]) -> Option<String> {
        let say = format!("must be one of \"{}\"", words.join("\", \""));
        self.read(key, &say, |v| v.string().filter(|s| words.contains(s)).map(str::to_owned))
    }

    /// A list of whole numbers, each within a range.
    pub fn u64s(&mut self, key: &str, default: &[u64], range: RangeInclusive<u64>) -> Vec<u64> {
        let (low, high) = (range.start(), range.end());
        let say = format!("must be a list of whole numbers from {low} to {high}");
        let one = |v: &Node| v.unsigned().filter(|n| range.contains(n));
        let given = self.read(key, &say, |v| v.array()?.iter().map(one).collect::<Option<Vec<_>>>());
        self.or(key, given, default.to_vec())
    }

    /// A duration (`"1.5s"`, `"10m"`) within a range.
    pub fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let (low, high) = (duration::show(*range.start()), duration::show(*range.end()));
        let say = format!("must be a duration from \"{low}\" to \"{high}\"");
        let given = self.read(key, &say, |v| duration::parse(v.string()?).filter(|d| range.contains(d)));
        self.stands(key, format!("{:?}", duration::show(default)));
        given.unwrap_or(default)
    }

    /// One of a few words.
    pub fn choice(&mut self, key: &str, default: &str, words: &[&str]) -> String {
        let say = format!("must be one of \"{}\"", words.join("\", \""));
        let given = self.read(key, &say, |v| v.string().filter(|s| words.contains(s)).map(str::to_owned));
        self.or(key, given, default.to_owned())
    }

    /// The free names below a table (`[segments.NAME]`), in order of the alphabet.
    pub fn tables(&mut self, key: &str) -> Vec<String> {
        self.ask(key, "");
        let Some(node) = self.root.find(key) else {
            return Vec::new();
        };
        let Some(table) = node.table() else {
            self.wrong(key, "must be a table of tables: [..NAME]");
            return Vec::new();
        };
        let mut names = Vec::new();
        let mut wrong = Vec::new();
        for (name, value) in table.iter() {
            match value.table().is_some() {
                true => names.push(name.to_owned()),
                false => wrong.push(format!("{key}.{name}")),
            }
        }
        for key in wrong {
            self.ask(&key, "");
            self.wrong(&key, "must be a table");
        }
        names.sort();
        for name in &names {
            self.ask(&format!("{key}.{name}"), "");
        }
        names
    }

    /// How many `[[key]]` there are; ask for each as `key[i].name`.
    pub fn array_len(&mut self, key: &str) -> usize {
        let say = "must be tables: [[..]]";
        self.read(key, say, |v| {
            let items = v.array()?;
            items.iter().all(|i| i.table().is_some()).then_some(items.len())
        })
        .unwrap_or(0)
    }

    /// A table of free names to strings; numbers and booleans are taken as they are written.
    pub fn string_map(&mut self, key: &str) -> BTreeMap<String, String> {
        let say = "must be a table of names to strings";
        self.ask(key, say);
        let Some(node) = self.root.find(key) else {
            return BTreeMap::new();
        };
        let Some(table) = node.table() else {
            self.wrong(key, say);
            return BTreeMap::new();
        };
        let mut map = BTreeMap::new();
        let mut wrong = Vec::new();
        for (name, value) in table.iter() {
            let name = name.to_owned();
            self.asked.entry(format!("{key}.{name}")).or_default();
            match value.scalar() {
                Some(text) => drop(map.insert(name, text)),
                None => wrong.push(format!("{key}.{name}")),
            }
        }
        wrong.iter().for_each(|key| self.wrong(key, "must be a string"));
        map
    }

    /// Whether the file gives this key at all.
    pub fn given(&self, key: &str) -> bool {
        self.root.find(key).is_some()
    }

    /// Notes a fault that shows only when several keys are seen together.
    /// `value` is shown as given; pass an empty one where there is nothing to show.
    pub fn problem(&mut self, key: &str, value: &str, message: &str) {
        let line = self.line(key);
        let value = (!value.is_empty()).then(|| value.to_owned());
        self.problems.push(Problem { line, key: key.to_owned(), value, message: message.to_owned() });
    }

    /// Every key that was asked for so far, and what it may be.
    pub fn questions(&self) -> &BTreeMap<String, Question> {
        &self.asked
    }

    /// Every key that the file gives, with its value as it may be shown.
    pub fn given_values(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        self.root.flat("", &mut all);
        all.iter_mut().filter(|(key, _)| is_secret(key)).for_each(|(_, value)| *value = HIDDEN.to_owned());
        all
    }

    /// Every fault noted, and every key that nobody asked for.
    pub fn finish(mut self) -> Result<(), Problems> {
        let mut unknown = Vec::new();
        if let Some(table) = self.root.table() {
            self.unknown_in(table, "", &mut unknown);
        }
        self.problems.extend(unknown);
        self.problems.sort();
        self.problems.dedup();
        if self.problems.is_empty() { Ok(()) } else { Err(Problems(self.problems)) }
    }

    fn read<T>(&mut self, key: &str, say: &str, take: impl Fn(&Node) -> Option<T>) -> Option<T> {
        self.ask(key, say);
        let node = self.root.find(key)?;
        let taken = take(node);
        if taken.is_none() {
            self.wrong(key, say);
        }
        taken
    }

    /// Notes that this key is known, and what it may be.
    fn ask(&mut self, key: &str, say: &str) {
        let takes = say.strip_prefix("must be ").unwrap_or(say);
        let known = self.asked.entry(key.to_owned()).or_default();
        if known.takes.is_empty() {
            takes.clone_into(&mut known.takes);
        }
    }

    fn stands(&mut self, key: &str, default: String) {
        self.asked.entry(key.to_owned()).or_default().default = Some(default);
    }

    fn or<T: std::fmt::Debug>(&mut self, key: &str, given: Option<T>, default: T) -> T {
        self.stands(key, format!("{default:?}"));
        given.unwrap_or(default)
    }

    fn wrong(&mut self, key: &str, message: &str) {
        let node = self.root.find(key);
        let value = node.map(|n| if is_secret(key) { HIDDEN.into() } else { n.show() });
        let line = self.line(key);
        self.problems.push(Problem { line, key: key.to_owned(), value, message: message.to_owned() });
    }

    /// Notes a missing key, unless what is there has been refused already.
    fn require(&mut self, key: &str, message: &str) {
        if !self.given(key) {
            self.problem(key, "", message);
        }
    }

    fn line(&self, key: &str) -> usize {
        self.root.find(key).map_or(0, |n| n.line)
    }

    fn unknown_in(&self, table: &[(String, Node)], prefix: &str, out: &mut Vec<Problem>) {
        for (name, node) in table {
            let key = join(prefix, name);
            if !self.is_known(&key) {
                let message = self.unknown_message(prefix, name);
                out.push(Problem { line: node.line, message, key, value: None });
                continue;
            }
            if let Some(table) = node.table() {
                self.unknown_in(table, &key, out);
            }
            for (i, item) in node.array().unwrap_or_default().iter().enumerate() {
                let table = item.table().unwrap_or_default();
                self.unknown_in(table, &format!("{key}[{i}]"), out);
            }
        }
    }

    fn is_known(&self, key: &str) -> bool {
        let below = |mark: &str| {
            let start = format!("{key}{mark}");
            self.asked.range(start.clone()..).next().is_some_and(|(k, _)| k.starts_with(&start))
        };
        self.asked.contains_key(key) || below(".") || below("[")
    }

    fn unknown_message(&self, prefix: &str, name: &str) -> String {
        let start = join(prefix, "");
        let rest = self.asked.keys().filter_map(|k| k.strip_prefix(&start));
        let siblings = rest.map(|k| k.split(['.', '[']).next().unwrap_or(k));
        match nearest(name, siblings) {
            Some(near) => format!("unknown key; did you mean \"{near}\"?"),
            None => "unknown key; remove it".to_owned(),
        }
    }
}

/// In place of what may be a secret.
const HIDDEN: &str = "(not shown)";

pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// A value that may be a secret is never repeated in a message.
fn is_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
    ["pass", "secret", "token", "community", "url", "key"].iter().any(|word| last.contains(word))
}

#[cfg(test)]
mod tests;
