//! The unix socket: who connects, by the kernel's word.
//!
//! ```text
//!   root, and whoever this process is      -> admin
//!   members of the group `socket_group`    -> operator
//!   everybody else                         -> kept out by the socket's mode, and refused here
//! ```

use super::{Api, Caller, Refused, certificates, pulse, routes};
use crate::rank::Rank;
use axum::extract::{ConnectInfo, Request, State, connect_info};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use std::path::Path;
use tokio::net::UnixListener;
use tokio::net::unix::UCred;

/// Where groups are looked up: that of a daemon is a local one.
const GROUPS: &str = "/etc/group";

/// The number of a group; `None`: there is none of that name.
pub fn group_id(name: &str) -> Option<u32> {
    in_groups(&std::fs::read_to_string(GROUPS).ok()?, name)
}

fn in_groups(text: &str, name: &str) -> Option<u32> {
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|fields| fields.first() == Some(&name))?.get(2)?.parse().ok()
}

/// Serves the unix socket until the process ends.
///
/// # Errors
/// Whatever the listener fails with.
pub async fn serve(listener: UnixListener, api: Api, group: Option<u32>) -> std::io::Result<()> {
    let known = middleware::from_fn_with_state(group, by_credentials);
    let pulse = pulse(&api);
    let app = routes(api.clone()).merge(certificates(api)).layer(known).merge(pulse);
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketPeer>()).await
}

#[derive(Clone, Debug)]
struct SocketPeer(Option<UCred>);

impl connect_info::Connected<IncomingStream<'_, UnixListener>> for SocketPeer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok())
    }
}

async fn by_credentials(
    State(group): State<Option<u32>>,
    ConnectInfo(peer): ConnectInfo<SocketPeer>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some((name, rank)) = peer.0.and_then(|peer| who(&peer, group)) else {
        let message = "only root and members of the aggregator's `socket_group` may use this socket: run it with sudo";
        return Refused::new(StatusCode::FORBIDDEN, "not-root", message).into_response();
    };
    request.extensions_mut().insert(Caller { name, rank });
    next.run(request).await
}

fn who(peer: &UCred, group: Option<u32>) -> Option<(String, Rank)> {
    let uid = peer.uid();
    if uid == 0 {
        return Some(("root".into(), Rank::Admin));
    }
    let name = format!("uid {uid}");
    if uid == rustix::process::geteuid().as_raw() {
        return Some((name, Rank::Admin));
    }
    let group = group?;
    let groups = || {
        let status = std::fs::read_to_string(Path::new("/proc").join(peer.pid()?.to_string()).join("status")).ok()?;
        Some(groups_of(&status))
    };
    // The mode let him in already, so he is in the group or was handed the socket by somebody who is.
    let member = peer.gid() == group || groups().is_some_and(|groups| groups.contains(&group));
    member.then_some((name, Rank::Operator))
}

/// Supplementary groups, as in /proc/PID/status.
fn groups_of(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_as_the_system_writes_them() {
        let text = "root:x:0:\nmedevac-old:x:990:\nmedevac:x:991:ann,bob\n";
        assert_eq!((in_groups(text, "medevac"), in_groups(text, "med")), (Some(991), None));
        assert_eq!(groups_of("Name:\tsh\nGroups:\t4 991 \nNStgid:\t1\n"), [4, 991]);
        assert!(groups_of("Name:\tsh\n").is_empty());
    }
}
