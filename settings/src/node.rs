//! The file as a tree that owns its text and knows its lines.

use crate::reader::join;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One value and the line on which its key stands.
#[derive(Debug)]
pub(crate) struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Debug)]
pub(crate) enum Value {
    Table(Vec<(String, Node)>),
    Array(Vec<Node>),
    String(String),
    Bool(bool),
    Integer(Option<u64>, String),
    /// Floats and dates: no setting takes them, so only their text matters.
    Other(String),
}

/// Byte offsets at which lines begin.
#[derive(Debug)]
pub(crate) struct Lines(Vec<usize>);

impl Lines {
    pub(crate) fn of(text: &str) -> Lines {
        Lines(std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect())
    }

    /// Line and column of a byte offset, both from 1.
    pub(crate) fn place(&self, at: usize) -> (usize, usize) {
        let line = self.0.partition_point(|s| *s <= at).max(1);
        (line, at - self.0[line - 1] + 1)
    }
}

impl Node {
    pub(crate) fn root(table: &DeTable<'_>, lines: &Lines) -> Node {
        Node { line: 1, value: Value::Table(table_of(table, lines)) }
    }

    fn of(line: usize, value: &Spanned<DeValue<'_>>, lines: &Lines) -> Node {
        let value = match value.get_ref() {
            DeValue::Table(t) => Value::Table(table_of(t, lines)),
            DeValue::Array(items) => {
                Value::Array(items.iter().map(|i| Node::of(lines.place(i.span().start).0, i, lines)).collect())
            }
            DeValue::String(s) => Value::String(s.to_string()),
            DeValue::Boolean(b) => Value::Bool(*b),
            DeValue::Integer(i) => {
                let number = u64::from_str_radix(i.as_str(), i.radix()).ok();
                Value::Integer(number, i.as_str().to_owned())
            }
            DeValue::Float(f) => Value::Other(f.as_str().to_owned()),
            DeValue::Datetime(d) => Value::Other(d.to_string()),
        };
        Node { line, value }
    }

    pub(crate) fn table(&self) -> Option<&[(String, Node)]> {
        if let Value::Table(t) = &self.value { Some(t) } else { None }
    }

    pub(crate) fn array(&self) -> Option<&[Node]> {
        if let Value::Array(a) = &self.value { Some(a) } else { None }
    }

    pub(crate) fn string(&self) -> Option<&str> {
        if let Value::String(s) = &self.value { Some(s) } else { None }
    }

    pub(crate) fn bool(&self) -> Option<bool> {
        if let Value::Bool(b) = self.value { Some(b) } else { None }
    }

    pub(crate) fn unsigned(&self) -> Option<u64> {
        if let Value::Integer(n, _) = self.value { n } else { None }
    }

    pub(crate) fn signed(&self) -> Option<i64> {
        match &self.value {
            Value::Integer(Some(number), _) => i64::try_from(*number).ok(),
            Value::Integer(None, text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A string, number or boolean as text.
    pub(crate) fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::String(s) => Some(s.clone()),
            Value::Integer(_, text) => Some(text.clone()),
            Value::Bool(b) => Some(b.to_string()),
            _ => None,
        }
    }

    /// The value as the file has it, near enough to be found again.
    pub(crate) fn show(&self) -> String {
        match &self.value {
            Value::String(s) => format!("{s:?}"),
            Value::Array(items) => {
                let shown: Vec<String> = items.iter().take(8).map(Node::show).collect();
                format!("[{}{}]", shown.join(", "), if items.len() > 8 { ", .." } else { "" })
            }
            Value::Table(_) => "(a table)".to_owned(),
            Value::Other(text) => text.clone(),
            Value::Bool(_) | Value::Integer(..) => self.scalar().unwrap_or_default(),
        }
    }

    /// Every value below, by its key.
    pub(crate) fn flat(&self, key: &str, all: &mut BTreeMap<String, String>) {
        match &self.value {
            Value::Table(table) => table.iter().for_each(|(name, node)| node.flat(&join(key, name), all)),
            Value::Array(items) if items.iter().any(|item| item.table().is_some()) => {
                items.iter().enumerate().for_each(|(i, item)| item.flat(&format!("{key}[{i}]"), all));
            }
            _ => drop(all.insert(key.to_owned(), self.show())),
        }
    }

    /// Walks a dotted key; where names with dots make it ambiguous, the longest name wins.
    pub(crate) fn find(&self, key: &str) -> Option<&Node> {
        if key.is_empty() {
            return Some(self);
        }
        if let Some(rest) = key.strip_prefix('[') {
            let (index, rest) = rest.split_once(']')?;
            let item = self.array()?.get(index.parse::<usize>().ok()?)?;
            return item.find(rest.strip_prefix('.').unwrap_or(rest));
        }
        let fits = self.table()?.iter().filter(|(name, _)| key.starts_with(name.as_str()));
        let mut candidates: Vec<_> = fits.collect();
        candidates.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        candidates.into_iter().find_map(|(name, node)| {
            let rest = &key[name.len()..];
            match rest.chars().next() {
                None | Some('[') => node.find(rest),
                Some('.') => node.find(&rest[1..]),
                Some(_) => None,
            }
        })
    }
}

fn table_of(table: &DeTable<'_>, lines: &Lines) -> Vec<(String, Node)> {
    let entry = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let name: &Spanned<std::borrow::Cow<'_, str>> = name;
        let line = lines.place(name.span().start).0;
        (name.get_ref().to_string(), Node::of(line, value, lines))
    };
    table.iter().map(entry).collect()
}
