//! A list of fence devices' addresses, as CSV: read whole, or refused with the line.
//!
//! ```text
//!   host,address,plug,pinned        the header is required; plug and pinned may be missing
//!   hv1,10.0.9.11,,yes              columns in any order; "quoted" where a comma is meant
//!   # a comment
//! ```

use medevac_proto::rest::FenceRow;

/// What a list may say of a host.
const COLUMNS: [&str; 4] = ["host", "address", "plug", "pinned"];

/// Reads a list.
///
/// # Errors
/// The first line that is not understood, with its number.
pub fn read(text: &str) -> Result<Vec<FenceRow>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let Some((number, first)) = lines.next() else {
        return Err(format!("it is empty: its first line must be the header, {}", COLUMNS.join(",")));
    };
    let columns = header(first).map_err(|why| format!("line {number}: {why}"))?;
    let mut rows = Vec::new();
    for (number, line) in lines {
        rows.push(row(&columns, line, number).map_err(|why| format!("line {number}: {why}"))?);
    }
    if rows.is_empty() {
        return Err("it names no host: there is a header and nothing behind it".to_owned());
    }
    Ok(rows)
}

/// Which column stands where.
fn header(line: &str) -> Result<Vec<&'static str>, String> {
    let mut columns = Vec::new();
    for name in fields(line)? {
        let lower = name.to_ascii_lowercase();
        let Some(known) = COLUMNS.iter().find(|column| **column == lower) else {
            let hint = format!("the columns are {}", COLUMNS.join(", "));
            return Err(format!("there is no column {name:?}: {hint}, and the first line must name them"));
        };
        if columns.contains(known) {
            return Err(format!("column {known} is there twice"));
        }
        columns.push(*known);
    }
    for needed in &COLUMNS[..2] {
        if !columns.contains(needed) {
            return Err(format!("column {needed} is missing"));
        }
    }
    Ok(columns)
}

fn row(columns: &[&str], line: &str, number: usize) -> Result<FenceRow, String> {
    let fields = fields(line)?;
    if fields.len() != columns.len() {
        return Err(format!("{} fields, and the header has {}", fields.len(), columns.len()));
    }
    let mut row = FenceRow { line: number, ..FenceRow::default() };
    for (column, field) in columns.iter().zip(fields) {
        match *column {
            "host" => row.host = field,
            "address" => row.address = field,
            "plug" => row.plug = field,
            _ => row.pinned = pinned(&field)?,
        }
    }
    match (row.host.is_empty(), row.address.is_empty()) {
        (true, _) => Err("there is no host".to_owned()),
        (_, true) => Err(format!("{} has no address", row.host)),
        _ => Ok(row),
    }
}

fn pinned(field: &str) -> Result<Option<bool>, String> {
    match field.to_ascii_lowercase().as_str() {
        "" => Ok(None),
        "yes" | "true" | "1" => Ok(Some(true)),
        "no" | "false" | "0" => Ok(Some(false)),
        _ => Err(format!("pinned is {field:?}: it must be yes, no or empty")),
    }
}

/// Fields of one line; in quotes, a comma is a comma and "" a quote.
fn fields(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, behind) = match rest.trim_start().strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => match rest.split_once(',') {
                Some((field, behind)) => (field.trim().to_owned(), Some(behind)),
                None => (rest.trim().to_owned(), None),
            },
        };
        fields.push(field);
        match behind {
            Some(behind) => rest = behind,
            None => return Ok(fields),
        }
    }
}

fn unquoted(mut rest: &str) -> Result<(String, Option<&str>), String> {
    let mut field = String::new();
    loop {
        let (part, behind) = rest.split_once('"').ok_or("a quote is not closed")?;
        field.push_str(part);
        if let Some(more) = behind.strip_prefix('"') {
            field.push('"');
            rest = more;
            continue;
        }
        return match (behind.trim_start().strip_prefix(','), behind.trim().is_empty()) {
            (Some(next), _) => Ok((field, Some(next))),
            (None, true) => Ok((field, None)),
            (None, false) => Err(format!("{:?} stands behind a quoted field", behind.trim())),
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_list_is_read_in_whatever_order_its_columns_are() {
        let text = "\u{feff}Address, HOST ,pinned\r\n# rack 1\r\n10.0.9.11, hv1 ,yes\r\n\r\n\"fd00:9::12\",hv2,\r\n10.0.9.13,hv3,no\r\n";
        let rows = read(text).unwrap();
        let told: Vec<_> =
            rows.iter().map(|row| (row.line, row.host.as_str(), row.address.as_str(), row.pinned)).collect();
        let wanted =
            [(3, "hv1", "10.0.9.11", Some(true)), (5, "hv2", "fd00:9::12", None), (6, "hv3", "10.0.9.13", Some(false))];
        assert_eq!(told, wanted);
        let rows = read("host,address,plug\nhv1,pdu1.example,\"3, \"\"left\"\"\"").unwrap();
        assert_eq!(rows[0].plug, "3, \"left\"");
    }

    #[test]
    fn a_bad_list_is_refused_with_its_line() {
        let cases = [
            ("", "empty"),
            ("\n# nothing\n", "empty"),
            ("host,address\n", "names no host"),
            ("hv1,10.0.9.11\n", "line 1: there is no column \"hv1\""),
            ("host,adress\nhv1,10.0.9.11\n", "line 1: there is no column \"adress\""),
            ("host,plug\nhv1,3\n", "line 1: column address is missing"),
            ("address\n10.0.9.11\n", "line 1: column host is missing"),
            ("host,address,host\nhv1,10.0.9.11,hv1\n", "line 1: column host is there twice"),
            ("host;address\nhv1;10.0.9.11\n", "line 1: there is no column \"host;address\""),
            ("host,address\nhv1,10.0.9.11,3\n", "line 2: 3 fields, and the header has 2"),
            ("host,address\n\nhv1\n", "line 3: 1 fields"),
            ("host,address\nhv1,\n", "line 2: hv1 has no address"),
            ("host,address\n,10.0.9.11\n", "line 2: there is no host"),
            ("host,address,pinned\nhv1,10.0.9.11,perhaps\n", "line 2: pinned is \"perhaps\""),
            ("host,address\n\"hv1,10.0.9.11\n", "line 2: a quote is not closed"),
            ("host,address\n\"hv1\"x,10.0.9.11\n", "line 2: \"x,10.0.9.11\" stands behind"),
        ];
        for (text, wanted) in cases {
            let told = read(text).unwrap_err();
            assert!(told.contains(wanted), "{text:?}: {told}");
        }
    }
}
