//! libvirt, behind threads of its own: it blocks, and the rest of the agent must not.
//!
//! ```text
//!   event thread   libvirt's event loop; callbacks only copy and send
//!   supervisor     open -> register -> list -> events ... -> close -> back-off -> open
//!   workers        one for reading, one for the hands; each call has our own deadline
//! ```
//!
//! A call that does not come back is left behind with its thread, and a new
//! worker takes over, a few times; then libvirt counts as out of sight.
//! This directory is the only place with `unsafe`.

mod calls;
mod connection;
mod events;
mod supervisor;
mod worker;

pub use events::Event;
pub use supervisor::{Libvirt, Report};
