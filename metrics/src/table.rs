//! A metric as it is named, written down once: in a table that the program, the
//! documents, the rules and the board share.

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at each start of the process.
    Counter,
    Gauge,
    /// Seconds, in buckets.
    Histogram,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// As it is scraped: a counter's ends in `_total`.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// The values of a metric's labels, in the table's order.
pub(crate) type Labels = Vec<(&'static str, String)>;

impl Metric {
    /// The name without what the format itself appends.
    pub(crate) fn base(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        }
    }

    pub(crate) fn labelled(&self, values: &[&str]) -> Labels {
        debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        self.labels.iter().copied().zip(values.iter().map(|value| (*value).to_owned())).collect()
    }
}

/// Writes a table: a constant for each metric, and `ALL` of them.
///
/// ```
/// medevac_metrics::table! {
///     DECIDING = Gauge "medevac_deciding" [] "Whether it decides";
/// }
/// assert_eq!(ALL[0], DECIDING);
/// ```
#[macro_export]
macro_rules! table {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            pub const $id: $crate::Metric = $crate::Metric {
                name: $name,
                kind: $crate::Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*
        /// The whole table.
        pub const ALL: &[$crate::Metric] = &[$($id),*];
    };
}

/// A table as the documents show it.
pub fn markdown(table: &[Metric]) -> String {
    let row = |metric: &Metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |\n", metric.name, metric.kind.name(), labels.join(", "), metric.help)
    };
    let head = "| metric | kind | labels | what it says |\n|---|---|---|---|\n";
    head.to_owned() + &table.iter().map(row).collect::<String>()
}
