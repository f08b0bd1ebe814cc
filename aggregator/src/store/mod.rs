//! Durable state. SQLite in the state directory; a shared store comes later
//! behind the same trait.

pub mod backup;
pub mod sqlite;
