//! Every metric of the aggregator, by name: docs/metrics.md shows this table, and
//! the rules and the board name nothing else.
//!
//! Labels are bounded by what an operator writes (segments, hosts with a device)
//! or by words of the program: there is no series for an instance.

medevac_metrics::table! {
    DECIDING = Gauge "medevac_deciding" []
        "1 while this process decides: its loop turns, and nobody of a higher epoch was met";
    SETTLING = Gauge "medevac_settling" [] "1 after a start, while nobody is judged yet (`timing.settle`)";
    PAUSED = Gauge "medevac_paused" [] "1 while everything is paused";
    EPOCH = Gauge "medevac_epoch" [] "Its epoch: grows by one at each start, by a thousand at a take-over";
    SITE_INFO = Gauge "medevac_site_info" ["site", "start_id"] "1; the site, and the random id of this start";
    SEGMENT_MODE_INFO = Gauge "medevac_segment_mode_info" ["segment", "mode"]
        "1 for the mode that the segment is in";
    HOSTS = Gauge "medevac_hosts" ["segment", "state"]
        "Hosts that have joined, by state as `medevacctl hosts` shows it";
    HOSTS_HEARD = Gauge "medevac_hosts_heard" ["segment"] "Hosts whose agent or user space is heard";
    HOST_UNPROTECTED = Gauge "medevac_host_unprotected" ["host", "segment", "reason"]
        "1 for a host that could not be proven dead or shot if it died now, and what is missing";
    INSTANCES = Gauge "medevac_instances" ["segment"] "Instances known";
    INSTANCES_PROTECTED = Gauge "medevac_instances_protected" ["segment"] "Instances that policy protects";
    INSTANCES_UNCOVERED = Gauge "medevac_instances_uncovered" ["segment", "reason"]
        "Instances that would not run elsewhere as they were if their host died now, and why";
    INCIDENTS_OPEN = Gauge "medevac_incidents_open" ["kind", "phase"]
        "Open incidents, by what they are and where they stand";
    ALERTS = Gauge "medevac_alerts" ["code"] "Standing alerts of `medevacctl status`";
    CLOUD_USABLE = Gauge "medevac_cloud_usable" []
        "1 while Keystone and Nova can be used; only with cloud = \"openstack\"";
    INCIDENTS = Counter "medevac_incidents_total" ["kind"] "Incidents opened";
    INCIDENTS_CLOSED = Counter "medevac_incidents_closed_total" ["kind", "outcome"]
        "Incidents closed, by their outcome";
    STEPS = Counter "medevac_steps_total" ["step", "outcome"]
        "Steps of incidents that came to an end (start, evacuate, fence-off, ...): done, refused or unknown; an \
         unknown one counts again when it settles";
    SINCE_LAST_SIGN = Histogram "medevac_since_last_sign_seconds" ["milestone"]
        "From a dead host's last sign of life until it was suspect, condemned, ordered off, proven dead, its \
         first guest's start was ordered, all was recovered";
    FENCE_PASSES = Counter "medevac_fence_passes_total" ["result"]
        "Passes through a host's fence levels: off (said by the device), on, unknown, not-sent";
    POWER_READS = Counter "medevac_power_reads_total" ["result"]
        "Power states read from fence devices: on, off, unknown (not readable)";
    FENCE_DEVICE_READABLE = Gauge "medevac_fence_device_readable" ["host"]
        "1 when the newest read of the host's fence device got an answer, 0 when not; well hosts are read every \
         10 minutes";
    FENCE_DEVICE_ANSWER = Gauge "medevac_fence_device_answer_timestamp_seconds" ["host"]
        "When the host's fence device last answered; 0: not since this start";
    REFUSALS = Counter "medevac_refusals_total" ["by", "reason"]
        "Orders refused, by the agents or by Nova, and the reason's name";
    WORDS = Counter "medevac_words_total" ["result"] "Operators' words: done, or the name of the refusal";
    CLOUD_CALLS = Counter "medevac_cloud_calls_total" ["call", "answer"]
        "Questions and orders to Nova: done, refused, unknown, not-sent";
    CLOUD_CALL_TIME = Histogram "medevac_cloud_call_seconds" ["call"]
        "From the order to the answer, with the wait for its turn";
    COMMIT_TIME = Histogram "medevac_store_commit_seconds" [] "Commits of the store";
    TURN_TIME = Histogram "medevac_loop_turn_seconds" [] "Turns of the loop: take in, decide, commit, send";
    LOOP_LAG = Histogram "medevac_loop_lag_seconds" []
        "How much later than it had to the loop turned; 2 s and more starts every silence anew";
    LOOP_ANSWERS = Gauge "medevac_loop_answers" []
        "1 when the loop answered this scrape; what it alone knows is missing otherwise";
    INBOX_DEPTH = Gauge "medevac_inbox_depth" [] "What waits for the loop";
    INBOX_BOUND = Gauge "medevac_inbox_bound" [] "How much may wait: then sessions wait, and TCP pushes back";
    SESSIONS = Gauge "medevac_sessions" [] "Sessions of agents that stand";
    SESSIONS_OPENED = Counter "medevac_sessions_opened_total" [] "Sessions of agents that were opened";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_conventions() {
        for metric in ALL.iter().chain(medevac_metrics::names::ALL) {
            let name = metric.name;
            let ours = name.starts_with("medevac_") || name.starts_with("process_");
            assert!(ours && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            let counter = metric.kind == medevac_metrics::Kind::Counter;
            assert_eq!(name.ends_with("_total"), counter, "{name}: counters, and only they, end in _total");
            let histogram = metric.kind == medevac_metrics::Kind::Histogram;
            assert!(!histogram || name.ends_with("_seconds"), "{name}: base units");
            assert!(!metric.help.ends_with('.'), "{name}: the format ends the sentence");
            assert!(!metric.labels.contains(&"instance"), "{name}: no series for an instance");
        }
    }
}
