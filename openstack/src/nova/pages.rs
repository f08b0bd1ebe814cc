//! Lists in pages, to their end and never beyond.

use super::Nova;
use crate::answer::{Doubt, Failure, Unclear};
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use tokio::time::Instant;

/// What Nova gives at most by default, whatever is asked for.
pub(super) const PAGE: usize = 1000;

/// With pages of a thousand, twenty times the largest cloud that is planned for; with a server that
/// allows only a hundred at a time, still twice that.
const MAX_PAGES: usize = 200;

/// Something that comes in pages.
pub(super) trait Listed: Sized {
    type Page: DeserializeOwned;
    /// What is on a page, and the address of the next one.
    fn open(page: Self::Page) -> (Vec<Self>, Vec<Link>);
    /// What the next page begins after.
    fn marker(&self) -> String;
}

#[derive(Debug, Deserialize)]
pub(super) struct Link {
    #[serde(default)]
    rel: String,
    #[serde(default)]
    href: String,
}

impl Nova {
    pub(super) async fn pages<T: Listed>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        deadline: Instant,
    ) -> Result<Vec<T>, Failure> {
        self.pages_as(path, query, |item| item, deadline).await
    }

    /// Of each item only what is wanted stays: a large list is never there as a whole.
    pub(super) async fn pages_as<T: Listed, U>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        keep: impl Fn(T) -> U,
        deadline: Instant,
    ) -> Result<Vec<U>, Failure> {
        let mut seen = Seen::default();
        let mut all = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut query = query.to_vec();
            query.push(("limit", PAGE.to_string()));
            query.extend(marker.map(|marker| ("marker", marker)));
            let (items, links) = T::open(self.get(path, &query, deadline).await?);
            marker = next(&items, &links);
            seen.look(&items, marker.as_deref())?;
            all.extend(items.into_iter().filter(|item| seen.is_new(item)).map(&keep));
            if marker.is_none() {
                return Ok(all);
            }
        }
        Err(endless(format!("there are more than {MAX_PAGES} pages")))
    }
}

/// Only the marker is taken from the link: behind a proxy its address is often wrong. A full
/// page without a link is followed, too: one empty page more, against a list cut short.
fn next<T: Listed>(items: &[T], links: &[Link]) -> Option<String> {
    if let Some(link) = links.iter().find(|link| link.rel == "next") {
        let base = Url::parse("http://nova").ok()?;
        let url = base.join(&link.href).ok()?;
        let named = url.query_pairs().find(|(key, _)| key == "marker").map(|(_, value)| value.into_owned());
        return named.or_else(|| items.last().map(Listed::marker));
    }
    (items.len() >= PAGE).then(|| items.last().map(Listed::marker)).flatten()
}

#[derive(Default)]
struct Seen {
    markers: HashSet<String>,
    items: HashSet<String>,
}

impl Seen {
    /// A page must bring something new if another one is to follow.
    fn look<T: Listed>(&mut self, items: &[T], next: Option<&str>) -> Result<(), Failure> {
        let Some(marker) = next else { return Ok(()) };
        if !self.markers.insert(marker.to_owned()) {
            return Err(endless(format!("it says for the second time to go on after {marker}")));
        }
        if items.iter().all(|item| self.items.contains(&item.marker())) {
            return Err(endless(format!("a page that goes on after {marker} brought nothing new")));
        }
        Ok(())
    }

    /// Something can move from one page to the next while they are read.
    fn is_new<T: Listed>(&mut self, item: &T) -> bool {
        self.items.insert(item.marker())
    }
}

pub(super) fn endless(cause: String) -> Failure {
    Failure::Unknown(Unclear { doubt: Doubt::Endless { cause }, sent_as: String::new(), request_id: None })
}
