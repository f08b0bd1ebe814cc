#![allow(clippy::unwrap_used)]

use super::*;
use medevac_triage::IncidentId;

pub fn letter(firing: bool) -> Letter {
    let segment = SegmentId::from("default");
    let lines = Lines {
        lost: "2 guests of hv1 are not known to run".to_owned(),
        doing: "switching the host off".to_owned(),
        todo: "nothing to do".to_owned(),
    };
    Letter {
        alert: AlertId(7),
        revision: 2,
        firing,
        code: "MDV-HOST-LOST",
        cause: Cause::HostsLost { segment: segment.clone() },
        severity: Severity::Warning,
        segment,
        hosts: ["hv1".into(), "hv2".into()].into(),
        incidents: [IncidentId(4)].into(),
        lines,
        opened: Wall(1_795_413_676_000),
        changed: Wall(1_795_413_677_000),
        resolved: (!firing).then_some(Wall(1_795_413_700_000)),
    }
}

fn now() -> Timestamp {
    "2026-11-23T06:00:00Z".parse().unwrap()
}

#[test]
fn the_own_form_opens_with_the_three_lines_and_says_which_alert_it_is() {
    let body = own(&letter(true), "site-1");
    assert_eq!(body["alert"], "alert-7");
    assert_eq!((&body["state"], &body["revision"]), (&json!("firing"), &json!(2)));
    assert_eq!(body["lost"], "2 guests of hv1 are not known to run");
    assert_eq!(body["opened"], "2026-11-23T06:01:16Z");
    assert_eq!((&own(&letter(false), "site-1")["state"], &body["resolved"]), (&json!("resolved"), &Value::Null));
}

#[test]
fn alertmanager_is_told_until_when_it_holds_and_when_it_ended() {
    let firing = alertmanager(&[letter(true)], "site-1", now());
    assert_eq!(firing[0]["labels"]["alertname"], "MDV-HOST-LOST");
    assert_eq!(firing[0]["endsAt"], "2026-11-23T06:05:00Z");
    let over = alertmanager(&[letter(false)], "site-1", now());
    assert_eq!(over[0]["labels"], firing[0]["labels"], "or it would be another alert there");
    assert_eq!(over[0]["endsAt"], "2026-11-23T06:01:40Z");
}

#[test]
fn a_lost_host_is_one_notification_with_a_name_that_stays_and_its_return_is_none() {
    let first = host_failures(&letter(true), "site-1", now());
    let again = host_failures(&letter(true), "site-1", now());
    assert_eq!(first.len(), 2);
    assert_eq!(first[0]["payload"]["hostname"], "hv1");
    assert_eq!(first[0]["id"], again[0]["id"]);
    assert_ne!(first[0]["id"], first[1]["id"]);
    assert!(host_failures(&letter(false), "site-1", now()).is_empty());
}

#[test]
fn every_packaged_template_makes_json_of_whatever_happens() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/alerts");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for firing in [true, false] {
            let mut letter = letter(firing);
            letter.lines.lost = "a \"guest\"\nof <hv1>".to_owned();
            let body = rendered(&text, &letter, "site-1", Some("key")).unwrap();
            let body: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
            assert!(body.to_string().contains("MDV-HOST-LOST"), "{body}");
        }
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn a_template_gets_every_field_and_a_misspelt_one_is_named() {
    let text = r#"{"text": {{ (code ~ ": " ~ lost) | tojson }}, "key": {{ secret | tojson }}}"#;
    let body = rendered(text, &letter(true), "site-1", Some("k")).unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, json!({"text": "MDV-HOST-LOST: 2 guests of hv1 are not known to run", "key": "k"}));
    let why = rendered("\n{{ lots }}", &letter(true), "site-1", None).unwrap_err();
    assert!(why.contains("line 2") && why.contains("undefined"), "{why}");
    assert!(template_faults("{% if %}").is_some() && template_faults(text).is_none());
}
