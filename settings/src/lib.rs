//! Configuration files, read whole: every error at once.
//!
//! ```text
//!   text -> Reader::parse -> r.duration(..), r.string(..), ... -> r.finish()
//!                                  |                                 |
//!                      out of range: noted, and a          what was noted, and every
//!                      usable default returned             key that nobody asked for
//! ```
//!
//! A person who fixes a file wants all of its faults in one go, each with key,
//! value given and allowed range; so no question fails by itself: `finish`
//! does, once. A key that nobody asked for is refused with the nearest known
//! name, because a misspelt limit that is silently ignored is worse than none.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod duration;
mod nearest;
mod node;
mod problem;
mod reader;
pub mod reference;
mod secret;
mod whole;

pub use duration::{limit as parse_limit, parse as parse_duration, show as show_duration};
pub use problem::{Problem, Problems};
pub use reader::{Question, Reader};
pub use reference::Key;
pub use secret::Secret;
pub use whole::read_whole;
