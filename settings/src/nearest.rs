//! "Did you mean": the known name nearest to a misspelt one.

/// A name further away than this share of its length is no likely slip.
const LIKELY: usize = 3;

/// The candidate with the fewest single-letter edits, where that is few enough to be a slip.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (distance(name, k), k))
        .filter(|(d, k)| *d <= 1.max(name.len().max(k.len()) / LIKELY))
        .min()
        .map(|(_, k)| k)
}

/// Edit distance where two swapped neighbours count as one slip.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_none() {
        let known = ["fence_grace", "fence_grace_long", "settle"];
        assert_eq!(nearest("fence_grce", known.into_iter()), Some("fence_grace"));
        assert_eq!(nearest("settel", known.into_iter()), Some("settle"));
        assert_eq!(nearest("webhook", known.into_iter()), None);
    }
}
