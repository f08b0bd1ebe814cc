//! Glance, the one thing that is asked of it: what is said of an image.

use crate::answer::{Answer, Failure, Kind, Refusal, Unsent};
use crate::classify;
use crate::keystone::Keystone;
use crate::transport::{self, Call};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Glance refuses in pages; this is what is in the one for an image that it does not have.
const DELETED: &str = "No image found";

/// Glance's API; clones share connections and token.
#[derive(Clone, Debug)]
pub struct Glance {
    keystone: Keystone,
}

/// An image as an administrator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Body")]
pub struct Image {
    pub id: String,
    pub name: String,
    /// Only administrators may make one public: all others are their owners' to name and mark.
    pub public: bool,
    /// Every property that is a text, Glance's own among them.
    pub properties: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Body {
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    visibility: String,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

impl From<Body> for Image {
    fn from(body: Body) -> Self {
        let text = |(name, value)| match value {
            Value::String(text) => Some((name, text)),
            _ => None,
        };
        Self {
            id: body.id,
            name: body.name.unwrap_or_default(),
            public: body.visibility == "public",
            properties: body.others.into_iter().filter_map(text).collect(),
        }
    }
}

impl Glance {
    pub(crate) fn with(keystone: Keystone) -> Self {
        Self { keystone }
    }

    /// Asked for once: nothing depends on it that could not wait.
    pub async fn image(&self, id: &str, deadline: Instant) -> Answer<Image> {
        self.read(id, deadline).await.into()
    }

    async fn read(&self, id: &str, deadline: Instant) -> Result<Image, Failure> {
        let token = self.keystone.token(deadline).await.map_err(Failure::NotSent)?;
        let endpoint = token.image.clone().map_err(|problem| Failure::NotSent(Unsent::Catalog(problem)))?;
        let sent_as = transport::new_id();
        let (url, header) = (place(&endpoint, id), Some(&token.header));
        let call = Call { method: Method::GET, url, token: header, version: None, body: None, id: &sent_as };
        let raw = self.keystone.http().send(call, deadline).await?;
        if raw.status == 401 {
            self.keystone.reject(&token);
            return Err(Failure::NotSent(Unsent::TokenRejected));
        }
        let page = String::from_utf8_lossy(&raw.body);
        if raw.status == 404 && page.contains(DELETED) {
            let request_id = raw.request_id();
            let message = DELETED.to_owned();
            return Err(Failure::Refused(Refusal { status: 404, kind: Kind::NotFound, message, request_id }));
        }
        classify::read(&raw, &sent_as)
    }
}

/// With or without a version at the endpoint's end.
fn place(endpoint: &Url, id: &str) -> Url {
    let mut url = endpoint.clone();
    let last = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let versioned = last.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    url.set_query(None);
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.pop_if_empty();
        if versioned {
            parts.pop();
        }
        parts.extend(["v2", "images", id]);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_endpoint_leads_to_the_same_image() {
        for (endpoint, expected) in [
            ("http://h:9292", "http://h:9292/v2/images/a%2Fb"),
            ("http://h:9292/v2/", "http://h:9292/v2/images/a%2Fb"),
            ("https://h/image", "https://h/image/v2/images/a%2Fb"),
        ] {
            let url = Url::parse(endpoint).expect("it is one");
            assert_eq!(place(&url, "a/b").as_str(), expected);
        }
    }
}
