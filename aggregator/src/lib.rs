//! The aggregator: one loop around [`medevac_triage`], and its adapters.
//!
//! Adapters know triage's nouns and the traits of [`ports`], never each other;
//! [`engine`] knows the traits; only [`app`] knows everybody.

pub mod alert;
pub mod app;
pub mod authority;
pub mod cli;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod crash;
pub mod desk;
pub mod doors;
pub mod engine;
pub mod fence;
pub mod grpc;
pub mod http;
pub mod init;
pub mod keeper;
pub mod lease;
pub mod listen;
mod lobby;
pub mod look;
pub mod metrics;
pub mod peer;
pub mod ports;
pub mod pulse;
pub mod rank;
pub mod reload;
pub mod store;
pub mod swap;
