//! Every metric of the agent, by name: docs/metrics.md shows this table, and the
//! rules and the board name nothing else.

medevac_metrics::table! {
    LIBVIRT = Gauge "medevac_agent_libvirt_connected" [] "1 while libvirt answers";
    GUESTS = Gauge "medevac_agent_guests" ["state"] "Guests of this host, by state";
    HELD = Gauge "medevac_agent_held" []
        "1 while guests are held after a boot, until the decider says where each one runs";
    RESPONDER = Gauge "medevac_agent_responder_listening" []
        "1 while the responder listens: without it peers cannot tell this host from a frozen one";
    SPOOL_FACTS = Gauge "medevac_agent_spool_facts" [] "Facts that no aggregator has taken yet";
    SPOOL_BYTES = Gauge "medevac_agent_spool_bytes" [] "Their size";
    SPOOL_MAX_BYTES = Gauge "medevac_agent_spool_max_bytes" [] "How much is kept (`spool.max_mib`)";
    SPOOL_OLDEST = Gauge "medevac_agent_spool_oldest_age_seconds" []
        "Age of the oldest of them, by the host's own clock; 0 when none waits";
    SPOOL_DROPPED = Counter "medevac_agent_spool_dropped_total" [] "Facts dropped because the spool was full";
    SPOOL_ON_DISK = Gauge "medevac_agent_spool_on_disk" []
        "1 while all of them are on disk too; 0: the disk takes nothing, and they are lost if the agent ends";
    STREAM = Gauge "medevac_agent_stream_connected" ["aggregator"] "1 while this aggregator has welcomed the agent";
    SESSIONS = Counter "medevac_agent_sessions_total" [] "Sessions opened: all but the first are reconnects";
    EPOCH = Gauge "medevac_agent_epoch" [] "The highest epoch met";
    DECIDED = Gauge "medevac_agent_decider_connected" [] "1 while an aggregator that decides hears this agent";
    COMMANDS = Counter "medevac_agent_commands_total" ["outcome", "reason"]
        "Commands that ended, by outcome, and the reason's name where there is one";
}
