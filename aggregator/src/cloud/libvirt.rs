//! Plain libvirt: orders travel over the session of the host that carries them out.

use crate::ports::Cloud;
use medevac_proto::session as wire;
use medevac_proto::session::aggregator_frame::Body;
use medevac_proto::session::command::Order as Wire;
use medevac_triage::{BootId, CloudAct, CloudNews, Epoch, HostId, Observation, Order, Outcome, SessionId, StepId};
use std::time::Duration;

/// What carries the orders: the sessions.
pub trait Carrier: Send {
    /// The agent's own time by which an order given now must have begun; `None` without a session.
    fn not_after(&self, session: &SessionId, deadline: Duration) -> Option<u64>;
    /// `false`: the frame will never leave.
    fn send(&self, session: &SessionId, body: Body) -> bool;
    /// Puts an answer into the loop's inbox.
    fn report(&self, observation: Observation);
}

/// The cloud of plain libvirt.
#[allow(missing_debug_implementations)]
pub struct LibvirtCloud {
    carrier: Box<dyn Carrier>,
    site: String,
    epoch: Epoch,
}

impl LibvirtCloud {
    pub fn new(carrier: Box<dyn Carrier>, site: String, epoch: Epoch) -> Self {
        Self { carrier, site, epoch }
    }
}

impl Cloud for LibvirtCloud {
    fn order(
        &mut self,
        step: StepId,
        host: &HostId,
        session: &SessionId,
        boot: &BootId,
        deadline: Duration,
        order: Order,
    ) {
        let sent = self.carrier.not_after(session, deadline).is_some_and(|not_after_boot_ms| {
            let command = wire::Command {
                // A durable counter: never reused, so a repeated one gets its first result.
                id: step.to_string(),
                site: self.site.clone(),
                epoch: Some(wire::Epoch { number: self.epoch.number, start_id: self.epoch.start.clone() }),
                boot_id: boot.0.clone(),
                not_after_boot_ms,
                order: Some(written(order)),
            };
            self.carrier.send(session, Body::Command(command))
        });
        if !sent {
            let answer = Observation::OrderAnswered { host: host.clone(), step, outcome: Outcome::NotSent };
            self.carrier.report(answer);
        }
    }

    /// Plain libvirt has no control plane.
    fn act(&mut self, act: CloudAct) {
        let why = format!("{}: this site is configured for plain libvirt", act.name());
        self.carrier.report(Observation::CloudSpoke(CloudNews::Trouble(why)));
    }
}

fn written(order: Order) -> Wire {
    match order {
        Order::Start { instance, name, xml } => Wire::Start(wire::StartInstance { uuid: instance.0, xml, name }),
        Order::Remove { instance } => Wire::Remove(wire::RemoveInstance { uuid: instance.0 }),
        Order::DestroyIncoming { instance } => Wire::DestroyIncoming(wire::DestroyIncoming { uuid: instance.0 }),
        Order::Leave { instance, why } => Wire::Leave(wire::LeaveInstance { uuid: instance.0, why }),
        Order::ReleaseHold { why } => Wire::ReleaseHold(wire::ReleaseHold { why }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medevac_triage::{IncidentId, InstanceId};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Recorded {
        clock: Option<u64>,
        full: bool,
        sent: Arc<Mutex<Vec<Body>>>,
        reported: Arc<Mutex<Vec<Observation>>>,
    }

    impl Carrier for Recorded {
        fn not_after(&self, _: &SessionId, deadline: Duration) -> Option<u64> {
            self.clock.map(|clock| clock + u64::try_from(deadline.as_millis()).unwrap())
        }
        fn send(&self, _: &SessionId, body: Body) -> bool {
            self.sent.lock().unwrap().push(body);
            !self.full
        }
        fn report(&self, observation: Observation) {
            self.reported.lock().unwrap().push(observation);
        }
    }

    fn start(recorded: &Recorded) {
        let epoch = Epoch { number: 3, start: "s".into() };
        let mut cloud = LibvirtCloud::new(Box::new(recorded.clone()), "site".into(), epoch);
        let step = StepId { incident: IncidentId(7), step: 2 };
        let order = Order::Start { instance: InstanceId::from("u"), name: "web".into(), xml: String::new() };
        cloud.order(step, &"hv2".into(), &"s1".into(), &"b".into(), Duration::from_secs(60), order);
    }

    #[test]
    fn an_order_carries_epoch_boot_and_the_agents_own_time() {
        let recorded = Recorded { clock: Some(1000), ..Recorded::default() };
        start(&recorded);
        let sent = recorded.sent.lock().unwrap();
        let Body::Command(command) = &sent[0] else { panic!("no command") };
        assert_eq!((command.id.as_str(), command.not_after_boot_ms), ("inc-7/2", 61_000));
        assert_eq!((command.boot_id.as_str(), command.epoch.as_ref().unwrap().number), ("b", 3));
        assert!(recorded.reported.lock().unwrap().is_empty());
    }

    #[test]
    fn an_order_that_never_left_is_answered_not_sent() {
        for recorded in [Recorded::default(), Recorded { clock: Some(1), full: true, ..Recorded::default() }] {
            start(&recorded);
            let reported = recorded.reported.lock().unwrap();
            assert!(matches!(reported[0], Observation::OrderAnswered { outcome: Outcome::NotSent, .. }));
        }
    }
}
