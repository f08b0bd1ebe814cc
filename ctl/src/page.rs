//! What is shown, before anybody knows how wide the terminal is: lines and tables.
//!
//! ```text
//!   bodies --show.rs--> Page --text(Look)--> as wide as it is: pipes, --wide
//!                                       '--> fitted: the last column wraps, others are cut,
//!                                            and where even that is too wide each row is a block
//! ```

use crate::look::{Look, Paint};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Between two columns.
const GAP: usize = 2;
/// A last column narrower than this is no text any more.
const LAST_MIN: usize = 20;
/// A column is cut to no less.
const CUT_MIN: usize = 8;
/// A terminal narrower than this gets lines that it breaks itself.
const WIDTH_MIN: usize = 30;
/// In front of what belongs to the line above.
const INDENT: usize = 2;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    blocks: Vec<Block>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Block {
    Line(String),
    Table(Table),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Page {
    pub fn of(text: impl Into<String>) -> Page {
        Page::default().line(text)
    }

    /// A line of text; one that is too long is the terminal's to break.
    #[must_use]
    pub fn line(mut self, text: impl Into<String>) -> Page {
        self.blocks.push(Block::Line(text.into()));
        self
    }

    #[must_use]
    pub fn lines(self, texts: impl IntoIterator<Item = String>) -> Page {
        texts.into_iter().fold(self, Page::line)
    }

    #[must_use]
    pub fn gap(self) -> Page {
        self.line("")
    }

    #[must_use]
    pub fn table(mut self, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Page {
        let head = head.iter().map(|&title| title.to_owned()).collect();
        self.blocks.push(Block::Table(Table { head, rows: rows.collect() }));
        self
    }

    #[must_use]
    pub fn and(mut self, other: Page) -> Page {
        self.blocks.extend(other.blocks);
        self
    }

    /// The page as it is printed, line by line.
    pub fn text(&self, look: &Look) -> String {
        let mut lines = Vec::new();
        for block in &self.blocks {
            match block {
                Block::Line(line) => lines.push(look.paint(Paint::of_line(line), line)),
                Block::Table(table) => table.put(look, &mut lines),
            }
        }
        lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
    }
}

impl Table {
    fn put(&self, look: &Look, lines: &mut Vec<String>) {
        let natural = self.natural();
        let widths = match look.width {
            None => Some(natural),
            Some(room) => fitted(&natural, room.max(WIDTH_MIN)),
        };
        match widths {
            Some(widths) => self.put_rows(look, &widths, lines),
            None => self.put_blocks(look, lines),
        }
    }

    /// The width that each column would like to have.
    fn natural(&self) -> Vec<usize> {
        let of = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).chain(self.head.get(column));
            cells.map(|cell| cell.width()).max().unwrap_or(0)
        };
        (0..self.head.len()).map(of).collect()
    }

    fn put_rows(&self, look: &Look, widths: &[usize], lines: &mut Vec<String>) {
        let head: Vec<_> = self.head.iter().zip(widths).map(|(title, width)| cut(title, *width)).collect();
        lines.push(look.paint(Some(Paint::Head), joined(&head, widths).trim_end()));
        for row in &self.rows {
            let Some((last, others)) = row.split_last() else { continue };
            let last_width = widths.last().copied().unwrap_or(0);
            let cells: Vec<_> = others.iter().zip(widths).map(|(cell, width)| cut(cell, *width)).collect();
            let mut start = String::new();
            for ((cell, width), title) in cells.iter().zip(widths).zip(&self.head) {
                start.push_str(&look.paint(Paint::of_cell(title, cell), cell));
                start.push_str(&" ".repeat(width - cell.width() + GAP));
            }
            let margin = " ".repeat(widths[..others.len()].iter().map(|width| width + GAP).sum());
            let title = self.head.last().map(String::as_str).unwrap_or_default();
            let paint = Paint::of_cell(title, last);
            for (number, part) in wrapped(last, last_width).iter().enumerate() {
                let before = if number == 0 { &start } else { &margin };
                lines.push(format!("{before}{}", look.paint(paint, part)));
            }
        }
    }

    /// Where a row does not fit beside its neighbours: its first cell, and the others below it.
    fn put_blocks(&self, look: &Look, lines: &mut Vec<String>) {
        let titles = self.head.iter().skip(1).map(|title| title.width()).max().unwrap_or(0);
        let room = look.width.unwrap_or(usize::MAX).max(WIDTH_MIN).saturating_sub(INDENT + titles + GAP);
        for row in &self.rows {
            lines.push(look.paint(Some(Paint::Head), row.first().map(String::as_str).unwrap_or_default()));
            for (title, cell) in self.head.iter().zip(row).skip(1).filter(|(_, cell)| !cell.is_empty()) {
                for (number, part) in wrapped(cell, room.max(CUT_MIN)).iter().enumerate() {
                    let title = if number == 0 { title.as_str() } else { "" };
                    let pad = " ".repeat(titles - title.width() + GAP);
                    let part = look.paint(Paint::of_cell(title, cell), part);
                    lines.push(format!("{}{title}{pad}{part}", " ".repeat(INDENT)));
                }
            }
        }
    }
}

