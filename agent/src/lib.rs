//! The daemon on each hypervisor: sensors, view, spool, link, and the hands.
//!
//! ```text
//!   /proc, pidfd (qemu) --.                       .--> link (one stream per aggregator)
//!   libvirt (threads) ----+--> agent (main loop) -+--> hands (commands), probes, responder
//!   storage (markers) ----'    guests, spool,     '--> state (one small file)
//!                              state
//! ```
//!
//! It decides nothing about other hosts: it tells what is here, and does what
//! the decider of the highest epoch says, or names the reason why not.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
pub mod app;
pub mod ask;
pub mod backoff;
pub mod care;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
mod controller;
pub mod digest;
pub mod domain_xml;
pub mod farewell;
pub mod gate;
pub mod give_back;
pub mod guest_list;
pub mod guests;
pub mod hands;
pub mod host;
pub mod hypervisor;
pub mod join;
pub mod kolla;
pub mod libvirt;
pub mod link;
pub mod markers;
pub mod metrics;
pub mod others;
pub mod papers;
pub mod pin;
pub mod qemu;
pub mod reload;
pub mod renew;
pub mod spool;
pub mod state;
pub mod tls;
pub mod verdict;
pub mod view;
