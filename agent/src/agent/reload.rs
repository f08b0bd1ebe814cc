//! A configuration that was read anew, taken by the loop.

use super::Agent;
use crate::reload::Fresh;

impl Agent {
    pub(super) fn on_reload(&mut self, read: Fresh) {
        let fresh = match read {
            Ok(fresh) => fresh,
            Err(why) => {
                tracing::warn!(
                    code = "MDV-CONFIG-REFUSED",
                    "agent.toml is not taken, what was read before holds: {why}"
                );
                self.refused = Some(why);
                return;
            }
        };
        tracing::info!(code = "MDV-RELOADED", "agent.toml was read again");
        self.refused = None;
        self.spool.set_max_mib(fresh.spool_max_mib);
        let (planes, port) = (&fresh.planes, fresh.responder_port);
        let moved = *planes != self.config.planes || port != self.config.responder_port;
        self.config = fresh;
        if !self.config.read_controller {
            self.offer.told = None;
        }
        if moved {
            // On other addresses: peers learn them from the next hello.
            self.responder = None;
            self.start_responder();
            self.end_all();
        }
    }
}
