//! What both daemons need to be measured: tables of names, the page of a
//! scrape, and the port that serves it with `/healthz` and `/readyz`.
//!
//! ```text
//!   names (one table per daemon) ---> docs/metrics.md, held equal by a test
//!        |
//!        +--> Tally, Timer   counted where things happen, kept for the life of the process
//!        +--> Page           everything that is read at the moment of the scrape
//!                 \--> text in OpenMetrics, or in the older format for whoever asks for it
//! ```
//!
//! Nothing here decides, and nothing that decides waits for anything here.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod certificates;
mod codes;
mod live;
pub mod names;
mod page;
mod process;
mod serve;
mod settings;
mod table;

pub use codes::{Codes, lines_of};
pub use live::{Live, Tally, Timer, Within};
pub use page::Page;
pub use serve::{Answer, Source, serve};
pub use settings::{Listen, TlsFiles};
pub use table::{Kind, Metric, markdown};
