//! What the agent asks of a hypervisor, as a trait: the hands and the care for
//! guests are tested against a fake, and run against libvirt.

use crate::domain_xml::Description;
use async_trait::async_trait;
use std::sync::Arc;

/// Why a call gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nobody knows whether the call was carried out, or ever will be.
    #[error("libvirt does not answer: {0}")]
    NotAnswering(String),
    /// libvirt answered, and said no.
    #[error("{0}")]
    Refused(String),
}

/// libvirt's word about one domain.
#[derive(Clone, Debug, PartialEq)]
pub struct Domain {
    pub uuid: String,
    pub name: String,
    /// `virDomainState`.
    pub state: u32,
    /// The reason that belongs to the state.
    pub reason: i32,
    pub persistent: bool,
    pub autostart: bool,
    pub managed_save: bool,
    /// What its inactive XML says; `None` when it could not be read.
    pub description: Option<Arc<Description>>,
}

/// Which way a guest is moving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    None,
    Incoming,
    Outgoing,
}

/// The calls that the agent makes. None of them waits longer than its own deadline.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Every domain, defined or running.
    async fn domains(&self) -> Result<Vec<Domain>, Fault>;
    /// One domain; `None` when libvirt does not know it.
    async fn domain(&self, uuid: &str) -> Result<Option<Domain>, Fault>;
    /// Whether a guest is moving, and which way.
    async fn migration(&self, uuid: &str) -> Result<Migration, Fault>;
    /// Defines a persistent domain.
    async fn define(&self, xml: &str) -> Result<(), Fault>;
    /// Starts a defined domain.
    async fn start(&self, uuid: &str) -> Result<(), Fault>;
    /// Ends a domain at once.
    async fn destroy(&self, uuid: &str) -> Result<(), Fault>;
    /// Undefines a stopped domain; NVRAM and TPM state stay on disk.
    async fn undefine(&self, uuid: &str) -> Result<(), Fault>;
    /// Sets whether libvirt starts the domain with the host.
    async fn set_autostart(&self, uuid: &str, on: bool) -> Result<(), Fault>;
    /// Writes into the domain's metadata whether the agent owes the autostart flag.
    async fn note_autostart(&self, uuid: &str, taken: bool) -> Result<(), Fault>;
}
