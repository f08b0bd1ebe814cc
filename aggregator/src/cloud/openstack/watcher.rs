//! The compute services, read every few seconds; the host aggregates, less
//! often; and whether Nova can be asked at all.

use super::Shared;
use medevac_openstack::{ServiceState, ServiceStatus};
use medevac_triage::{Aggregate, CloudNews, ComputeService, HostId};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// nova-compute reports every ten seconds: twice as often sees every report.
const EVERY: Duration = Duration::from_secs(5);
/// People change aggregates, and look after half a minute whether it was noticed.
const AGGREGATES_EVERY: Duration = Duration::from_secs(30);
/// As long as nothing is known of the aggregates, they are asked for as often as the services.
const AGGREGATES_AGAIN: Duration = EVERY;
const WITHIN: Duration = Duration::from_secs(10);
/// Nobody knows when it reported: longer ago than any boot.
const LONG_AGO: Duration = Duration::from_secs(365 * 24 * 3600);

/// A report as we saw it: not before `since` by our own clock. Nova's clock is another.
struct Report {
    stamp: Option<String>,
    since: Option<Instant>,
}

/// Until the process ends.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut reports: BTreeMap<HostId, Report> = BTreeMap::new();
    let mut read_at: Option<Instant> = None;
    loop {
        let begun = Instant::now();
        match shared.nova.compute_services(begun + WITHIN).await.result() {
            Ok(services) => {
                shared.tell(CloudNews::Trouble(String::new())).await;
                let services = services.into_iter().map(|service| known(&shared, service, &mut reports, read_at));
                let services = services.collect();
                shared.tell(CloudNews::Services(services)).await;
                read_at = Some(begun);
            }
            Err(failure) => shared.tell(CloudNews::Trouble(failure.to_string())).await,
        }
        tokio::time::sleep(EVERY.saturating_sub(begun.elapsed())).await;
    }
}

/// Until the process ends. That they cannot be read is no trouble of its own: the
/// services say whether Nova can be asked, and the last ones stay.
pub(super) async fn watch_aggregates(shared: Arc<Shared>) {
    loop {
        let begun = Instant::now();
        let pause = match shared.nova.aggregates(begun + WITHIN).await.result() {
            Ok(aggregates) => {
                let mut aggregates: Vec<Aggregate> =
                    aggregates.into_iter().map(|aggregate| grouped(&shared, aggregate)).collect();
                aggregates.sort_by(|a, b| a.name.cmp(&b.name));
                shared.tell(CloudNews::Aggregates(aggregates)).await;
                AGGREGATES_EVERY
            }
            Err(failure) => {
                tracing::debug!(%failure, "the host aggregates could not be read");
                AGGREGATES_AGAIN
            }
        };
        tokio::time::sleep(pause.saturating_sub(begun.elapsed())).await;
    }
}

fn grouped(shared: &Shared, aggregate: medevac_openstack::Aggregate) -> Aggregate {
    Aggregate {
        name: aggregate.name,
        zone: aggregate.availability_zone.unwrap_or_default(),
        hosts: aggregate.hosts.iter().map(|host| shared.names.ours(host)).collect(),
        marks: aggregate.metadata,
    }
}

fn known(
    shared: &Shared,
    service: medevac_openstack::ComputeService,
    reports: &mut BTreeMap<HostId, Report>,
    read_before: Option<Instant>,
) -> ComputeService {
    let host = shared.names.ours(&service.host);
    if let Some(id) = service.id {
        shared.services.lock().unwrap_or_else(PoisonError::into_inner).insert(host.clone(), id);
    }
    let stamp = service.updated_at.map(|at| at.to_string());
    let report = reports.entry(host.clone()).or_insert(Report { stamp: stamp.clone(), since: None });
    if report.stamp != stamp {
        // It came after the read before this one, whatever the clocks say.
        *report = Report { stamp, since: read_before };
    }
    ComputeService {
        host,
        zone: service.zone.unwrap_or_default(),
        up: service.state == ServiceState::Up,
        enabled: service.status == ServiceStatus::Enabled,
        disabled_reason: service.disabled_reason.unwrap_or_default(),
        forced_down: service.forced_down,
        report_age: report.since.map_or(LONG_AGO, |since| since.elapsed()),
    }
}
