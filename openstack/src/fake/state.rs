//! Everything that the fake knows, and what it makes of one request.

use super::clock::Clock;
use super::faults::{Fault, What};
use super::render::View;
use super::world::World;
use super::{Options, PASSWORD, PROJECT, Seen, USER, identity, routes};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// More than any test looks back upon.
const MAX_SEEN: usize = 20_000;

pub(super) struct State {
    pub options: Options,
    pub clock: Clock,
    pub world: World,
    /// Reads are answered from here while it is there.
    pub frozen: Option<World>,
    pub faults: Vec<Fault>,
    pub seen: VecDeque<Seen>,
    /// How often each server was told to be evacuated, whatever came of it.
    pub evacuations: BTreeMap<String, usize>,
    /// Token, and when it ends.
    pub tokens: BTreeMap<String, Duration>,
    pub logins: usize,
    /// Kept connections are cut, too.
    pub stopped: bool,
    pub base: String,
}

/// One request.
pub(super) struct Asked {
    pub method: String,
    /// Behind `/v2.1`, in parts.
    pub path: Vec<String>,
    pub query: Vec<(String, String)>,
    pub text: String,
    pub token: Option<String>,
    pub version: Option<String>,
    /// The local id that the fake gave it.
    pub request_id: String,
}

impl Asked {
    pub fn query(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

/// One answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Nova itself takes so long.
    pub wait: Option<Duration>,
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { status, headers, body: body.to_string().into_bytes(), wait: None }
    }

    pub fn empty(status: u16) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { status, headers, body: Vec::new(), wait: None }
    }

    pub fn html(status: u16) -> Self {
        let body = "<html><head><title>Proxy</title></head><body>The service is resting</body></html>";
        let headers = vec![("content-type", "text/html".to_owned())];
        Self { status, headers, body: body.into(), wait: None }
    }

    fn fault(status: u16, message: &str) -> Self {
        let name = match status {
            400 => "badRequest",
            403 => "forbidden",
            404 => "itemNotFound",
            409 => "conflictingRequest",
            413 | 429 => "overLimit",
            503 => "serviceUnavailable",
            _ => "computeFault",
        };
        Self::json(status, &json!({ name: {"code": status, "message": message} }))
    }
}

