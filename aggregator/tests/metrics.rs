//! The port of the metrics of a whole aggregator: its real loop, a rescue, TLS.

#![allow(clippy::unwrap_used)]

mod common;

use common::certificates;
use common::world::{Site, configured};
use medevac_aggregator::metrics::names;
use medevac_proto::rest::Decider;
use std::path::Path;
use std::time::Duration;

/// Nobody listens there at this moment.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn client(dir: &Path, with: Option<&str>) -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let read = |file: String| std::fs::read(dir.join(file)).unwrap();
    let ours = reqwest::Certificate::from_pem(&read("ca.pem".into())).unwrap();
    let mut builder = reqwest::Client::builder().tls_certs_only([ours]);
    if let Some(who) = with {
        let pem = [read(format!("{who}.pem")), read(format!("{who}.key"))].concat();
        builder = builder.identity(reqwest::Identity::from_pem(&pem).unwrap());
    }
    builder.build().unwrap()
}

/// What is there, once the port is served.
async fn asked(client: &reqwest::Client, url: &str) -> (u16, String) {
    for _ in 0..100 {
        if let Ok(answer) = client.get(url).send().await {
            return (answer.status().as_u16(), answer.text().await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{url} is not served");
}

fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("{series} is missing in\n{page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Every series on the page is of the table.
fn assert_known(page: &str) {
    let ends = ["_bucket", "_sum", "_count"];
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let of = |metric: &&medevac_metrics::Metric| {
            metric.name == name || ends.iter().any(|end| name.strip_suffix(end) == Some(metric.name))
        };
        assert!(names::ALL.iter().chain(medevac_metrics::names::ALL).any(|metric| of(&metric)), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_is_seen_in_the_metrics() {
    let port = free_port();
    let site = Site::start(&format!("[metrics]\nlisten = '127.0.0.1:{port}'\n")).await;
    let (http, url) = (client(site.path(), None), format!("http://127.0.0.1:{port}"));
    let (_, before) = asked(&http, &format!("{url}/metrics")).await;
    assert_eq!(value(&before, "medevac_hosts{segment=\"default\",state=\"heard\"}"), 3.0);
    assert_eq!(value(&before, "medevac_instances_protected{segment=\"default\"}"), 1.0);
    assert_eq!(value(&before, "medevac_fence_device_readable{host=\"hv1\"}"), 1.0);
    assert_eq!(value(&before, "medevac_segment_mode_info{segment=\"default\",mode=\"act\"}"), 1.0);
    assert!(!before.contains("medevac_host_unprotected{"), "{before}");
    site.kill_first().await;
    let (_, page) = asked(&http, &format!("{url}/metrics")).await;
    for (series, count) in [
        ("medevac_deciding", 1.0),
        ("medevac_loop_answers", 1.0),
        ("medevac_sessions", 2.0),
        ("medevac_hosts{segment=\"default\",state=\"fenced\"}", 1.0),
        ("medevac_incidents_total{kind=\"host-silent\"}", 1.0),
        ("medevac_steps_total{step=\"start\",outcome=\"done\"}", 1.0),
        ("medevac_fence_passes_total{result=\"off\"}", 1.0),
        ("medevac_since_last_sign_seconds_count{milestone=\"proof\"}", 1.0),
        ("medevac_since_last_sign_seconds_count{milestone=\"first-start\"}", 1.0),
    ] {
        assert_eq!(value(&page, series), count, "{series}\n{page}");
    }
    assert!(value(&page, "medevac_since_last_sign_seconds_sum{milestone=\"proof\"}") > 2.0, "{page}");
    assert!(value(&page, "medevac_store_commit_seconds_count") > 1.0);
    assert!(value(&page, "medevac_certificate_expiry_timestamp_seconds{file=\"cert\"}") > 1e9);
    assert_known(&page);
    assert_eq!(asked(&http, &format!("{url}/healthz")).await, (200, "ok\n".into()));
    let decider: Decider = common::world::get(site.path(), "decider").await;
    assert_eq!(asked(&http, &format!("{url}/readyz")).await, (200, format!("deciding, epoch {}\n", decider.epoch)));
    assert!(decider.decides && decider.since_wall_ms > 0 && !decider.start.is_empty(), "{decider:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_the_port_speaks_tls_and_asks_for_a_certificate_only_where_that_is_wanted() {
    for wanted in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let port = free_port();
        let more = format!("[metrics]\nlisten = '0.0.0.0:{port}'\nclient_certificate = {wanted}\n");
        let running = medevac_aggregator::app::start(&configured(dir.path(), "", &more)).await.unwrap();
        let url = format!("https://localhost:{port}/readyz");
        let host = client(dir.path(), Some("hosts/hv1"));
        assert_eq!(asked(&host, &url).await.0, 200);
        let anybody = client(dir.path(), None).get(&url).send().await;
        assert_eq!(anybody.is_ok(), !wanted, "{anybody:?}");
        let plain = client(dir.path(), None).get(url.replace("https", "http")).send().await;
        assert!(plain.is_err(), "{plain:?}");
        running.stop().await.unwrap();
    }
}
