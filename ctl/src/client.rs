//! The way to the aggregator: its unix socket, or mutual TLS.

use crate::cli::Reach;
use medevac_proto::rest::{ErrorBody, VerbAnswer, VerbRequest};
use reqwest::{Certificate, Identity, Method, StatusCode};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than the aggregator's own limit for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why nothing more is done, with the exit code that says so.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    Refused(String),
    Usage(String),
    Unreachable(String),
}

impl Stop {
    pub fn code(&self) -> u8 {
        match self {
            Stop::Refused(_) => 1,
            Stop::Usage(_) => 2,
            Stop::Unreachable(_) => 3,
        }
    }

    pub fn message(&self) -> &str {
        match self {
            Stop::Refused(text) | Stop::Usage(text) | Stop::Unreachable(text) => text,
        }
    }
}

/// A way to one aggregator.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    /// How it was meant to be reached, for messages.
    at: String,
}

/// An answer as it came: text for `--json`, and its status.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub text: String,
}

impl Client {
    /// # Errors
    /// When files for TLS are missing or unreadable.
    pub fn new(reach: &Reach) -> Result<Self, Stop> {
        // The only provider that is built in; a second call changes nothing.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let builder = reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy();
        let (builder, base, at) = match &reach.address {
            None => {
                let at = reach.socket.display().to_string();
                // No TLS there, so no need of this machine's authorities, which it may lack.
                let plain = builder.tls_certs_only([]).unix_socket(reach.socket.clone());
                (plain, "http://aggregator".to_owned(), at)
            }
            Some(address) => (secured(builder, reach)?, format!("https://{address}"), address.clone()),
        };
        let http = builder.build().map_err(|error| Stop::Usage(format!("the files for TLS do not fit: {error}")))?;
        Ok(Self { http, base, at })
    }

    /// Reads; anything but success is a refusal.
    ///
    /// # Errors
    /// Not reachable, or refused.
    pub async fn get(&self, path: &str) -> Result<String, Stop> {
        let answer = self.call(Method::GET, path, None).await?;
        if answer.status.is_success() { Ok(answer.text) } else { Err(failed(&answer)) }
    }

    /// Asks for something that takes a body; anything but success is a refusal.
    ///
    /// # Errors
    /// Not reachable, or refused.
    pub async fn ask(&self, path: &str, body: &impl serde::Serialize) -> Result<String, Stop> {
        let body = serde_json::to_string(body).map_err(|error| Stop::Usage(error.to_string()))?;
        let answer = self.call(Method::POST, path, Some(body)).await?;
        if answer.status.is_success() { Ok(answer.text) } else { Err(failed(&answer)) }
    }

    /// Speaks a verb. A refusal is an answer, too: its body says why.
    ///
    /// # Errors
    /// Not reachable, or not understood.
    pub async fn speak(&self, request: &VerbRequest) -> Result<Answer, Stop> {
        let body = serde_json::to_string(request).map_err(|error| Stop::Usage(error.to_string()))?;
        let answer = self.post("/api/v1/verbs", body).await?;
        let told = serde_json::from_str::<VerbAnswer>(&answer.text).is_ok();
        if told { Ok(answer) } else { Err(failed(&answer)) }
    }

    /// Posts what is no verb; the answer as it came.
    ///
    /// # Errors
    /// Not reachable.
    pub async fn post(&self, path: &str, body: String) -> Result<Answer, Stop> {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<String>) -> Result<Answer, Stop> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        Ok(Answer { status, text })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Stop {
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let hint = if self.base.starts_with("http:") {
            "is medevac-aggregator running here, and are you root, or in its group? `systemctl status medevac-aggregator`; \
             for an aggregator elsewhere use --address with --ca, --cert and --key"
        } else {
            "is the address right, does the certificate come from the aggregator's `init`, is the port open?"
        };
        Stop::Unreachable(format!("no answer from {}: {cause}; {hint}", self.at))
    }
}

fn secured(builder: reqwest::ClientBuilder, reach: &Reach) -> Result<reqwest::ClientBuilder, Stop> {
    let (ca, cert, key) = (needed("--ca", &reach.ca)?, needed("--cert", &reach.cert)?, needed("--key", &reach.key)?);
    let authority =
        Certificate::from_pem(&read(ca)?).map_err(|error| Stop::Usage(format!("{}: {error}", ca.display())))?;
    let mut own = read(cert)?;
    own.push(b'\n');
    own.extend(read(key)?);
    let identity = Identity::from_pem(&own)
        .map_err(|error| Stop::Usage(format!("{} and {}: {error}", cert.display(), key.display())))?;
    Ok(builder.tls_certs_only([authority]).identity(identity).https_only(true))
}

fn needed<'a>(name: &str, path: &'a Option<PathBuf>) -> Result<&'a Path, Stop> {
    let message =
        || format!("--address needs {name}: `medevac-aggregator init` makes ca.pem, operator.pem and operator.key");
    path.as_deref().ok_or_else(|| Stop::Usage(message()))
}

fn read(path: &Path) -> Result<Vec<u8>, Stop> {
    std::fs::read(path).map_err(|error| Stop::Usage(format!("{}: {error}", path.display())))
}

/// What an error body says, as the right kind of end.
pub fn failed(answer: &Answer) -> Stop {
    let message = match serde_json::from_str::<ErrorBody>(&answer.text) {
        Ok(body) if !body.message.is_empty() => format!("{} ({})", body.message, body.code),
        _ => format!(
            "the aggregator answered {}: is this its address? Its version may differ from this program's",
            answer.status
        ),
    };
    match answer.status {
        StatusCode::BAD_REQUEST => Stop::Usage(message),
        StatusCode::SERVICE_UNAVAILABLE => Stop::Unreachable(message),
        _ => Stop::Refused(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u16, text: &str) -> Stop {
        let status = StatusCode::from_u16(status).unwrap_or_default();
        failed(&Answer { status, text: text.into() })
    }

    #[test]
    fn an_error_body_becomes_message_and_exit_code() {
        let body = r#"{"code":"unknown-incident","message":"there is no incident inc-9"}"#;
        assert_eq!(ended(404, body), Stop::Refused("there is no incident inc-9 (unknown-incident)".into()));
        assert_eq!(ended(400, body).code(), 2);
        assert_eq!(ended(503, body).code(), 3);
        assert!(ended(200, "<html>").message().contains("version"));
    }

    #[test]
    fn an_address_needs_all_three_files() {
        let reach = Reach {
            socket: PathBuf::new(),
            address: Some("a:1".into()),
            ca: Some(PathBuf::from("/nowhere")),
            cert: None,
            key: None,
        };
        assert!(matches!(Client::new(&reach), Err(Stop::Usage(text)) if text.contains("--cert")));
    }
}
