//! The port: `/metrics`, `/healthz`, `/readyz`.
//!
//! ```text
//!   loopback  -> HTTP
//!   beyond it -> TLS with the daemon's own files -> HTTP
//! ```
//!
//! One request a connection, a few connections at a time, each with a deadline:
//! whoever holds them up holds up other scrapes and nothing else. A port that
//! is taken is tried again: a daemon is worth more than its numbers.

use crate::page::older;
use crate::settings::{Listen, TlsFiles};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Two Prometheus, a load balancer's checks, somebody with curl.
const CONNECTIONS_MAX: usize = 16;
/// A whole exchange, handshake included. Prometheus itself gives up after 10 s.
const EXCHANGE: Duration = Duration::from_secs(10);
/// A port that is taken is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const OLDER: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether all is well, and the reason in plain words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub well: bool,
    pub text: String,
}

impl Answer {
    pub fn well(text: impl Into<String>) -> Self {
        Self { well: true, text: text.into() }
    }

    pub fn not(text: impl Into<String>) -> Self {
        Self { well: false, text: text.into() }
    }
}

/// Who knows the numbers.
pub trait Source: Send + Sync + 'static {
    /// The page, in OpenMetrics.
    fn metrics(&self) -> impl Future<Output = String> + Send;
    /// The process lives, and its loop turns.
    fn healthy(&self) -> Answer;
    /// It does what it is there for.
    fn ready(&self) -> Answer;
}

/// Serves for ever. Beyond loopback `tls` must be given: the configuration has seen to that.
pub async fn serve(listen: Listen, tls: Option<TlsFiles>, source: Arc<impl Source>) {
    let Some(address) = listen.address else { return };
    loop {
        match open(address, &listen, tls.as_ref()).await {
            Ok((listener, acceptor)) => {
                tracing::info!(code = "MDV-METRICS", %address, "metrics are served");
                accept(&listener, acceptor, &source).await;
            }
            Err(why) => {
                tracing::error!(code = "MDV-METRICS", %address, "metrics are not served, and tried again: {why}");
            }
        }
        sleep(AGAIN).await;
    }
}

async fn open(
    address: SocketAddr,
    listen: &Listen,
    tls: Option<&TlsFiles>,
) -> Result<(TcpListener, Option<TlsAcceptor>), String> {
    let acceptor = match (listen.secured(), tls) {
        (false, _) => None,
        (true, Some(files)) => Some(secured(files, listen.client_certificate)?),
        (true, None) => return Err("nothing listens beyond loopback without TLS".to_owned()),
    };
    let listener = TcpListener::bind(address).await.map_err(|error| error.to_string())?;
    Ok((listener, acceptor))
}

/// Whoever asks is shown who we are; who they are is asked only where that is wanted.
fn secured(files: &TlsFiles, client_certificate: bool) -> Result<TlsAcceptor, String> {
    let wrong = |path: &std::path::Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let read = |path: &std::path::Path| -> Result<Vec<CertificateDer<'static>>, String> {
        let all = CertificateDer::pem_file_iter(path).map_err(|e| wrong(path, &e))?;
        all.collect::<Result<_, _>>().map_err(|e| wrong(path, &e))
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = if client_certificate {
        let mut roots = RootCertStore::empty();
        for certificate in read(&files.ca)? {
            roots.add(certificate).map_err(|e| wrong(&files.ca, &e))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.map_err(|e| wrong(&files.ca, &e))?)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| wrong(&files.key, &e))?;
    let config = builder.with_single_cert(read(&files.cert)?, key).map_err(|e| wrong(&files.cert, &e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: &TcpListener, acceptor: Option<TlsAcceptor>, source: &Arc<impl Source>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(code = "MDV-METRICS", "a connection was not accepted: {error}");
                sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let (acceptor, source) = (acceptor.clone(), Arc::clone(source));
        tokio::spawn(async move {
            // Who does not finish is nobody whom we owe anything.
            let _ = timeout(EXCHANGE, exchange(stream, acceptor, source)).await;
            drop(slot);
        });
    }
}

async fn exchange(stream: TcpStream, acceptor: Option<TlsAcceptor>, source: Arc<impl Source>) {
    let _ = stream.set_nodelay(true);
    match acceptor {
        None => speak(stream, source).await,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => speak(stream, source).await,
            Err(error) => tracing::debug!("no TLS on the port of the metrics: {error}"),
        },
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, source: Arc<impl Source>) {
    let service = service_fn(move |request| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(answer(&request, &*source).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(EXCHANGE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("on the port of the metrics: {error}");
    }
}

async fn answer(request: &Request<Incoming>, source: &impl Source) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "there is nothing to be changed here");
    }
    match request.uri().path() {
        "/metrics" => {
            let text = source.metrics().await;
            let accepts =
                |value: &HeaderValue| value.to_str().is_ok_and(|v| v.contains("application/openmetrics-text"));
            match request.headers().get_all(ACCEPT).iter().any(accepts) {
                true => response(StatusCode::OK, OPEN_METRICS, text),
                false => response(StatusCode::OK, OLDER, older(&text)),
            }
        }
        "/healthz" => told(source.healthy()),
        "/readyz" => told(source.ready()),
        _ => plain(StatusCode::NOT_FOUND, "here are /metrics, /healthz and /readyz"),
    }
}

fn told(answer: Answer) -> Response<Full<Bytes>> {
    let status = if answer.well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    plain(status, &answer.text)
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Live, Page};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const WORDS: crate::Metric =
        crate::Metric { name: "medevac_words_total", kind: crate::Kind::Counter, labels: &["result"], help: "Words" };

    struct Stuck;

    impl Source for Stuck {
        async fn metrics(&self) -> String {
            let mut live = Live::default();
            live.tally(WORDS).one(&["done"]);
            Page::default().text(&live).unwrap()
        }
        fn healthy(&self) -> Answer {
            Answer::not("the loop has not turned for 7 s")
        }
        fn ready(&self) -> Answer {
            Answer::well("deciding")
        }
    }

    async fn asked(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    async fn served() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { accept(&listener, None, &Arc::new(Stuck)).await });
        address
    }

    #[tokio::test]
    async fn who_asks_for_open_metrics_gets_it_and_all_others_the_older_format() {
        let address = served().await;
        let get = |accept: &str| format!("GET /metrics HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\n\r\n");
        let new = asked(address, &get("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")).await;
        assert!(new.contains(OPEN_METRICS) && new.contains("# TYPE medevac_words counter\n"), "{new}");
        let old = asked(address, &get("*/*")).await;
        assert!(old.contains(OLDER) && old.contains("# TYPE medevac_words_total counter\n"), "{old}");
    }

    #[tokio::test]
    async fn what_is_not_well_is_503_with_the_reason() {
        let address = served().await;
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let health = asked(address, &get("/healthz")).await;
        assert!(health.starts_with("HTTP/1.1 503") && health.ends_with("not turned for 7 s\n"), "{health}");
        assert!(asked(address, &get("/readyz")).await.starts_with("HTTP/1.1 200"));
        assert!(asked(address, &get("/")).await.starts_with("HTTP/1.1 404"));
        let post = "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
        assert!(asked(address, post).await.starts_with("HTTP/1.1 405"));
    }
}
