//! The packaged file, and files with faults.

#![allow(clippy::unwrap_used)]

use super::*;

const PACKAGED: &str = include_str!("../../packaging/aggregator.toml");

fn faults(text: &str) -> String {
    Config::parse(text).unwrap_err().to_string()
}

/// Commented defaults stand as `#key = value`, examples as `#     key = value`.
fn uncommented(prefix: &str) -> String {
    let take = |line: &str| match line.strip_prefix(prefix) {
        Some(rest) if !rest.starts_with([' ', '#']) && !rest.is_empty() => rest.to_owned() + "\n",
        _ => String::new(),
    };
    PACKAGED.lines().map(take).collect()
}

#[test]
fn the_packaged_file_says_the_defaults_and_names_every_key() {
    let bare = Config::parse("").unwrap();
    assert_eq!(Config::parse(PACKAGED).unwrap(), Config { ..bare.clone() });
    let shown = Config::parse(&uncommented("#")).unwrap();
    let initial_mode = shown.settings.initial_mode.clone();
    assert_eq!(initial_mode, [(SegmentId::from("default"), Mode::Observe)].into());
    assert_eq!(shown.settings.on_hung, [(SegmentId::from("default"), OnHung::Approve)].into());
    assert_eq!(shown.settings.recovery_method, [(SegmentId::from("default"), RecoveryMethod::Auto)].into());
    let recovery_method = BTreeMap::new();
    let same =
        Settings { recovery_method, initial_mode: BTreeMap::new(), on_hung: BTreeMap::new(), ..shown.settings.clone() };
    assert_eq!(Config { settings: same, ..shown }, bare);
    for name in ["suspect_after", "fence_deadline", "starts_per_target", "on_hung", "banner_ports", "machine_identity"]
    {
        assert!(uncommented("#").contains(name), "{name} is not in the packaged file");
    }
}

#[test]
fn each_segment_has_its_own_policy_for_a_hung_host() {
    let text = format!("{PACKAGED}\n[segments.default]\non_hung = \"alert\"\n[segments.edge]\non_hung = \"fence\"\n");
    let on_hung = Config::parse(&text).unwrap().settings.on_hung;
    assert_eq!(on_hung, [("default".into(), OnHung::Alert), ("edge".into(), OnHung::Fence)].into());
}

#[test]
fn segments_come_from_zones_in_openstack_and_what_is_not_said_of_one_is_left_to_the_default() {
    assert_eq!(Config::parse("").unwrap().settings.segments_by, SegmentsBy::All);
    let text = "cloud = 'openstack'\n[segments.default]\nmode = 'act'\n[segments.edge]\nhosts = ['hv8', 'hv9']\n";
    let settings = Config::parse(text).unwrap().settings;
    assert_eq!(settings.segments_by, SegmentsBy::AvailabilityZone);
    assert_eq!((settings.default_mode, settings.initial_mode.len()), (Mode::Act, 1));
    assert_eq!(settings.segment_of, [("hv8".into(), "edge".into()), ("hv9".into(), "edge".into())].into());
}

#[test]
fn a_segment_names_its_method_and_its_reserved_hosts_which_are_in_it() {
    let segment = "[segments.az1]\nrecovery_method = 'rh_priority'\nreserved_hosts = ['hv8', 'hv9']\n";
    let settings = Config::parse(&format!("cloud = 'openstack'\n{segment}")).unwrap().settings;
    assert_eq!(settings.recovery_method, [("az1".into(), RecoveryMethod::RhPriority)].into());
    assert_eq!(settings.reserved_hosts, [("az1".into(), vec!["hv8".into(), "hv9".into()])].into());
    assert_eq!(settings.segment_of.len(), 2);
    let told = faults(&format!("{segment}[segments.az2]\nreserved_hosts = ['hv9']\n"));
    for part in ["rh_priority", "openstack", "reserved twice", "a host is in one"] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
}

