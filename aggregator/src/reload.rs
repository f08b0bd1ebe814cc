//! The configuration is read again while we run.
//!
//! ```text
//!   SIGHUP --> file whole? --> faults? --> what only a restart takes? --> the loop: settings, devices,
//!                 |               |                  |                     receivers, sight: all or none
//!                 '---------------+------------------+--> refused: all stays, told in the log, by
//!                                                         `status` and by an alert, until a file is taken
//! ```

use crate::alert::{Couriers, Trials};
use crate::config::{Read, restarts};
use crate::engine::{Input, Reload, Verdict};
use crate::fence::Devices;
use crate::ports::Sight;
use crate::swap::Swap;
use medevac_triage::Settings;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What follows the settings, outside of the loop's own state.
#[derive(Clone, Debug)]
pub struct Tools {
    pub devices: Arc<Swap<Devices>>,
    pub sight: Arc<Swap<Sight>>,
    pub couriers: Couriers,
    pub trials: Arc<Trials>,
}

/// How all else follows what the loop has made of the settings.
type Follow = Box<dyn FnOnce(&Verdict) + Send>;

/// Reads the file again, one time after the other.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    /// What holds.
    read: Read,
    inbox: mpsc::Sender<Input>,
    tools: Tools,
}

impl Reloader {
    pub fn new(path: PathBuf, read: Read, inbox: mpsc::Sender<Input>, tools: Tools) -> Self {
        Self { path, read, inbox, tools }
    }

    /// Takes the file as it is now, or leaves everything as it was; both are told.
    ///
    /// # Errors
    /// Why it was refused.
    pub async fn reload(&mut self) -> Verdict {
        let fresh = self.fresh().await;
        let path = self.path.display();
        let verdict = self.ask_loop(fresh.as_ref().map_err(Clone::clone)).await;
        match (&verdict, fresh) {
            (Ok(notes), Ok(fresh)) => {
                let changes = fresh.changes(&self.read);
                let told = if changes.is_empty() { "nothing has changed".to_owned() } else { changes.join("; ") };
                tracing::info!(code = "MDV-RELOADED", "{path} was read again: {told}");
                for note in notes.iter().chain(&fresh.config.warnings) {
                    tracing::warn!(code = "MDV-CONFIG", "{note}");
                }
                self.read = fresh;
            }
            (Err(why), _) => refused(&path, why),
            (Ok(_), Err(why)) => refused(&path, &why),
        }
        verdict
    }

    async fn fresh(&self) -> Result<Read, String> {
        let path = self.path.clone();
        let text = tokio::task::spawn_blocking(move || medevac_settings::read_whole(&path)).await;
        let text = text.unwrap_or_else(|_| Err("it was not read".to_owned()))?;
        let faults = |problems: medevac_settings::Problems| problems.to_string().replace('\n', "; ");
        let fresh = Read::parse(&text).map_err(faults)?;
        let keys = restarts(&self.read.config, &fresh.config);
        match keys.is_empty() {
            true => Ok(fresh),
            false => Err(format!("only a restart takes another {}", keys.join(", "))),
        }
    }

    async fn ask_loop(&self, fresh: Result<&Read, String>) -> Verdict {
        let (answer, answered) = oneshot::channel();
        let (settings, longest_fence, take) = match fresh {
            Ok(fresh) => self.taking(fresh),
            Err(why) => (Err(why), Duration::ZERO, Box::new(|_: &Verdict| {}) as Follow),
        };
        let take = Box::new(move |verdict: Verdict| {
            take(&verdict);
            let _ = answer.send(verdict);
        });
        let asked = Input::Reload(Box::new(Reload { settings, longest_fence, take }));
        let gone = || "the loop has ended".to_owned();
        self.inbox.send(asked).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// The settings, and how all else follows them at the moment at which the loop takes them.
    fn taking(&self, fresh: &Read) -> (Result<Settings, String>, Duration, Follow) {
        let (tools, config) = (self.tools.clone(), fresh.config.clone());
        let take = move |verdict: &Verdict| {
            if verdict.is_ok() {
                tools.sight.put(config.sight());
                tools.couriers.serve(&config.receivers);
                tools.trials.know(&config.receivers);
                tools.devices.put(config.devices());
            }
        };
        (Ok(fresh.config.settings.clone()), fresh.config.longest_fence(), Box::new(take))
    }
}

fn refused(path: &impl std::fmt::Display, why: &str) {
    tracing::warn!(code = "MDV-CONFIG-REFUSED", "{path} is not taken, what was read before holds: {why}");
}
