//! The reference of a program's configuration: what its reader asks for, beside
//! what each key is for.

use crate::Question;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// One key, as a person is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As in the file; `[]` for each of a list, `NAME` for a free name.
    pub key: &'static str,
    /// Taken by a reload. Otherwise a reload that changes it is refused as a whole: it takes a restart.
    pub reload: bool,
    pub what: &'static str,
}

/// A key that a reload takes.
pub const fn taken(key: &'static str, what: &'static str) -> Key {
    Key { key, reload: true, what }
}

/// A key that only a restart takes.
pub const fn restart(key: &'static str, what: &'static str) -> Key {
    Key { key, reload: false, what }
}

/// `fence[0].host` is one of `fence[].host`; below a table of free names any one stands for all.
pub fn pattern(key: &str, free: &[&str]) -> String {
    let mut all = String::new();
    let mut index = false;
    for c in key.chars() {
        index &= c != ']';
        if !index {
            all.push(c);
        }
        index |= c == '[';
    }
    for table in free {
        if let Some((_, rest)) = all.strip_prefix(&format!("{table}.")).and_then(|rest| rest.split_once('.')) {
            return format!("{table}.NAME.{rest}");
        }
    }
    all
}

/// The table of all keys, in the order in which they are described.
///
/// # Errors
/// Names what is described and never asked for, or asked for and not described.
pub fn table(keys: &[Key], asked: &BTreeMap<String, Question>, free: &[&str]) -> Result<String, String> {
    // Tables and lists of them are no keys; nor are free names, which nobody asks for by a type.
    let is_key = |question: &Question| !question.takes.is_empty() && !question.takes.starts_with("tables:");
    let asked: BTreeMap<String, &Question> =
        asked.iter().filter(|(_, question)| is_key(question)).map(|(key, of)| (pattern(key, free), of)).collect();
    let described: BTreeSet<&str> = keys.iter().map(|key| key.key).collect();
    let missing: Vec<&str> = asked.keys().map(String::as_str).filter(|key| !described.contains(key)).collect();
    if !missing.is_empty() {
        return Err(format!("not described: {}", missing.join(", ")));
    }
    let mut text = "| key | takes | default | reload | what it is for |\n|---|---|---|---|---|\n".to_owned();
    for Key { key, reload, what } in keys {
        let Some(question) = asked.get(*key) else { return Err(format!("nobody asks for {key}")) };
        let default = question.default.as_ref().map_or_else(String::new, |default| format!("`{default}`"));
        let reload = if *reload { "yes" } else { "restart" };
        let _ = writeln!(text, "| `{key}` | {} | {default} | {reload} | {what} |", question.takes);
    }
    Ok(text)
}
