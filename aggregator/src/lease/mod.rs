//! The right to decide. One aggregator today: nothing ends its right but the
//! store, which belongs to one process at a time.

use crate::ports::Lease;
use medevac_triage::Epoch;
use std::time::Duration;

/// The right of the only aggregator of a site.
#[derive(Clone, Debug)]
pub struct SoloLease {
    epoch: Epoch,
}

impl SoloLease {
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch }
    }
}

impl Lease for SoloLease {
    fn epoch(&self) -> Epoch {
        self.epoch.clone()
    }

    /// No end: the locked store is the right.
    fn left(&self) -> Option<Duration> {
        None
    }
}
