//! One letter on its way: the request, and what its answer means.
//!
//! ```text
//!   2xx                            taken
//!   400, 410, 413, 415, 422        refused: the same again would be refused again
//!   everything else, no answer     later
//! ```
//!
//! A redirect is not followed: whoever can answer for a receiver must not
//! choose where our letters go.

use super::body::{self, Form};
use super::guard::{GuardedDns, forbidden_host};
use super::receiver::Receiver;
use super::sign::{HEADER, signature};
use jiff::Timestamp;
use medevac_settings::Secret;
use medevac_triage::Letter;
use reqwest::{Certificate, Client, StatusCode, Url};
use std::path::Path;
use std::sync::Arc;

/// What is read of an answer: it is only shown.
const ANSWER_MAX: usize = 300;
/// What would be refused again.
const FOR_GOOD: [StatusCode; 5] = [
    StatusCode::BAD_REQUEST,
    StatusCode::GONE,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::UNPROCESSABLE_ENTITY,
];

/// What a receiver made of letters.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Taken,
    /// For good.
    Refused(String),
    Later(String),
}

/// Posts to one receiver.
#[derive(Debug)]
pub struct Poster {
    receiver: Receiver,
    site: String,
}

/// One body, and what it is called.
struct Parcel {
    body: Vec<u8>,
    content_type: String,
    /// The same for every try: a receiver may drop what it has had.
    id: String,
}

impl Poster {
    pub fn new(receiver: Receiver, site: String) -> Self {
        Self { receiver, site }
    }

    pub fn name(&self) -> &str {
        &self.receiver.name
    }

    /// It has to be told again and again.
    pub fn forgets(&self) -> bool {
        self.receiver.form == Form::Alertmanager
    }

    pub async fn post(&self, letters: &[Letter]) -> Answer {
        let parcels = match self.parcels(letters) {
            Ok(parcels) => parcels,
            Err(why) => return Answer::Refused(why),
        };
        for parcel in parcels {
            match self.send(parcel).await {
                Answer::Taken => {}
                other => return other,
            }
        }
        Answer::Taken
    }

