//! Golden output.

use super::*;
use crate::look::Look;
use medevac_proto::rest::{Alert, Entry, Segment, Unprotected};

fn plain(page: Page) -> String {
    page.text(&Look::plain())
}

fn head() -> IncidentHead {
    IncidentHead {
        id: "inc-7".into(),
        kind: "host-silent".into(),
        subject: "hv1".into(),
        state: "recovering".into(),
        opened_wall_ms: 1_795_363_200_000,
        closed_wall_ms: None,
        lost: "2 instances are down".into(),
        doing: "starting web on hv2".into(),
        todo: "nothing to do".into(),
    }
}

#[test]
fn a_status_opens_with_coverage() {
    let shown = plain(status(Status {
        site: "s".into(),
        epoch: 3,
        role: "deciding".into(),
        uptime_ms: 61_000,
        paused: Some("moving racks".into()),
        segments: vec![Segment { name: "default".into(), mode: "act".into(), hosts: 3, heard: 2 }],
        hosts_total: 3,
        hosts_heard: 2,
        instances_total: 5,
        instances_protected: 4,
        hosts_without_proof: [("hv3".to_owned(), "no fence device".to_owned())].into(),
        unprotected: vec![Unprotected {
            instance: "u1".into(),
            name: String::new(),
            host: "hv3".into(),
            reason: "disk on local storage".into(),
        }],
        open_incidents: vec![],
        alerts: vec![Alert { code: "MDV-HOST-DEAD".into(), text: "hv1 is dead".into() }],
    }));
    assert_eq!(
        shown,
        "\
site s, epoch 3, deciding, up 61 s
covered: 4 of 5 instances, 2 of 3 hosts heard, 1 without a way to prove their death
PAUSED, nothing is ordered: moving racks; end it with: medevacctl resume --reason '...'
ALERT MDV-HOST-DEAD: hv1 is dead

SEGMENT  MODE  HEARD
default  act   2 of 3

HOST  ITS DEATH CANNOT BE PROVEN
hv3   no fence device

INSTANCE  HOST  NOT COVERED
u1        hv3   disk on local storage

no open incidents"
    );
}

#[test]
fn an_incident_opens_with_its_three_lines() {
    let shown = plain(incident(Incident {
        head: head(),
        timeline: vec![
            Entry { wall_ms: 1_795_363_201_500, since_ms: 1500, code: "suspect".into(), text: "no heartbeat".into() },
            Entry {
                wall_ms: 1_795_363_205_000,
                since_ms: 5000,
                code: "condemned".into(),
                text: "hv2 and hv3 hear nothing".into(),
            },
        ],
        instances: vec![InstanceOutcome {
            uuid: "u1".into(),
            name: "web".into(),
            outcome: "starting".into(),
            host: "hv2".into(),
            text: "most free memory".into(),
        }],
    }));
    assert_eq!(
        shown,
        "\
lost:   2 instances are down
doing:  starting web on hv2
to do:  nothing to do

inc-7, host-silent of hv1, recovering
opened 2026-11-22 16:00:00Z

TIME                  AFTER    WHAT       DETAIL
2026-11-22 16:00:01Z  1.500 s  suspect    no heartbeat
2026-11-22 16:00:05Z  5.000 s  condemned  hv2 and hv3 hear nothing

INSTANCE  OUTCOME   HOST  WHY
web       starting  hv2   most free memory"
    );
}

#[test]
fn lists_are_tables() {
    assert_eq!(
        plain(incidents(&[head()])),
        "\
INCIDENT  KIND         OF   STATE       SINCE                 DOING                TO DO
inc-7     host-silent  hv1  recovering  2026-11-22 16:00:00Z  starting web on hv2  nothing to do"
    );
    let host = Host {
        name: "hv1".into(),
        segment: "default".into(),
        state: "heard".into(),
        instances: 2,
        proof: "fence_ipmilan 10.0.9.11".into(),
        warnings: vec!["libvirt-guests is enabled".into()],
        ..Host::default()
    };
    assert_eq!(
        plain(hosts(&[host])),
        "\
HOST  SEGMENT  INSTANCES  SILENT  INCIDENT  PROOF                    STATE
hv1   default  2          0 s     -         fence_ipmilan 10.0.9.11  heard
warning, hv1: libvirt-guests is enabled"
    );
    let one = Instance {
        uuid: "u1".into(),
        name: "web".into(),
        state: "running".into(),
        protected: true,
        reason: "disk on local storage".into(),
        homes: vec!["hv1".into()],
        memory_kib: 262_144,
        recoverable_elsewhere: false,
        policy: "protected (protect = \"all\")".into(),
    };
    assert_eq!(
        plain(instances(&[one])),
        "\
UUID  NAME  STATE    MAY RUN ON  MEMORY   PROTECTED  WHY NOT                POLICY
u1    web   running  hv1         256 MiB  at home    disk on local storage  protected (protect = \"all\")"
    );
}

#[test]
fn act_says_what_it_may_do_and_which_hosts_lack_a_proof() {
    let mut site =
        Status { segments: vec![Segment { name: "default".into(), ..Segment::default() }], ..Status::default() };
    assert!(before_act("default", &site).ends_with("Every known host has a way to prove its death."));
    site.hosts_without_proof.insert("hv3".into(), "no fence device".into());
    assert!(before_act("default", &site).ends_with("  hv3: no fence device"));
    assert!(before_act("east", &site).contains("No host is in segment east yet."));
}

#[test]
fn a_changed_row_of_the_matrix_shows_its_default_and_what_it_may_not_be() {
    let row = MatrixRow {
        row: "all_planes".into(),
        signal: "nobody hears it".into(),
        action: "approve".into(),
        default: "fence".into(),
        allowed: vec!["alert".into(), "approve".into(), "fence".into()],
        never: "no network is left".into(),
        source: "no source yet".into(),
    };
    let shown = plain(matrix(&[row]));
    for part in [
        "all_planes  nobody hears it  approve (default: fence)  no source yet",
        "all_planes may be alert, approve, fence; nothing else: no network is left",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
}

#[test]
fn tokens_and_revocations_are_shown_and_no_secret_is() {
    use medevac_proto::rest::{OpenToken, Revocation};
    assert_eq!(plain(identity(&Identity::default())), "no tokens, and nobody was revoked");
    let token = OpenToken { id: "a1".into(), host: "hv1".into(), state: "open".into(), ends_in_ms: 300_000 };
    let revoked = Revocation { whose: "hv2".into(), why: "stolen (root)".into(), ..Revocation::default() };
    let told = plain(identity(&Identity { tokens: vec![token], revoked: vec![revoked] }));
    assert!(told.contains("a1     hv1   open   5 min"), "{told}");
    assert!(told.contains("hv2      1970-01-01 00:00:00Z  stolen (root)  -"), "{told}");
}
