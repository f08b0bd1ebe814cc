//! Other programs on this host that restart guests or shoot hosts: beside medevac each is a way to a second copy.

use std::collections::BTreeSet;
use std::path::Path;

/// By the beginning of what the kernel calls them: it keeps 15 characters of a name.
const KNOWN: [(&str, &str); 7] = [
    ("pacemakerd", "pacemakerd"),
    ("pacemaker-remot", "pacemaker-remoted"),
    ("pacemaker_remot", "pacemaker_remoted"),
    ("masakari-hostmo", "masakari-hostmonitor"),
    ("masakari-instan", "masakari-instancemonitor"),
    ("masakari-intros", "masakari-introspectiveinstancemonitor"),
    ("masakari-proces", "masakari-processmonitor"),
];

/// What of that runs here, in one line; the aggregator knows it by its beginning.
pub fn warning(proc: &Path) -> Option<String> {
    let found = found(proc);
    let names: Vec<&str> = found.into_iter().collect();
    (!names.is_empty()).then(|| {
        format!(
            "other HA: {}: restarts guests or shoots hosts, too, and two that do end in two copies; disable it before \
             this segment leaves mode observe",
            names.join(", ")
        )
    })
}

fn found(proc: &Path) -> BTreeSet<&'static str> {
    let Ok(entries) = std::fs::read_dir(proc) else { return BTreeSet::new() };
    let processes = entries.filter_map(Result::ok).filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
    });
    let names = processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok());
    let known = |name: String| KNOWN.iter().find(|(comm, _)| name.trim() == *comm).map(|(_, shown)| *shown);
    names.filter_map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_else_restarts_guests_is_found_by_its_process() {
        let proc = tempfile::tempdir().unwrap();
        let run = |pid: &str, comm: &str| {
            std::fs::create_dir(proc.path().join(pid)).unwrap();
            std::fs::write(proc.path().join(pid).join("comm"), format!("{comm}\n")).unwrap();
        };
        run("1", "systemd");
        run("7", "libvirtd");
        run("self", "pacemakerd");
        assert_eq!(warning(proc.path()), None);
        run("8", "masakari-hostmo");
        run("9", "pacemaker-remot");
        let told = warning(proc.path()).unwrap();
        assert!(told.starts_with("other HA: masakari-hostmonitor, pacemaker-remoted: "), "{told}");
        assert_eq!(warning(&proc.path().join("nowhere")), None);
    }
}
