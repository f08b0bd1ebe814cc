//! What is read directly before an evacuation is asked for, begun a little earlier.
//!
//! ```text
//!   proof -> forced down ----------> evacuations committed -> asked for
//!        \-> server, migrations read -----------------------^   if that began within LASTS, else read anew
//! ```

use super::Shared;
use medevac_openstack::{Answer, Migration, MigrationFilter, Server};
use medevac_triage::InstanceId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// A read that began so long before its evacuation was committed is one directly
/// before it: reads take about as long by themselves where Nova is busy.
const LASTS: Duration = Duration::from_millis(300);

/// What Nova says of a server before it is asked for its evacuation.
pub(super) struct Look {
    pub server: Answer<Server>,
    pub migrations: Answer<Vec<Migration>>,
}

/// Looks that were begun and nobody has used yet: never more than were asked for within [`LASTS`].
#[derive(Default)]
pub(super) struct Ahead(Mutex<BTreeMap<InstanceId, (Instant, JoinHandle<Look>)>>);

impl Ahead {
    fn put(&self, id: InstanceId, begun: Instant, read: JoinHandle<Look>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| *at + LASTS >= begun);
        known.insert(id, (begun, read));
    }

    /// Used once: whoever comes again reads anew.
    fn take(&self, id: &InstanceId, committed: Instant) -> Option<JoinHandle<Look>> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        found.filter(|(at, _)| *at + LASTS >= committed).map(|(_, read)| read)
    }
}

impl Shared {
    /// Without turns of their own: who waits for them has one.
    pub(super) fn read_ahead(self: &Arc<Self>, instances: Vec<InstanceId>, until: Instant) {
        for id in instances {
            let (shared, of) = (Arc::clone(self), id.clone());
            let read = tokio::spawn(async move { shared.look(&of, until).await });
            self.ahead.put(id, Instant::now(), read);
        }
    }

    /// As Nova said directly before `committed`, or says now.
    pub(super) async fn looked(&self, id: &InstanceId, committed: Instant, until: Instant) -> Look {
        if let Some(read) = self.ahead.take(id, committed)
            && let Ok(Ok(look)) = timeout_at(until, read).await
        {
            return look;
        }
        self.look(id, until).await
    }

    async fn look(&self, id: &InstanceId, until: Instant) -> Look {
        let filter = MigrationFilter::evacuations_of(id.as_str());
        let (server, migrations) =
            tokio::join!(self.nova.server(id.as_str(), until), self.nova.migrations(&filter, until));
        Look { server, migrations }
    }
}
