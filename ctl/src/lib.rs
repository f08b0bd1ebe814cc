//! medevacctl: what an operator types. It can do nothing that the API cannot.
//!
//! ```text
//!   cli (what was typed) -> run -> client (unix socket or mTLS) -> show (pages) -> look (this terminal)
//!                            '-> watch: the same again and again
//! ```

pub mod cli;
mod client;
mod examples;
mod fence_list;
mod look;
mod page;
mod run;
mod show;
mod watch;

pub use client::Stop;
pub use run::run;
