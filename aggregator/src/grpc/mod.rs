//! The sessions with the agents.
//!
//! ```text
//!   connection -> service: who is it? -> session: hello, checks, welcome
//!                                          | frames -> convert -> inbox of the loop
//!   loop -> registry: which session? ------+-> frames to the agent
//! ```

pub mod convert;
mod errand;
pub mod registry;
pub mod service;
mod session;
