//! Where instances are started and removed.

pub mod libvirt;
pub mod openstack;
