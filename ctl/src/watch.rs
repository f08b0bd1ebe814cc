//! `--watch`: the same question again and again.
//!
//! On a terminal the page is drawn over the last one, as far as it fits; elsewhere each is a block
//! with its time above it. An aggregator that does not answer is told and asked again: a restart
//! of it is what one likes to watch.

use crate::cli::Verb;
use crate::client::Stop;
use crate::look::Look;
use crate::run::Session;
use crate::show;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Home, and everything after it is gone.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Shows it until nobody reads it any more.
///
/// # Errors
/// What would not be better the next time.
pub async fn watch(session: &Session, verb: &Verb, every: Duration) -> Result<(), Stop> {
    loop {
        let look = session.look();
        let text = match session.shown(verb, &look).await {
            Ok(text) => text.unwrap_or_default(),
            Err(Stop::Unreachable(why)) => why,
            Err(stop) => return Err(stop),
        };
        let shown = if session.json { format!("{}\n", text.trim_end()) } else { block(&text, &now(), every, &look) };
        let mut out = std::io::stdout().lock();
        // A reader that has gone (`| head`) is the end, and no error.
        if out.write_all(shown.as_bytes()).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        drop(out);
        tokio::time::sleep(every).await;
    }
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    show::time(u64::try_from(since.as_millis()).unwrap_or_default())
}

fn block(text: &str, now: &str, every: Duration, look: &Look) -> String {
    let head = format!("{now}, every {} s", every.as_secs());
    let Some(height) = look.height else { return format!("{head}\n{text}\n\n") };
    // The head, a gap, and the line on which the cursor stays.
    let room = height.saturating_sub(3).max(1);
    let lines: Vec<_> = text.lines().collect();
    let mut shown: Vec<_> = lines.iter().take(room).map(|line| (*line).to_owned()).collect();
    if lines.len() > room {
        shown.truncate(room - 1);
        shown.push(format!("... {} more lines: a higher window shows them", lines.len() - shown.len()));
    }
    format!("{CLEAR}{head}\n\n{}\n", shown.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(2);

    #[test]
    fn on_a_terminal_it_is_drawn_anew_and_never_higher_than_that() {
        let look = Look { width: Some(80), height: Some(6), colours: false };
        let told = block("1\n2\n3\n4\n5", "12:00", EVERY, &look);
        assert_eq!(told, format!("{CLEAR}12:00, every 2 s\n\n1\n2\n... 3 more lines: a higher window shows them\n"));
        assert_eq!(block("1", "12:00", EVERY, &look), format!("{CLEAR}12:00, every 2 s\n\n1\n"));
    }

    #[test]
    fn elsewhere_each_is_a_block_with_its_time() {
        assert_eq!(block("1\n2", "12:00", EVERY, &Look::plain()), "12:00, every 2 s\n1\n2\n\n");
    }
}
