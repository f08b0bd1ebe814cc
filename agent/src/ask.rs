//! One question to an aggregator's API, over TLS, and its answer: how a
//! certificate is asked for.

use crate::config::Address;
use crate::link::{advised, causes};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use medevac_proto::rest::{ErrorBody, Joined};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// An aggregator that has not answered by then is tried again, or another one.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A certificate and some authorities.
const ANSWER_MAX: usize = 256 * 1024;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answered; somebody may, later.
    #[error("{0}")]
    Unanswered(String),
    /// By name, with what to do.
    #[error("{message} ({code})")]
    Refused { code: String, message: String },
}

fn unanswered(error: &dyn std::error::Error) -> AskError {
    AskError::Unanswered(advised(causes(error)))
}

/// Posts `body` to `path` and reads what came of it.
///
/// # Errors
/// Not reachable, not trusted, or refused by name.
pub async fn post(address: &Address, tls: ClientConfig, path: &str, body: String) -> Result<Joined, AskError> {
    let asked = timeout(ANSWER_WITHIN, exchange(address, tls, path, body)).await;
    let late = |_| AskError::Unanswered(format!("no answer from {} within {ANSWER_WITHIN:?}", address.text));
    let (status, body) = asked.map_err(late)??;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| unanswered(&error));
    }
    let ErrorBody { code, message } = serde_json::from_slice(&body).unwrap_or_else(|_| ErrorBody {
        code: status.as_u16().to_string(),
        message: format!("{} does not know how to answer this: is it an older aggregator?", address.text),
    });
    Err(AskError::Refused { code, message })
}

async fn exchange(
    address: &Address,
    mut tls: ClientConfig,
    path: &str,
    body: String,
) -> Result<(StatusCode, Bytes), AskError> {
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(address.host.clone()).map_err(|error| unanswered(&error))?;
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|error| unanswered(&error))?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(|error| unanswered(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unanswered(&error))?;
    // Ends with the answer; what goes wrong with it is seen there, too.
    let connection = tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", &address.host)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| unanswered(&error))?;
    let response = sender.send_request(request).await.map_err(|error| unanswered(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    connection.abort();
    Ok((status, body.map_err(|error| AskError::Unanswered(error.to_string()))?.to_bytes()))
}