#[test]
fn a_host_in_two_segments_and_a_rule_that_libvirt_cannot_know_are_faults() {
    let told =
        faults("segments_by = 'aggregate'\n[segments.a]\nhosts = ['hv1', 'h v']\n[segments.b]\nhosts = ['hv1']\n");
    for part in ["segments_by", "openstack", "a host is in one", "hv1", "certificates"] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
    let told = faults("cloud = 'openstack'\nsegment_aggregates = ['fast']\n");
    assert!(told.contains("segments_by = \"aggregate\""), "{told}");
}

#[test]
fn the_example_of_the_packaged_file_is_valid() {
    let config = Config::parse(&format!("cloud = \"openstack\"\n{}", uncommented("#     "))).unwrap();
    let policy = &config.settings.policies[0];
    assert!(policy.ha.is_some() && policy.priority.is_some() && policy.tier.is_some());
    assert_eq!((policy.on_local_disks, policy.matches.len()), (Some(OnLocalDisks::Wait), 6));
    assert_eq!((config.fences.len(), config.templates.len()), (1, 1));
    assert!(config.settings.devices.values().next().unwrap().pinned);
}

#[test]
fn all_faults_are_told_at_once_with_key_value_and_range() {
    let told = faults(
        "listen = 'x'\nplaens = []\n[timing]\nsettle = '1ms'\nfence_grace = '30s'\n[segments.default]\nmode = 'shoot'\n",
    );
    for part in ["listen", "plaens", "planes", "settle", "1ms", "2s", "fence_grace", "shoot", "observe"] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
}

#[test]
fn each_policy_says_whom_it_means_and_what_holds_for_them() {
    let text = "cloud = 'openstack'\n[[policy]]\nflavor = 'm1.db'\nproject = 'p1'\nha = 'on'\npriority = -50\n\
                [[policy]]\ntier = 2\non_local_disks = 'rebuild'\n";
    let policies = Config::parse(text).unwrap().settings.policies;
    let matches = [(Level::Flavor, "m1.db".to_owned()), (Level::Project, "p1".to_owned())].into();
    let first = PolicyRule { matches, ha: Some(Ha::On), priority: Some(-50), ..PolicyRule::default() };
    let on_local_disks = Some(OnLocalDisks::Rebuild);
    assert_eq!(policies, [first, PolicyRule { tier: Some(2), on_local_disks, ..PolicyRule::default() }]);
}

#[test]
fn every_fault_of_a_policy_is_told() {
    let told = faults(
        "[[policy]]\nflavor = 'm1'\nha = 'maybe'\n[[policy]]\nserver = 'a'\n[[policy]]\nsrever = 'a'\ntier = 0\n\
         [[policy]]\npriority = 101\nserver = ''\n[[policy]]\nserver = 'a'\non_local_disks = 'keep'\n",
    );
    for part in ["openstack", "maybe", "tenant", "says nothing", "srever", "1 to 99", "-100 to 100", "keep", "twice"] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
    assert!(told.contains("is empty"), "{told}");
}

#[test]
fn plaintext_is_for_loopback_alone() {
    assert!(faults("insecure_plaintext = true").contains("loopback"));
    let config = Config::parse("listen = '127.0.0.1:15869'\ninsecure_plaintext = true").unwrap();
    assert_eq!(config.tls, None);
}

const FENCE: &str =
    "[[fence]]\nhost = 'hv1'\nagent = 'fence_ipmilan'\n[fence.options]\nip = '10.0.9.1'\nipport = 623\n";

#[test]
fn levels_of_a_host_keep_their_order_and_set_the_pass() {
    let second = FENCE.replace("10.0.9.1", "10.0.9.2").replace("agent =", "deadline = '10s'\nagent =");
    let config = Config::parse(&format!("{FENCE}{second}")).unwrap();
    let levels = &config.fences[&HostId::from("hv1")];
    assert_eq!(levels[1].label(), "fence_ipmilan 10.0.9.2:623");
    assert_eq!(config.settings.fence_deadline, Duration::from_secs(85));
    assert_eq!(config.longest_fence(), Duration::from_secs(85));
    assert!(faults(&format!("[timing]\nfence_deadline = '20s'\n{FENCE}")).contains("65s"));
}

