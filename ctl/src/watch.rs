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
use unicode_width::UnicodeWidthStr;

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
    let all = text.lines().count();
    let (mut shown, mut rows) = (Vec::new(), 0);
    for (number, line) in text.lines().enumerate() {
        rows += rows_of(line, look);
        // The last row is for how many are left out, unless none is.
        if rows > room || (rows == room && number + 1 < all) {
            shown.push(format!("... {} more lines: a higher window shows them", all - number));
            break;
        }
        shown.push(line.to_owned());
    }
    format!("{CLEAR}{head}\n\n{}\n", shown.join("\n"))
}

/// Rows that a line takes where the terminal breaks it; colours take no room.
fn rows_of(line: &str, look: &Look) -> usize {
    let mut parts = line.split('\u{1b}');
    let plain = parts.next().map_or(0, UnicodeWidthStr::width);
    let after_code = |part: &str| part.split_once('m').map_or(0, |(_, text)| text.width());
    let width = plain + parts.map(after_code).sum::<usize>();
    look.columns.map_or(1, |columns| width.div_ceil(columns.max(1)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(2);

    #[test]
    fn on_a_terminal_it_is_drawn_anew_and_never_higher_than_that() {
        let look = Look { columns: Some(80), height: Some(6), ..Look::plain() };
        let told = block("1\n2\n3\n4\n5", "12:00", EVERY, &look);
        assert_eq!(told, format!("{CLEAR}12:00, every 2 s\n\n1\n2\n... 3 more lines: a higher window shows them\n"));
        assert_eq!(block("1", "12:00", EVERY, &look), format!("{CLEAR}12:00, every 2 s\n\n1\n"));
        assert_eq!(block("1\n2\n3", "12:00", EVERY, &look), format!("{CLEAR}12:00, every 2 s\n\n1\n2\n3\n"));
    }

    #[test]
    fn a_line_that_the_terminal_breaks_counts_for_as_many_and_its_colour_for_none() {
        let look = Look { columns: Some(10), ..Look::plain() };
        let long = "x".repeat(11);
        assert_eq!([rows_of("", &look), rows_of("x", &look), rows_of(&long, &look)], [1, 1, 2]);
        assert_eq!(rows_of("\u{1b}[31mALERT 1234\u{1b}[0m", &look), 1);
    }

    #[test]
    fn elsewhere_each_is_a_block_with_its_time() {
        assert_eq!(block("1\n2", "12:00", EVERY, &Look::plain()), "12:00, every 2 s\n1\n2\n\n");
    }
}
