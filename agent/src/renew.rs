//! This host's certificate is renewed before it ends, while the agent runs.
//!
//! ```text
//!   two thirds of its life are over -> by this certificate: the same key, signed again -> host.pem
//! ```
//!
//! Streams that are open live on; the next connection uses what is on the disk
//! then. Where nobody signs, the files are somebody's who replaces them in time.

use crate::ask;
use crate::config::{Address, Config, TlsFiles, Transport};
use crate::papers::{self, Held, keep_renewed, own_key, wall};
use crate::tls::authenticated;
use anyhow::{Result, anyhow};
use medevac_proto::rest::RenewRequest;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Files are looked at at least this often: somebody may have replaced them.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
const LOOK_AT_MOST: Duration = Duration::from_secs(1);
/// Tried again after this share of a certificate's life: ten times before it ends.
const AGAIN: u32 = 30;

/// Renews until `stop`.
pub async fn run(config: Config, host: String, stop: CancellationToken) {
    let Transport::Tls(files) = &config.transport else { return };
    let mut said = String::new();
    loop {
        let wait = match Held::read(files) {
            Some(held) if held.life.due_in(wall()).is_zero() => {
                match renew(files, &config.aggregators, &host).await {
                    Ok(()) => {
                        tracing::info!(code = "MDV-RENEWED", "this host's certificate was renewed");
                        said.clear();
                    }
                    Err(why) => tell(&mut said, &held, &why.to_string()),
                }
                held.life.length() / AGAIN
            }
            Some(held) => held.life.due_in(wall()),
            // Half written, perhaps: whoever connects says what is wrong with it.
            None => LOOK_EVERY,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait.clamp(LOOK_AT_MOST, LOOK_EVERY)) => {}
        }
    }
}

/// Each reason once, not every hour.
fn tell(said: &mut String, held: &Held, why: &str) {
    if said != why {
        let days = held.life.left(wall()).as_secs() / 86_400;
        tracing::warn!(
            code = "MDV-CERTIFICATE-ENDS",
            "this host's certificate ends in {days} days and cannot be renewed; then no aggregator hears it: {why}"
        );
        why.clone_into(said);
    }
}

/// Asks one aggregator after the other.
///
/// # Errors
/// What the last one said.
pub async fn renew(files: &TlsFiles, aggregators: &[Address], host: &str) -> Result<()> {
    let key = own_key(files)?;
    let body = serde_json::to_string(&RenewRequest { request: papers::request(&key)? })?;
    let mut last = anyhow!("no aggregator is configured");
    for address in aggregators {
        match ask::post(address, authenticated(files)?, "/api/v1/renew", body.clone()).await {
            Ok(joined) => return keep_renewed(files, &key, &joined, host),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}