    /// A test alert, and its end where it would otherwise stay.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn try_out(&self) -> Result<(), String> {
        if self.receiver.form == Form::HostFailure {
            return Err("its format knows lost hosts alone: nothing was sent".to_owned());
        }
        let fires = body::trial(true);
        let over = (!self.forgets()).then(|| body::trial(false));
        for letter in std::iter::once(fires).chain(over) {
            match self.post(&[letter]).await {
                Answer::Taken => {}
                Answer::Refused(why) | Answer::Later(why) => return Err(why),
            }
        }
        Ok(())
    }

    fn parcels(&self, letters: &[Letter]) -> Result<Vec<Parcel>, String> {
        let site = &self.site;
        let now = Timestamp::now();
        let parcel =
            |body: Vec<u8>, content_type: &str, id: String| Parcel { body, content_type: content_type.to_owned(), id };
        let json = |value: &serde_json::Value, id| parcel(value.to_string().into_bytes(), "application/json", id);
        let id = |letter: &Letter| format!("{site}/{}/{}", letter.alert, letter.revision);
        let first = letters.first().map(id).unwrap_or_default();
        Ok(match &self.receiver.form {
            Form::Alertmanager => vec![json(&body::alertmanager(letters, site, now), first)],
            Form::Json => letters.iter().map(|letter| json(&body::own(letter, site), id(letter))).collect(),
            Form::HostFailure => {
                let all = letters.iter().flat_map(|letter| body::host_failures(letter, site, now));
                all.map(|value| json(&value, value["id"].as_str().unwrap_or_default().to_owned())).collect()
            }
            Form::Template { file, content_type } => {
                let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
                let own = self.receiver.template_secret_file.as_deref().map(Secret::read).transpose()?;
                let render = |letter: &Letter| {
                    let body = body::rendered(&text, letter, site, own.as_ref().map(Secret::expose))?;
                    Ok::<_, String>(parcel(body.into_bytes(), content_type, id(letter)))
                };
                letters
                    .iter()
                    .map(render)
                    .collect::<Result<_, _>>()
                    .map_err(|why| format!("{}, {why}", file.display()))?
            }
        })
    }

    async fn send(&self, parcel: Parcel) -> Answer {
        let request = match self.request(parcel) {
            Ok(request) => request,
            // Files can be mended without a restart.
            Err(why) => return Answer::Later(why),
        };
        match request.send().await {
            Ok(answer) => judge(answer).await,
            Err(error) => Answer::Later(cause(&error)),
        }
    }

    fn request(&self, parcel: Parcel) -> Result<reqwest::RequestBuilder, String> {
        let receiver = &self.receiver;
        let text = receiver.url.read()?;
        // The URL may be a secret: what is wrong with it is told without it.
        let url = Url::parse(text.expose()).map_err(|error| format!("its URL cannot be read: {error}"))?;
        if let Some(why) = url.host_str().and_then(forbidden_host) {
            return Err(why.to_owned());
        }
        let secrets = receiver.secret_files.iter().map(|file| Secret::read(file)).collect::<Result<Vec<_>, _>>()?;
        let seconds = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
        let mut request = self
            .client(&url)?
            .post(url)
            .header("content-type", parcel.content_type)
            .header("medevac-delivery", parcel.id);
        if !secrets.is_empty() {
            request = request.header(HEADER, signature(&secrets, seconds, &parcel.body));
        }
        if let Some(file) = &receiver.bearer_file {
            request = request.bearer_auth(Secret::read(file)?.expose());
        }
        Ok(request.body(parcel.body))
    }

    /// Made anew for each letter: alerts are rare, and a changed authority needs no restart.
    fn client(&self, url: &Url) -> Result<Client, String> {
        // The only provider that is built in; a second call changes nothing.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = Client::builder()
            .timeout(self.receiver.deadline)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(GuardedDns))
            .no_proxy()
            .user_agent(concat!("medevac/", env!("CARGO_PKG_VERSION")));
        match &self.receiver.ca_file {
            Some(file) => builder = builder.tls_certs_only(authorities(file)?),
            // Without TLS a machine that trusts no authority at all will do.
            None if url.scheme() == "http" => builder = builder.tls_certs_only([]),
            None => {}
        }
        let todo = "name its authority as `ca_file`, or install ca-certificates";
        builder
            .build()
            .map_err(|error| if url.scheme() == "http" { cause(&error) } else { format!("{}: {todo}", cause(&error)) })
    }
}

fn authorities(file: &Path) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Certificate::from_pem_bundle(&pem).map_err(|error| format!("{}: {error}", file.display()))
}

/// An answer is read to its end, or to the deadline: a receiver that says 200
/// and then hangs has not taken it.
async fn judge(answer: reqwest::Response) -> Answer {
    let status = answer.status();
    let moved = answer.headers().get("location").and_then(|to| to.to_str().ok()).map(str::to_owned);
    let text = match said(answer).await {
        Ok(text) => text,
        Err(error) => return Answer::Later(format!("{status}, and then {}", cause(&error))),
    };
    match status {
        _ if status.is_success() => Answer::Taken,
        _ if status.is_redirection() => Answer::Later(format!(
            "{status}: redirects are not followed; correct its URL ({})",
            moved.unwrap_or_default()
        )),
        _ if FOR_GOOD.contains(&status) => Answer::Refused(format!("{status}: {text}")),
        _ => Answer::Later(format!("{status}: {text}")),
    }
}

async fn said(mut answer: reqwest::Response) -> Result<String, reqwest::Error> {
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        let room = ANSWER_MAX.saturating_sub(text.len());
        text.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The innermost reason, without the URL, which may be a secret.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match std::ptr::eq(cause, error as &dyn std::error::Error) {
        true => "the request could not be made".to_owned(),
        false => cause.to_string(),
    }
}
