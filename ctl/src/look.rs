//! Where it is shown: how wide and high that is, and whether there are colours.

use rustix::termios::tcgetwinsize;
use std::io::IsTerminal;

/// How a page is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What tables are fitted to; `None`: as wide as they get.
    pub width: Option<usize>,
    /// Columns of the terminal; `None`: this is none.
    pub columns: Option<usize>,
    /// Lines of the terminal; `None`: this is none.
    pub height: Option<usize>,
    pub colours: bool,
}

/// What stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Head,
    Good,
    Look,
    Bad,
}

impl Look {
    /// Into a file, a pipe, a test.
    pub fn plain() -> Look {
        Look::default()
    }

    /// Of this program's output, as it is now: windows change.
    pub fn of_output(wide: bool) -> Look {
        let out = std::io::stdout();
        let Some(size) = tcgetwinsize(&out).ok().filter(|size| out.is_terminal() && size.ws_col > 0) else {
            return Look::plain();
        };
        let word = |name: &str| std::env::var(name).unwrap_or_default();
        let colours = word("NO_COLOR").is_empty() && word("TERM") != "dumb";
        let columns = Some(size.ws_col.into());
        Look { width: columns.filter(|_| !wide), columns, height: Some(size.ws_row.into()), colours }
    }

    pub fn paint(&self, paint: Option<Paint>, text: &str) -> String {
        match paint.filter(|_| self.colours && !text.is_empty()) {
            None => text.to_owned(),
            Some(paint) => format!("\u{1b}[{}m{text}\u{1b}[0m", paint.code()),
        }
    }
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Paint::Head => "1",
            Paint::Good => "32",
            Paint::Look => "33",
            Paint::Bad => "31",
        }
    }

    /// Lines that a person must not overlook.
    pub fn of_line(line: &str) -> Option<Paint> {
        let begins = |starts: &[&str]| starts.iter().any(|start| line.starts_with(start));
        match () {
            () if begins(&["ALERT ", "lost:"]) => Some(Paint::Bad),
            () if begins(&["PAUSED", "warning, ", "doing:"]) => Some(Paint::Look),
            () if begins(&["to do:"]) => Some(Paint::Head),
            () => None,
        }
    }

    /// States say how it stands by their first word.
    pub fn of_cell(title: &str, cell: &str) -> Option<Paint> {
        let word = cell.split([':', ' ']).next().unwrap_or_default();
        let known = matches!(title, "STATE" | "OUTCOME" | "MODE").then_some(word)?;
        match known {
            "heard" | "running" | "recovered" | "act" => Some(Paint::Good),
            "dead" | "fenced" | "condemned" | "fencing" | "hung" | "fence-unknown" | "gone" => Some(Paint::Bad),
            "" | "-" | "closed" | "observe" => None,
            _ => Some(Paint::Look),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_be_overlooked_stands_out_and_only_where_there_are_colours() {
        assert_eq!(Paint::of_line("ALERT MDV-MINORITY: half"), Some(Paint::Bad));
        assert_eq!(Paint::of_cell("STATE", "suspect: late"), Some(Paint::Look));
        assert_eq!(Paint::of_cell("HOST", "dead"), None);
        assert_eq!(Look::plain().paint(Some(Paint::Bad), "x"), "x");
        assert_eq!(Look { colours: true, ..Look::plain() }.paint(Some(Paint::Bad), "x"), "\u{1b}[31mx\u{1b}[0m");
    }
}
