//! Asking a host whether it lives, on every plane, and answering when asked.
//!
//! ```text
//!   prober                                   the host asked
//!     |-- UDP request, key id, nonce ---------> responder (own thread)   user space
//!     |<- boot id, MAC under the boot's key --- |
//!     |-- TCP connect, banner ports ----------> sshd                     user space, if bytes come
//!     |-- ICMP echo --------------------------> kernel                   kernel only
//! ```
//!
//! Three answers, never two: a frozen host's kernel still answers ping and
//! SYN, so those say "kernel only". Only bytes that a process must have written
//! say "user space". An answer that cannot be authenticated is never the word
//! of the host asked.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ping;
mod prober;
mod responder;
pub mod wire;

pub use prober::{Answer, Outcome, Target, probe, reach};
pub use responder::{Responder, ResponderError};
pub use wire::Key;
