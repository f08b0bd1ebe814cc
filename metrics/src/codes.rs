//! Lines of the log, counted by their code: whatever is told there can be
//! alerted on without reading it.

use crate::live::{Live, Tally};
use crate::names;
use std::sync::OnceLock;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// There is one log in a process, and it is set up before anything is counted.
static LINES: OnceLock<Tally> = OnceLock::new();

/// From now on lines are counted, by a log that has [`Codes`] as a layer.
pub fn lines_of(live: &mut Live) {
    let tally = live.tally(names::LOG_LINES);
    // A second daemon in one process, as tests have it, leaves the counting to the first.
    let _ = LINES.set(tally);
}

/// The layer that counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Codes;

impl<S: Subscriber> Layer<S> for Codes {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(lines) = LINES.get() else { return };
        let mut code = Code::default();
        event.record(&mut code);
        if let Some(code) = code.0 {
            lines.one(&[&code, level(*event.metadata().level())]);
        }
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        _ => "info",
    }
}

/// Our codes are written in the program: there are as many as there are.
#[derive(Default)]
struct Code(Option<String>);

impl Visit for Code {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "code" && value.starts_with("MDV-") {
            self.0 = Some(value.to_owned());
        }
    }
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Page;
    use tracing_subscriber::prelude::*;

    #[test]
    fn lines_are_counted_by_their_code_and_level() {
        let mut live = Live::default();
        lines_of(&mut live);
        let log = tracing_subscriber::registry().with(Codes);
        tracing::subscriber::with_default(log, || {
            tracing::warn!(code = "MDV-HUNG", "a host");
            tracing::warn!(code = "MDV-HUNG", "another");
            tracing::info!(code = "of somebody else", "no code of ours");
            tracing::info!("without a code");
        });
        let text = Page::default().text(&live).unwrap();
        assert!(text.contains("medevac_log_lines_total{code=\"MDV-HUNG\",level=\"warn\"} 2\n"), "{text}");
        assert_eq!(text.matches("code=").count(), 1, "{text}");
    }
}
