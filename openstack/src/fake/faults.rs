//! Faults that are put in the way of chosen requests.

use std::time::Duration;

/// A fault, for the next `times` requests that it fits.
#[derive(Clone, Debug)]
pub struct Fault {
    method: Option<&'static str>,
    path: String,
    body: String,
    times: usize,
    pub(super) what: What,
}

/// What goes wrong. *Before*: Nova never sees the request. *After*: it has been carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It waits on its way in; whoever gives up meanwhile may find it carried out.
    DelayBefore(Duration),
    DelayAfter(Duration),
    ErrorBefore(u16),
    ErrorAfter(u16),
    CutBefore,
    /// Accepted, then the connection is cut without a byte of an answer.
    CutAfter,
    /// The answer ends in its middle.
    CutWithin,
    /// A page of a proxy, with that status.
    HtmlBefore(u16),
    HtmlAfter(u16),
    /// A cell's database is down: Nova answers 200 with only so many servers.
    Short(usize),
    /// Every page of a list is the first one.
    SamePageForEver,
    TooMany {
        status: u16,
        retry_after: Option<u64>,
    },
    /// JSON that is none.
    Garbled,
    /// Longer than anybody should read.
    Huge,
    Redirect,
}

impl What {
    /// Whether Nova carries the request out at all.
    pub(super) fn lets_through(&self) -> bool {
        match self {
            What::ErrorBefore(_) | What::CutBefore | What::HtmlBefore(_) | What::TooMany { .. } | What::Redirect => {
                false
            }
            What::DelayBefore(_)
            | What::DelayAfter(_)
            | What::ErrorAfter(_)
            | What::CutAfter
            | What::CutWithin
            | What::HtmlAfter(_)
            | What::Short(_)
            | What::SamePageForEver
            | What::Garbled
            | What::Huge => true,
        }
    }
}

impl Fault {
    /// For every request, for ever, until narrowed.
    pub fn new(what: What) -> Self {
        Self { method: None, path: String::new(), body: String::new(), times: usize::MAX, what }
    }

    pub fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only where the path contains that.
    pub fn path(mut self, part: impl Into<String>) -> Self {
        self.path = part.into();
        self
    }

    /// Only where the body contains that: `"evacuate"`.
    pub fn body(mut self, part: impl Into<String>) -> Self {
        self.body = part.into();
        self
    }

    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    pub fn once(self) -> Self {
        self.times(1)
    }

    fn fits(&self, method: &str, path: &str, body: &str) -> bool {
        self.times > 0
            && self.method.is_none_or(|wanted| wanted == method)
            && path.contains(&self.path)
            && body.contains(&self.body)
    }
}

/// The first that fits, which is used up by one.
pub(super) fn take(faults: &mut Vec<Fault>, method: &str, path: &str, body: &str) -> Option<What> {
    let index = faults.iter().position(|fault| fault.fits(method, path, body))?;
    let what = faults[index].what.clone();
    faults[index].times = faults[index].times.saturating_sub(1);
    if faults[index].times == 0 {
        faults.remove(index);
    }
    Some(what)
}
