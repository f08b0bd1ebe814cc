//! Keystone and Nova, the few calls that medevac makes.
//!
//! ```text
//!   clouds.yaml, OS_*        Credentials
//!                                |
//!   POST /v3/auth/tokens <-- Keystone   token, catalog; one login for all who wait
//!                                |
//!   GET /v2.1/           <--   Nova     microversions, then reads and writes
//!                                |
//!                            Answer<T>  Done | Refused | Unknown | NotSent
//! ```
//!
//! Nova breaks a server that is evacuated twice, so what matters of a call is
//! less what it returns than what is known of it afterwards. Every call gives
//! one of four answers: carried out; refused, with a named reason; unknown, it
//! may or may not have been carried out; never sent, so it may be repeated.
//! No write is ever repeated here; a read is, once, where its token had expired or
//! its kept connection had been closed.
//!
//! # When the answer to an evacuate is lost
//! The request id that we send (`Unclear::sent_as`) becomes Nova's *global* request id: it is in
//! Nova's logs, and in no answer of its API. The id under which Nova lists the
//! evacuation among a server's actions is made by nova-api, and is only in the
//! answer that was lost. What tells is in [`traces`]: the actions and migrations that
//! are there now and were not there in the read just before.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod body;
mod catalog;
mod classify;
pub mod credentials;
#[cfg(feature = "fake")]
pub mod fake;
mod glance;
mod keystone;
mod nova;
pub mod traces;
mod transport;
mod version;

pub use answer::{Accepted, Answer, Doubt, Failure, Kind, Refusal, Unclear, Unsent};
pub use body::{
    ActionDetail, ActionEvent, Aggregate, ComputeService, Flavor, Hypervisor, InstanceAction, Migration, PowerState,
    Server, ServerGroup, ServiceState, ServiceStatus, Volume,
};
pub use catalog::CatalogProblem;
pub use credentials::{Credentials, CredentialsProblem};
pub use glance::{Glance, Image};
pub use keystone::{Keystone, LoginProblem, WhoAmI};
pub use medevac_settings::Secret;
pub use nova::{MigrationFilter, Nova, Reached, ResetTo};
pub use transport::TlsProblem;
pub use version::{Microversion, VersionProblem};
