//! medevacctl: what an operator types. It can do nothing that the API cannot.
//!
//! ```text
//!   cli (what was typed) -> run -> client (unix socket or mTLS) -> show (tables)
//! ```

pub mod cli;
mod client;
mod fence_list;
mod run;
mod show;

pub use client::Stop;
pub use run::run;
