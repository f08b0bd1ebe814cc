use super::super::*;
#[test]
fn list() {
    let packaged = include_str!("../../../packaging/aggregator.toml");
    let take = |prefix: &str| -> String {
        packaged
            .lines()
            .filter_map(|l| l.strip_prefix(prefix))
            .filter(|r| !r.starts_with([' ', '#']) && !r.is_empty())
            .map(|r| r.to_owned() + "\n")
            .collect()
    };
    for (k, q) in Read::questions(&format!("{}", take("#     "))).unwrap() {
        println!("Q {k} | {} | {:?}", q.takes, q.default);
    }
    for (k, q) in Read::questions(&take("#")).unwrap() {
        println!("P {k} | {} | {:?}", q.takes, q.default);
    }
}
