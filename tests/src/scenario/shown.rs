//! What is shown of many, in few lines.

use std::fmt::Write;

/// Lines that differ in names alone are one line, with their number.
pub(super) fn counted(lines: &str) -> String {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for line in lines.lines().map(nameless) {
        match kinds.iter_mut().find(|(kind, _)| *kind == line) {
            Some((_, count)) => *count += 1,
            None => kinds.push((line, 1)),
        }
    }
    let mut out = String::new();
    for (kind, count) in kinds {
        let _ = writeln!(out, "{count} times: {kind}");
    }
    out
}

/// `hv3` and `inc-12` are `hv*` and `inc-*`; a number that stands alone stays.
fn nameless(line: &str) -> String {
    let mut out = String::new();
    for c in line.chars() {
        let in_name = out.ends_with(|c: char| c.is_ascii_alphabetic() || c == '-' || c == '*');
        match c {
            '0'..='9' if out.ends_with('*') => {}
            '0'..='9' if in_name => out.push('*'),
            _ => out.push(c),
        }
    }
    out
}