fn joined(cells: &[String], widths: &[usize]) -> String {
    let pad = |(cell, width): (&String, &usize)| format!("{cell}{}", " ".repeat(width - cell.width() + GAP));
    cells.iter().zip(widths).map(pad).collect()
}

/// Widths that fit, the first column whole: the last one gives way first, then the widest between.
fn fitted(natural: &[usize], room: usize) -> Option<Vec<usize>> {
    let mut widths = natural.to_vec();
    let last = widths.len().checked_sub(1)?;
    let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * last;
    while total(&widths) > room {
        if last > 0 && widths[last] > LAST_MIN {
            let over = total(&widths) - room;
            widths[last] = widths[last].saturating_sub(over).max(LAST_MIN);
            continue;
        }
        let widest = (1..last).filter(|column| widths[*column] > CUT_MIN).max_by_key(|column| widths[*column])?;
        widths[widest] -= 1;
    }
    Some(widths)
}

/// A cell that is too wide ends in a mark that says so.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        if kept.width() + c.width().unwrap_or(0) >= width {
            break;
        }
        kept.push(c);
    }
    kept + "…"
}

/// At spaces where there are any; at least one line.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    if text.width() <= width {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        for piece in pieces(word, width) {
            let line = lines.last_mut().map_or(0, |line| line.width());
            match lines.last_mut() {
                Some(current) if line == 0 => current.push_str(&piece),
                Some(current) if line + 1 + piece.width() <= width => {
                    current.push(' ');
                    current.push_str(&piece);
                }
                _ => lines.push(piece),
            }
        }
    }
    lines
}

/// A word, or as many parts of it as a width makes of it.
fn pieces(word: &str, width: usize) -> Vec<String> {
    let mut parts = vec![String::new()];
    for c in word.chars() {
        let full = parts.last().is_some_and(|part| part.width() + c.width().unwrap_or(0) > width);
        match parts.last_mut() {
            Some(part) if !full => part.push(c),
            _ => parts.push(c.to_string()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["7a3f0cb2-0000-4000-8000-000000000001", "web-frontend-of-the-shop", "its disk is on local storage"]),
            row(["u2", "db", ""]),
        ];
        Page::default().table(&["UUID", "NAME", "WHY NOT"], rows.into_iter())
    }

    fn at(width: usize) -> String {
        page().text(&Look { width: Some(width), ..Look::plain() })
    }

    #[test]
    fn a_page_is_as_wide_as_it_is_where_nobody_looks() {
        let text = page().text(&Look::plain());
        assert_eq!(text.lines().nth(2), Some("u2                                    db"));
        assert!(text.contains("web-frontend-of-the-shop  its disk is on local storage"), "{text}");
    }

    #[test]
    fn the_last_column_wraps_before_another_one_is_cut() {
        assert_eq!(
            at(90),
            "\
UUID                                  NAME                      WHY NOT
7a3f0cb2-0000-4000-8000-000000000001  web-frontend-of-the-shop  its disk is on local
                                                                storage
u2                                    db"
        );
        assert_eq!(
            at(70).lines().nth(1),
            Some("7a3f0cb2-0000-4000-8000-000000000001  web-front…  its disk is on local")
        );
    }

    #[test]
    fn a_table_that_does_not_fit_at_all_is_a_block_for_each_row() {
        assert_eq!(
            at(40),
            "\
7a3f0cb2-0000-4000-8000-000000000001
  NAME     web-frontend-of-the-shop
  WHY NOT  its disk is on local storage
u2
  NAME     db"
        );
    }

    #[test]
    fn no_line_of_a_table_is_wider_than_the_terminal() {
        for width in 40..140 {
            let wide: Vec<_> = at(width).lines().filter(|line| line.width() > width).map(str::to_owned).collect();
            assert!(wide.is_empty(), "{width}: {wide:?}");
        }
    }

    #[test]
    fn wide_signs_count_for_what_they_take_and_long_words_are_broken() {
        assert_eq!(cut("日本語のホスト", 8), "日本語…");
        assert_eq!(wrapped("abcdefghij kl", 4), ["abcd", "efgh", "ij", "kl"]);
        assert_eq!(wrapped("", 4), [""]);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let row = |state: &str| vec!["hv1".to_owned(), state.to_owned(), "-".to_owned()];
        let page = Page::default().table(&["HOST", "STATE", "WHY"], [row("heard"), row("dead")].into_iter());
        let text = page.text(&Look { colours: true, ..Look::plain() });
        assert!(text.contains("\u{1b}[32mheard\u{1b}[0m  -"), "{text:?}");
        assert!(text.contains("\u{1b}[31mdead\u{1b}[0m   -"), "{text:?}");
    }
}