impl State {
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    pub fn view(&self, minor: u16) -> View<'_> {
        let world = self.frozen.as_ref().unwrap_or(&self.world);
        View { world, clock: &self.clock, now: self.now(), minor }
    }

    pub fn remember(&mut self, seen: Seen) {
        if seen.body.contains("\"evacuate\"")
            && let Some(server) = seen.path.split('/').rev().nth(1)
        {
            *self.evacuations.entry(server.to_owned()).or_default() += 1;
        }
        if self.seen.len() == MAX_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(seen);
    }

    /// The answer, with the fault that spoils it.
    pub fn answer(&mut self, asked: &mut Asked, fault: Option<&What>) -> Reply {
        if let Some(what) = fault.filter(|what| !what.lets_through()) {
            return spoiled(what);
        }
        if fault == Some(&What::SamePageForEver) {
            asked.query.retain(|(key, _)| key != "marker");
        }
        let mut reply = self.honest(asked);
        match fault {
            Some(What::ErrorAfter(status)) => reply = Reply::fault(*status, "The server has either erred or ..."),
            Some(What::HtmlAfter(status)) => reply = Reply::html(*status),
            Some(What::Garbled) => reply.body = b"{\"servers\": [{\"id\": ".to_vec(),
            Some(What::Huge) => reply.body = vec![b' '; crate::transport::MAX_BODY + 1],
            Some(What::Short(most)) => shorten(&mut reply, *most),
            Some(_) | None => {}
        }
        reply
    }

    fn honest(&mut self, asked: &Asked) -> Reply {
        let now = self.now();
        self.world.settle(now);
        let mut path = asked.path.iter().map(String::as_str);
        match (path.next(), path.next(), path.next()) {
            (Some("identity"), Some("v3"), Some("auth")) => identity::token(self, asked),
            (Some("compute"), None | Some(""), None) => self.versions(),
            (Some("compute"), Some("v2.1"), None | Some("")) => self.version(),
            (Some("compute"), Some("v2.1"), Some(_)) => self.nova(asked),
            (Some("image"), Some("v2"), Some("images")) => self.glance(asked),
            _ => Reply::html(404),
        }
    }

    fn glance(&self, asked: &Asked) -> Reply {
        if !identity::is_valid(self, asked.token.as_deref()) {
            return identity::turned_away();
        }
        let image = asked.path.get(3).and_then(|id| self.world.images.get(id));
        let Some(image) = image else {
            // Glance writes its refusals as pages.
            let page = "<html><body><h1>404 Not Found</h1>No image found with that ID<br /></body></html>";
            return Reply { body: page.into(), ..Reply::html(404) };
        };
        Reply::json(200, image)
    }

    fn nova(&mut self, asked: &Asked) -> Reply {
        if !identity::is_valid(self, asked.token.as_deref()) {
            return identity::turned_away();
        }
        let asked_for = asked.version.as_deref().unwrap_or("compute 2.1");
        let minor = asked_for.strip_prefix("compute 2.").and_then(|text| text.parse::<u16>().ok()).unwrap_or(0);
        let (least, most) = self.options.minors;
        if minor < least || minor > most {
            let message =
                format!("Version 2.{minor} is not supported by the API. Minimum is 2.{least} and maximum is 2.{most}.");
            return Reply::fault(406, &message);
        }
        let inner = Asked {
            method: asked.method.clone(),
            path: asked.path[2..].to_vec(),
            query: asked.query.clone(),
            text: asked.text.clone(),
            token: None,
            version: None,
            request_id: asked.request_id.clone(),
        };
        let mut reply =
            routes::nova(self, &inner, minor).unwrap_or_else(|(status, message)| Reply::fault(status, &message));
        reply.headers.push(("openstack-api-version", format!("compute 2.{minor}")));
        reply
    }

    fn entry(&self) -> Value {
        let (least, most) = self.options.minors;
        json!({"id": "v2.1", "status": "CURRENT", "version": format!("2.{most}"), "min_version": format!("2.{least}"),
               "updated": "2013-07-23T11:33:21Z", "links": [{"rel": "self", "href": "http://wrong.invalid/v2.1/"}]})
    }

    fn version(&self) -> Reply {
        Reply::json(200, &json!({"version": self.entry()}))
    }

    fn versions(&self) -> Reply {
        let old = json!({"id": "v2.0", "status": "SUPPORTED", "version": "", "min_version": ""});
        Reply::json(200, &json!({"versions": [old, self.entry()]}))
    }

    /// What a good login body holds.
    pub fn knows(&self, auth: &Value) -> bool {
        let identity = &auth["identity"];
        let user = &identity["password"]["user"];
        let credential = &identity["application_credential"];
        let by_password = user["password"] == PASSWORD && (user["name"] == "medevac" || user["id"] == USER);
        let scope = &auth["scope"]["project"];
        let scoped = scope["name"] == "service" || scope["id"] == PROJECT;
        let by_credential = credential["secret"] == PASSWORD && credential["id"] == "app-1";
        (by_password && scoped) || by_credential
    }
}

fn spoiled(what: &What) -> Reply {
    match what {
        What::ErrorBefore(status) => Reply::fault(*status, "The server is currently unavailable."),
        What::HtmlBefore(status) => Reply::html(*status),
        What::Redirect => {
            let mut reply = Reply::html(302);
            reply.headers.push(("location", "http://login.invalid/".into()));
            reply
        }
        What::TooMany { status, retry_after } => {
            let mut reply = Reply::html(*status);
            reply.headers.extend(retry_after.map(|seconds| ("retry-after", seconds.to_string())));
            reply
        }
        What::CutBefore
        | What::DelayBefore(_)
        | What::DelayAfter(_)
        | What::ErrorAfter(_)
        | What::CutAfter
        | What::CutWithin
        | What::HtmlAfter(_)
        | What::Short(_)
        | What::SamePageForEver
        | What::Garbled
        | What::Huge => Reply::empty(200),
    }
}

fn shorten(reply: &mut Reply, most: usize) {
    let Ok(mut body) = serde_json::from_slice::<Value>(&reply.body) else { return };
    if let Some(servers) = body["servers"].as_array_mut() {
        servers.truncate(most);
        body.as_object_mut().map(|map| map.remove("servers_links"));
        reply.body = body.to_string().into_bytes();
    }
}
