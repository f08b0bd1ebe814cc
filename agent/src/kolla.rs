//! What else runs on a host whose services live in containers: nova-compute's unit by any of its
//! names, whether the hold stands before it, and Nova's configuration where deployers keep it.

use std::path::Path;

/// Names under which nova-compute is started; the packages bring the hold for each.
const NOVA_COMPUTE: [&str; 7] = [
    "nova-compute",
    "openstack-nova-compute",
    "kolla-nova_compute-container",
    "tripleo_nova_compute",
    "edpm_nova_compute",
    "devstack@n-cpu",
    "snap.openstack-hypervisor.nova-compute",
];
/// Where units and what is added to them may lie.
const UNITS: [&str; 4] = ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
const HOLD: &str = "medevac-hold.conf";
/// What kolla-ansible writes on every host with a nova-compute, whatever starts it there.
const KOLLA: &str = "etc/kolla/nova-compute";
/// Nova's configuration as a host has it, outside of the container that reads it.
const NOVA_CONF: [&str; 3] = [
    "etc/nova/nova.conf",
    "etc/kolla/nova-compute/nova.conf",
    "var/lib/config-data/puppet-generated/nova_libvirt/etc/nova/nova.conf",
];

/// A unit of nova-compute that this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub name: &'static str,
    /// After a boot it waits until the guests are released.
    pub held: bool,
}

/// Every unit of nova-compute below a root.
pub fn units(root: &Path) -> Vec<Unit> {
    let has = |file: &str| UNITS.iter().any(|folder| root.join(folder).join(file).exists());
    let template = |name: &str| name.split_once('@').map(|(before, _)| format!("{before}@.service"));
    let there = |name: &&'static str| has(&format!("{name}.service")) || template(name).is_some_and(|unit| has(&unit));
    let unit = |name| Unit { name, held: has(&format!("{name}.service.d/{HOLD}")) };
    NOVA_COMPUTE.into_iter().filter(there).map(unit).collect()
}

/// Says once, in the log, what was found.
pub fn tell() {
    for unit in units(Path::new("/")) {
        let held = if unit.held { "held after a boot until its servers are released" } else { "not held after a boot" };
        tracing::info!("nova-compute runs as {}.service, {held}", unit.name);
    }
}

/// Ways to a second copy: a nova-compute that nothing holds, and a Nova that starts guests by itself.
pub fn warnings(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    // Without systemd there are files of units, and nobody who goes by them.
    if root.join("run/systemd/system").is_dir() {
        out.extend(unheld(root));
    }
    for path in NOVA_CONF {
        if resumes_guests(&std::fs::read_to_string(root.join(path)).unwrap_or_default()) {
            out.push(format!(
                "nova.conf has resume_guests_state_on_host_boot = true (/{path}): it starts guests at boot that may run elsewhere; set it to false"
            ));
        }
    }
    out
}

fn unheld(root: &Path) -> Vec<String> {
    let units = units(root);
    if units.is_empty() && root.join(KOLLA).exists() {
        let why = "nova_compute is started by the container engine, not by a unit: nothing holds it after a boot";
        return vec![format!("{why}; see docs/kolla.md")];
    }
    let told = |Unit { name, .. }: &Unit| {
        format!(
            "{name}.service does not wait for medevac after a boot: put {HOLD} into {name}.service.d, see docs/packages.md"
        )
    };
    units.iter().filter(|unit| !unit.held).map(told).collect()
}

fn resumes_guests(nova: &str) -> bool {
    nova.lines().filter_map(|l| l.split_once('=')).any(|(key, value)| {
        key.trim() == "resume_guests_state_on_host_boot" && value.trim().eq_ignore_ascii_case("true")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_host_without_nova_has_nothing_to_say() {
        let root = host(&[]);
        assert!(units(root.path()).is_empty() && warnings(root.path()).is_empty());
    }

    #[test]
    fn kollas_unit_is_found_with_its_hold_and_missed_without() {
        let unit = ("etc/systemd/system/kolla-nova_compute-container.service", "");
        let kolla = ("etc/kolla/nova-compute/nova.conf", "");
        let hold = ("usr/lib/systemd/system/kolla-nova_compute-container.service.d/medevac-hold.conf", "");
        let root = host(&[unit, kolla, hold]);
        assert_eq!(units(root.path()), [Unit { name: "kolla-nova_compute-container", held: true }]);
        assert_eq!(warnings(root.path()), Vec::<String>::new());
        let root = host(&[unit, kolla]);
        assert!(warnings(root.path()).concat().contains("does not wait for medevac"));
    }

    #[test]
    fn a_kolla_that_leaves_the_start_to_the_engine_is_told() {
        let root = host(&[("etc/kolla/nova-compute/config.json", "{}")]);
        assert!(warnings(root.path()).concat().contains("nothing holds it after a boot"));
        std::fs::remove_dir(root.path().join("run/systemd/system")).unwrap();
        assert!(warnings(root.path()).is_empty(), "no systemd, no units");
    }

    #[test]
    fn an_instance_of_a_template_is_a_unit_too() {
        let root = host(&[("usr/lib/systemd/system/devstack@.service", "")]);
        assert_eq!(units(root.path()), [Unit { name: "devstack@n-cpu", held: false }]);
    }

    #[test]
    fn novas_own_resume_is_found_wherever_its_configuration_lies() {
        assert!(resumes_guests("[DEFAULT]\nresume_guests_state_on_host_boot = True\n"));
        assert!(!resumes_guests("# resume_guests_state_on_host_boot = True\nresume_guests_state_on_host_boot=false\n"));
        let root = host(&[("etc/kolla/nova-compute/nova.conf", "resume_guests_state_on_host_boot = true\n")]);
        assert!(warnings(root.path()).concat().contains("(/etc/kolla/nova-compute/nova.conf)"));
    }
}
