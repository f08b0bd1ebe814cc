//! What this host's power controller says of itself, told to whoever listens:
//! when a stream is opened, and every hour.

use super::{Agent, duties::Done};
use crate::controller;
use medevac_proto::session::{PowerController, agent_frame::Body};
use tokio::time::Instant;

/// What was read last, and when it is read again.
#[derive(Debug, Default)]
pub(super) struct Offer {
    pub(super) told: Option<PowerController>,
    reading: bool,
    not_before: Option<Instant>,
}

impl Agent {
    /// Beside the loop: a controller takes seconds for an answer.
    pub(super) fn look_at_controller(&mut self) {
        let early = self.offer.not_before.is_some_and(|at| Instant::now() < at);
        if !self.config.read_controller || self.offer.reading || early {
            return;
        }
        self.offer.reading = true;
        self.spawn(async { Done::Controller(controller::read().await) });
    }

    pub(super) fn on_controller(&mut self, told: PowerController) {
        (self.offer.reading, self.offer.not_before) = (false, Some(Instant::now() + controller::EVERY));
        if self.offer.told.as_ref() != Some(&told) {
            match told.addresses.is_empty() {
                true => tracing::info!("no power controller seen: {}", told.why_none),
                false => tracing::info!("the power controller says that it is at {}", told.addresses.join(", ")),
            }
        }
        self.send_all(&Body::PowerController(told.clone()));
        self.offer.told = Some(told);
    }
}
