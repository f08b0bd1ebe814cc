//! libvirt, behind threads of its own: it blocks, and the rest of the agent must not.
//!
//! ```text
//!   event thread   libvirt's event loop; callbacks only copy and send
//!   reader         one thread, one connection: lists, states, XML; libvirt's events
//!   hands          up to four threads, each with its own connection: starts and stops
//!   supervisor     find it -> open -> listen, look every 2 s -> lost -> back-off -> find it
//! ```
//!
//! Every call has our own deadline. A call that does not come back is left
//! behind with its thread and its connection, up to a limit; then libvirt
//! counts as out of sight. This directory is the only place with `unsafe`.

mod calls;
mod events;
mod hands;
mod place;
mod supervisor;
mod worker;

pub use events::Event;
pub use supervisor::{Libvirt, Report};
