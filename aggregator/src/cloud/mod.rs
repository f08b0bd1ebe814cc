//! Where instances are started and removed.

pub mod libvirt;
