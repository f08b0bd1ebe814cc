//! Names that both daemons serve. Each daemon has a table of its own beside it.

crate::table! {
    BUILD_INFO = Gauge "medevac_build_info" ["program", "version"] "1; which program this is, and its version";
    CERTIFICATE_EXPIRY = Gauge "medevac_certificate_expiry_timestamp_seconds" ["file"]
        "When a certificate of `[tls]` expires, by the file's key; read anew at each scrape";
    LOG_LINES = Counter "medevac_log_lines_total" ["code", "level"]
        "Lines of the log that carry a code, as in operating.md, \"Codes\"";
    PROCESS_CPU = Counter "process_cpu_seconds_total" [] "CPU time of this process";
    PROCESS_MEMORY = Gauge "process_resident_memory_bytes" [] "Its memory";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" [] "Its open files and sockets";
    PROCESS_MAX_FDS = Gauge "process_max_fds" [] "How many it may open";
    PROCESS_START = Gauge "process_start_time_seconds" [] "When it was started";
}
