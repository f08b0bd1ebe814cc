//! Every key, what it is for, and whether a reload takes it.
//!
//! What a key may be, and what stands where it is not given, is what the reader
//! asks for: the page in docs/configuration.md is made from both, and a test
//! holds it to them.

/// One key of the reference.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As in the file; `[]` for each of a list, `NAME` for a free name.
    pub key: &'static str,
    /// Taken by a reload; otherwise a restart is needed, and a reload that changes it is refused.
    pub reload: bool,
    pub what: &'static str,
}

pub const KEYS: [Key; 0] = [];

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
