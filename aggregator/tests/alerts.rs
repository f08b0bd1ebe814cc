//! Receivers that fail in every way, and what becomes of the letters.

#![allow(clippy::unwrap_used)]

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::any};
use medevac_aggregator::alert::{Couriers, Form, Place, Receiver, Trials};
use medevac_aggregator::engine::Input;
use medevac_aggregator::ports::{Courier, Receivers};
use medevac_triage::{AlertId, Cause, Delivery, Letter, Lines, Observation, SegmentId, Severity, Wall};
use std::collections::{BTreeSet, VecDeque};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// What a receiver answers, one after the other; the last one for ever.
#[derive(Clone, Debug)]
enum Does {
    Say(u16),
    Redirect(&'static str),
    Hang,
    /// Says 200, and never ends its answer.
    Dribble,
}

#[derive(Clone, Debug, Default)]
struct Server {
    does: Arc<Mutex<VecDeque<Does>>>,
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    address: String,
}

impl Server {
    async fn start(does: &[Does]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/hook", listener.local_addr().unwrap());
        let server = Self { does: Arc::new(Mutex::new(does.iter().cloned().collect())), address, ..Self::default() };
        let router = Router::new().fallback(any(take)).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    fn next(&self) -> Does {
        let mut does = self.does.lock().unwrap();
        if does.len() > 1 { does.pop_front().unwrap() } else { does[0].clone() }
    }

    fn bodies(&self) -> Vec<serde_json::Value> {
        self.got.lock().unwrap().iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
    }

    fn receiver(&self, name: &str) -> Receiver {
        Receiver {
            name: name.to_owned(),
            url: Place::Url(self.address.clone()),
            form: Form::Json,
            secret_files: Vec::new(),
            bearer_file: None,
            template_secret_file: None,
            ca_file: None,
            deadline: Duration::from_secs(1),
        }
    }
}

async fn take(State(server): State<Server>, headers: HeaderMap, body: Bytes) -> Response {
    server.got.lock().unwrap().push((headers, body));
    match server.next() {
        Does::Say(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Does::Redirect(to) => (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response(),
        Does::Hang => std::future::pending().await,
        Does::Dribble => {
            axum::body::Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()).into_response()
        }
    }
}

fn letter(alert: u64, revision: u32) -> Letter {
    let segment = SegmentId::from("default");
    let lines = Lines { lost: "all".to_owned(), doing: "much".to_owned(), todo: "nothing to do".to_owned() };
    Letter {
        alert: AlertId(alert),
        revision,
        firing: true,
        code: "MDV-HOST-LOST",
        cause: Cause::HostsLost { segment: segment.clone() },
        severity: Severity::Warning,
        segment,
        hosts: BTreeSet::new(),
        incidents: BTreeSet::new(),
        lines,
        opened: Wall(0),
        changed: Wall(0),
        resolved: None,
    }
}

struct Site {
    couriers: Couriers,
    inbox: mpsc::Receiver<Input>,
}

impl Site {
    fn of(receivers: &[Receiver]) -> Self {
        let (inbox, arrived) = mpsc::channel(64);
        let couriers = Couriers::start(receivers, "site-1", &inbox, &tokio::runtime::Handle::current());
        Self { couriers, inbox: arrived }
    }

    /// The next answer: who, which alert at which revision, and how it went.
    async fn answer(&mut self) -> (String, u64, u32, Delivery) {
        let next = tokio::time::timeout(Duration::from_secs(15), self.inbox.recv()).await;
        match next.expect("an answer in time").unwrap() {
            Input::Seen(Observation::LetterAnswered { receiver, alert, revision, delivery }) => {
                (receiver, alert.0, revision, delivery)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_down_or_busy_gets_the_letter_later() {
    let busy = [Does::Say(503), Does::Say(401), Does::Say(200)];
    let server = Server::start(&busy).await;
    let mut site = Site::of(&[server.receiver("ops")]);
    site.couriers.tell("ops", letter(1, 1));
    assert_eq!(site.answer().await, ("ops".to_owned(), 1, 1, Delivery::Delivered));
    assert_eq!(server.bodies().len(), 3);
    let ids: BTreeSet<_> = server
        .got
        .lock()
        .unwrap()
        .iter()
        .map(|(headers, _)| headers["medevac-delivery"].clone())
        .map(|id| id.to_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, ["site-1/alert-1/1".to_owned()].into(), "each try is known as the same letter");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_refused_again_is_a_dead_letter_and_the_next_one_goes_out() {
    let server = Server::start(&[Does::Say(422), Does::Say(200)]).await;
    let mut site = Site::of(&[server.receiver("ops")]);
    site.couriers.tell("ops", letter(1, 1));
    let (_, _, _, delivery) = site.answer().await;
    assert!(matches!(&delivery, Delivery::Refused { why } if why.contains("422")), "{delivery:?}");
    site.couriers.tell("ops", letter(2, 1));
    assert_eq!(site.answer().await.3, Delivery::Delivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_delays_no_other_one() {
    let (hangs, well) = (Server::start(&[Does::Hang]).await, Server::start(&[Does::Say(200)]).await);
    let mut site = Site::of(&[hangs.receiver("hangs"), well.receiver("well")]);
    site.couriers.tell("hangs", letter(1, 1));
    for alert in 1..=5 {
        site.couriers.tell("well", letter(alert, 1));
    }
    for alert in 1..=5 {
        assert_eq!(site.answer().await, ("well".to_owned(), alert, 1, Delivery::Delivered));
    }
    assert!(well.bodies().len() == 5 && hangs.bodies().len() <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_ends_is_no_answer() {
    let server = Server::start(&[Does::Dribble, Does::Say(200)]).await;
    let mut site = Site::of(&[server.receiver("ops")]);
    site.couriers.tell("ops", letter(1, 1));
    assert_eq!(site.answer().await.3, Delivery::Delivered);
    assert_eq!(server.bodies().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_letter_of_an_alert_stands_for_those_that_wait() {
    let server = Server::start(&[Does::Say(500), Does::Say(200)]).await;
    let mut site = Site::of(&[server.receiver("ops")]);
    site.couriers.tell("ops", letter(1, 1));
    while server.bodies().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    site.couriers.tell("ops", letter(1, 2));
    site.couriers.tell("ops", letter(1, 3));
    assert_eq!(site.answer().await.2, 3);
    assert_eq!(server.bodies().last().unwrap()["revision"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_a_metadata_service_is_not_followed() {
    let server = Server::start(&[Does::Redirect("http://169.254.169.254/latest/meta-data/")]).await;
    let trials = Trials::new(&[server.receiver("ops")], "site-1");
    let told = trials.try_out(None).await;
    let why = told[0].1.clone().unwrap_err();
    assert!(why.contains("307") && why.contains("not followed"), "{why}");
    assert_eq!(server.bodies().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_file_that_names_a_metadata_service_is_never_asked_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("url");
    std::fs::write(&file, "http://169.254.169.254/canary").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let receiver = Receiver { url: Place::File(file), ..Server::start(&[Does::Say(200)]).await.receiver("ops") };
    let trials = Trials::new(&[receiver], "site-1");
    let why = trials.try_out(Some("ops".to_owned())).await[0].1.clone().unwrap_err();
    assert!(why.contains("link-local") && !why.contains("canary"), "{why}");
    assert!(trials.try_out(Some("nobody".to_owned())).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_signed_with_both_keys_while_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let key = |name: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, format!("{name}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file
    };
    let server = Server::start(&[Does::Say(204)]).await;
    let receiver = Receiver {
        secret_files: vec![key("new"), key("old")],
        bearer_file: Some(key("token")),
        ..server.receiver("ops")
    };
    let mut site = Site::of(&[receiver]);
    site.couriers.tell("ops", letter(1, 1));
    assert_eq!(site.answer().await.3, Delivery::Delivered);
    let got = server.got.lock().unwrap();
    let (headers, body) = &got[0];
    assert_eq!(headers["authorization"], "Bearer token");
    let header = headers["medevac-signature"].to_str().unwrap();
    let (time, signatures) = header.split_once(',').unwrap();
    let mut signed = format!("{}.", time.trim_start_matches("t=")).into_bytes();
    signed.extend_from_slice(body);
    for (name, signature) in ["new", "old"].iter().zip(signatures.split(',')) {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, name.as_bytes());
        let hex = signature.trim_start_matches("v1=");
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        aws_lc_rs::hmac::verify(&key, &signed, &bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_cannot_be_filled_in_is_a_dead_letter_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chat.j2");
    std::fs::write(&file, "{{ lost }}\n{{ misspelt }}").unwrap();
    let server = Server::start(&[Does::Say(200)]).await;
    let form = Form::Template { file, content_type: "application/json".to_owned() };
    let mut site = Site::of(&[Receiver { form, ..server.receiver("chat") }]);
    site.couriers.tell("chat", letter(1, 1));
    let (_, _, _, delivery) = site.answer().await;
    assert!(matches!(&delivery, Delivery::Refused { why } if why.contains("line 2")), "{delivery:?}");
    assert!(server.bodies().is_empty());
}
