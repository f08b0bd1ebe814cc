//! The four answers of a call, and the named reasons of three of them.
//!
//! ```text
//!   before the request left        after it may have left            answered
//!   NotSent: repeat at will        Unknown: look first, never        Done, or Refused:
//!                                  repeat a write blindly            it was not carried out
//! ```

use crate::catalog::CatalogProblem;
use crate::keystone::LoginProblem;
use crate::version::{Microversion, VersionProblem};
use std::time::Duration;

/// What is known of a call when it has ended.
#[derive(Clone, Debug)]
#[must_use = "an answer that nobody looks at is an evacuation that nobody confirms"]
pub enum Answer<T> {
    /// Carried out, or accepted: Nova's evacuate says so long before the server has moved.
    Done(T),
    /// Understood and not carried out.
    Refused(Refusal),
    /// It may or may not have been carried out, now or in a moment.
    Unknown(Unclear),
    /// It certainly never reached Nova.
    NotSent(Unsent),
}

impl<T> Answer<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Answer<U> {
        self.result().map(f).into()
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Answer::Done(_))
    }

    /// The kind of a refusal; `None` for every other answer.
    pub fn refused_as(&self) -> Option<Kind> {
        match self {
            Answer::Refused(refusal) => Some(refusal.kind),
            Answer::Done(_) | Answer::Unknown(_) | Answer::NotSent(_) => None,
        }
    }

    /// For callers to whom everything but done is an error.
    ///
    /// # Errors
    /// The other three answers.
    pub fn result(self) -> Result<T, Failure> {
        match self {
            Answer::Done(value) => Ok(value),
            Answer::Refused(refusal) => Err(Failure::Refused(refusal)),
            Answer::Unknown(unclear) => Err(Failure::Unknown(unclear)),
            Answer::NotSent(unsent) => Err(Failure::NotSent(unsent)),
        }
    }
}

impl<T> From<Result<T, Failure>> for Answer<T> {
    fn from(result: Result<T, Failure>) -> Self {
        match result {
            Ok(value) => Answer::Done(value),
            Err(Failure::Refused(refusal)) => Answer::Refused(refusal),
            Err(Failure::Unknown(unclear)) => Answer::Unknown(unclear),
            Err(Failure::NotSent(unsent)) => Answer::NotSent(unsent),
        }
    }
}

/// The three answers that are not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("unknown: {0}")]
    Unknown(Unclear),
    #[error("not sent: {0}")]
    NotSent(Unsent),
}

/// A write that Nova took on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Nova's own id of the request, by which the server's actions list it. Missing
    /// where a proxy strips the header; then [`crate::traces`] finds the action.
    pub request_id: Option<String>,
    /// The id that we gave it, which Nova's logs show.
    pub sent_as: String,
    /// The microversion that it was sent at.
    pub version: Microversion,
}

/// Understood and not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message} (HTTP {status})")]
pub struct Refusal {
    pub status: u16,
    pub kind: Kind,
    /// In Nova's own words.
    pub message: String,
    /// Nova's id of the request.
    pub request_id: Option<String>,
}

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The server, service, action or aggregate does not exist.
    NotFound,
    /// Its present state does not allow that, or it is so already.
    Conflict,
    /// Nova believes the host's compute service to be up; or the server has moved
    /// to a host that is: the message names the host.
    StillInUse,
    /// The target is the host that the server is on.
    SameHost,
    /// Nova does not know the target host.
    UnknownTarget,
    /// The user's roles do not allow that.
    Forbidden,
    /// Too many requests; later, by so much if it was said.
    TooMany { retry_after: Option<Duration> },
    /// The request itself is wrong, as Nova sees it.
    BadRequest,
    /// A host cannot be forced up before its compute service has restarted and
    /// closed its evacuations. To be tried again.
    NotYet,
    /// The microversion is not served any more; it is negotiated again for the next call.
    Version,
    /// Anything else.
    Other,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::NotFound => "not-found",
            Kind::Conflict => "conflict",
            Kind::StillInUse => "still-in-use",
            Kind::SameHost => "same-host",
            Kind::UnknownTarget => "unknown-target",
            Kind::Forbidden => "forbidden",
            Kind::TooMany { .. } => "too-many",
            Kind::BadRequest => "bad-request",
            Kind::NotYet => "not-yet",
            Kind::Version => "version",
            Kind::Other => "other",
        })
    }
}

/// It may or may not have been carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unclear {
    pub doubt: Doubt,
    /// The id that we gave the request: Nova's global request id. Empty where it is about many.
    pub sent_as: String,
    /// Nova's own id, where the answer got far enough to tell.
    pub request_id: Option<String>,
}

impl std::fmt::Display for Unclear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.sent_as.as_str() {
            "" => write!(f, "{}", self.doubt),
            sent_as => write!(f, "{}; Nova's logs know the request as {sent_as}", self.doubt),
        }
    }
}

/// Why nothing is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("no answer within {:.1} s", .after.as_secs_f64())]
    TimedOut { after: Duration },
    #[error("the connection was cut before the answer was whole: {cause}")]
    Cut { cause: String },
    #[error("HTTP {status}: {message}")]
    ServerError { status: u16, message: String, retry_after: Option<Duration> },
    #[error("HTTP {status} sends elsewhere, to {to}: is the compute endpoint in the catalog the right one?")]
    Redirected { status: u16, to: String },
    #[error("HTTP {status}, and no JSON but \"{began}\": does a proxy answer in Nova's place?")]
    NotJson { status: u16, began: String },
    #[error("HTTP {status}, and a body that cannot be read: {cause}")]
    Unreadable { status: u16, cause: String },
    #[error("the answer is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("the list never ends: {cause}")]
    Endless { cause: String },
}

/// It certainly never reached Nova.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unsent {
    #[error("no time was left before its deadline")]
    NoTime,
    #[error("{0}")]
    Login(LoginProblem),
    #[error("{0}")]
    Catalog(CatalogProblem),
    #[error("{0}")]
    Version(VersionProblem),
    #[error("no connection to {to}: {cause}")]
    Connect { to: String, cause: String },
    #[error("the token was no longer valid and was turned away before Nova; a new one is there")]
    TokenRejected,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_the_way_through_a_result() {
        let answer: Answer<u8> = Answer::Done(1);
        assert!(answer.map(|n| n + 1).result().is_ok_and(|n| n == 2));
        let refusal =
            Refusal { status: 404, kind: Kind::NotFound, message: "gone".into(), request_id: Some("req-1".into()) };
        let answer = Answer::<u8>::Refused(refusal).map(|n| n + 1);
        assert_eq!(answer.refused_as(), Some(Kind::NotFound));
        assert_eq!(answer.result().unwrap_err().to_string(), "refused: not-found: gone (HTTP 404)");
    }
}