#[test]
fn two_hosts_on_one_plug_are_refused() {
    let other = FENCE.replace("hv1", "hv2").replace("ip =", "ipaddr =");
    let told = faults(&format!("{FENCE}{other}"));
    assert!(told.contains("would shoot hv1"), "{told}");
    assert!(faults(&format!("{FENCE}{FENCE}")).contains("twice"));
}

#[test]
fn action_and_password_do_not_belong_into_the_options() {
    let told = faults(&format!("{FENCE}action = 'reboot'\npasswd = 'hunter2'\n"));
    assert!(told.contains("always named") && told.contains("password_file"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn a_missing_agent_is_a_warning_for_the_other_hosts_need_us() {
    let config = Config::parse(&FENCE.replace("fence_ipmilan", "fence_nowhere")).unwrap();
    assert!(config.warnings[0].contains("fence_nowhere"), "{:?}", config.warnings);
}

#[test]
fn the_packaged_file_names_every_row_of_the_matrix_with_its_default_and_says_which_have_no_source() {
    for row in &MATRIX_ROWS {
        let line = format!("#{} = \"{}\"", row.name, row.default.name());
        let at = PACKAGED.lines().position(|known| known == line);
        let comment = PACKAGED.lines().nth(at.expect(&line) - 1).unwrap();
        assert_eq!(comment.contains("no source yet"), row.source.is_none(), "{comment}\n{line}");
    }
}

#[test]
fn a_row_of_the_matrix_is_refused_with_the_reason_and_warned_of_where_nothing_tells_of_it() {
    let told = faults("[matrix]\nmanagement = 'fence'\ntenant = 'shoot'\nstorage = 'alert'\nall_planes = 'migrate'\n");
    for part in ["matrix.management", "kills healthy guests", "not-allowed", "alert, migrate", "unknown-action"] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
    assert!(told.contains("matrix.storage") && told.contains("no network is left"), "{told}");
    let config =
        Config::parse("[matrix]\nall_planes = 'approve'\nstorage_one_host = 'fence'\ntenant = 'alert'\n").unwrap();
    assert_eq!(config.settings.matrix.act(medevac_triage::Loss::AllPlanes), medevac_triage::Act::Approve);
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert!(config.warnings[0].contains("storage_one_host: no source yet"), "{:?}", config.warnings);
}

fn receiver(keys: &str) -> String {
    format!("{PACKAGED}\n[[alerts.receiver]]\nname = 'ops'\n{keys}\n")
}

#[test]
fn a_receiver_has_its_filter_and_its_way() {
    let keys = "url = 'http://127.0.0.1:9093/api/v2/alerts'\nformat = 'alertmanager'\nmin_severity = 'critical'\n\
                codes = ['MDV-HOST-LOST']\nsegments = ['edge']";
    let config = Config::parse(&receiver(keys)).unwrap();
    let filter = &config.settings.receivers[0];
    assert_eq!((filter.name.as_str(), filter.level), ("ops", true));
    assert!(filter.codes.contains("MDV-HOST-LOST") && filter.segments.contains(&"edge".into()));
    assert_eq!(config.receivers[0].form.name(), "alertmanager");
}

#[test]
fn what_no_receiver_can_be_is_named() {
    let cases = [
        ("", "url_file"),
        ("url = 'http://169.254.169.254/x'", "metadata"),
        ("url = 'ftp://there/x'", "http://"),
        ("url = 'https://me:secret@there/x'", "bearer_file"),
        ("url = 'https://there/x'\ncodes = ['MDV-NONE']", "MDV-HOST-LOST"),
        ("url = 'https://there/x'\nformat = 'template'", "minijinja"),
        ("url = 'https://there/x'\nformat = 'template'\ntemplate = '/nowhere'", "No such file"),
        ("url = 'https://there/x'\nsecret_files = ['a', 'b', 'c']", "at most two"),
        ("url = 'https://there/x'\nmin_severity = 'loud'", "critical"),
        ("url = 'https://there/x'\n[[alerts.receiver]]\nname = 'ops'\nurl = 'https://other/x'", "twice"),
    ];
    for (keys, told) in cases {
        let problems = Config::parse(&receiver(keys)).unwrap_err().to_string();
        assert!(problems.contains(told) && !problems.contains("me:secret"), "{keys}: {problems}");
    }
}
