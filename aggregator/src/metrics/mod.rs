//! The aggregator in numbers.
//!
//! ```text
//!   loop: inputs, commits, replies, acts --> Meter (atomics)  \
//!                                                              +--> Scrape --> the port
//!   loop: a question per slice of the state --> Summary       /
//! ```
//!
//! The loop counts what passes by and answers questions between its turns; it
//! never waits for whoever asks, and nothing it decides depends on a count.

mod meter;
pub mod names;
mod ports;
mod scrape;

pub use meter::Meter;
pub use ports::{MeteredCloud, MeteredReplies, MeteredStore};
pub use scrape::Scrape;

/// Its port; the agent has the one above, for a machine that runs both.
pub const PORT: u16 = 15870;
