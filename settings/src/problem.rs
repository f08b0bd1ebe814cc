//! What is wrong with a file: one line each, all of them together.

use std::fmt;

/// One fault of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line in the file, from 1; 0 where the key is missing.
    pub line: usize,
    /// Dotted key, `timing.fence_grace`; empty for a syntax error.
    pub key: String,
    /// The value as given; `None` where there is none to show.
    pub value: Option<String>,
    /// What is wrong, with the allowed range.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        match (&self.key, &self.value) {
            (key, _) if key.is_empty() => write!(f, "{}", self.message),
            (key, Some(value)) => write!(f, "{key} = {value}: {}", self.message),
            (key, None) => write!(f, "{key}: {}", self.message),
        }
    }
}

/// All faults of one file, in the order of the file; missing keys first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
