//! What the spool promises, one sentence each.
use super::*;
use medevac_proto::session::{InstanceGone, InstanceStarted, SightLost};

fn gone(uuid: &str) -> What {
    What::InstanceGone(InstanceGone { uuid: uuid.into(), pid: 1, pid_start: 1 })
}

fn started(uuid: &str) -> What {
    What::InstanceStarted(InstanceStarted { uuid: uuid.into(), pid: 1, pid_start: 1 })
}

fn lost() -> What {
    What::SightLost(SightLost { of: "libvirt".into(), why: "w".repeat(200) })
}

fn seqs(s: &Spool) -> Vec<String> {
    let show = |(_, e): (u64, &Entry)| match e {
        Entry::Fact(f) => format!("{}:{}", f.boot_id, f.seq),
        Entry::Gap(g) => format!("{}:{}-{} lost", g.boot_id, g.first_seq, g.last_seq),
    };
    s.entries().map(show).collect()
}

#[test]
fn facts_survive_a_restart_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Spool::open(dir.path(), "b1", 1);
    assert_eq!(s.push(gone("a"), 5, 6).seq, 1);
    s.push(gone("b"), 7, 8);
    drop(s);
    let mut s = Spool::open(dir.path(), "b1", 1);
    assert_eq!(seqs(&s), ["b1:1", "b1:2"]);
    assert_eq!(s.oldest_ms(), 5);
    assert_eq!(s.push(gone("c"), 9, 9).seq, 3);
}

#[test]
fn acknowledged_facts_do_not_come_back_and_their_numbers_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Spool::open(dir.path(), "b1", 1);
    (0..3).for_each(|_| drop(s.push(gone("a"), 1, 1)));
    s.ack("b1", 2);
    drop(s);
    let mut s = Spool::open(dir.path(), "b1", 1);
    assert_eq!(seqs(&s), ["b1:3"]);
    s.ack("b1", 3);
    drop(s);
    let mut s = Spool::open(dir.path(), "b1", 1);
    assert_eq!((seqs(&s).len(), s.push(gone("a"), 1, 1).seq), (0, 4));
}

#[test]
fn another_boots_leftovers_keep_their_boot() {
    let dir = tempfile::tempdir().unwrap();
    Spool::open(dir.path(), "b1", 1).push(gone("a"), 1, 1);
    let mut s = Spool::open(dir.path(), "b2", 1);
    s.push(gone("a"), 1, 1);
    assert_eq!(seqs(&s), ["b1:1", "b2:1"]);
    s.ack("b2", 1);
    assert_eq!(seqs(&s), ["b1:1"]);
    s.ack("b1", 1);
    assert_eq!(seqs(&s), Vec::<String>::new());
}

#[test]
fn a_damaged_tail_is_cut_and_the_rest_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Spool::open(dir.path(), "b1", 1);
    (0..3).for_each(|_| drop(s.push(gone("a"), 1, 1)));
    drop(s);
    let path = dir.path().join("spool");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let mut s = Spool::open(dir.path(), "b1", 1);
    assert_eq!(seqs(&s), ["b1:1", "b1:2"]);
    s.push(gone("a"), 1, 1);
    drop(s);
    assert_eq!(seqs(&Spool::open(dir.path(), "b1", 1)), ["b1:1", "b1:2", "b1:3"]);
}

#[test]
fn when_full_the_oldest_of_the_least_class_goes_and_a_gap_counts_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Spool::open(dir.path(), "b1", 1);
    for what in [gone("a"), lost(), lost(), started("b"), lost(), gone("c")] {
        s.push(what, 1, 1);
    }
    s.max_bytes = s.bytes - 250;
    s.make_room();
    assert_eq!(seqs(&s), ["b1:1", "b1:2-3 lost", "b1:4", "b1:5", "b1:6"]);
    s.max_bytes = 90;
    s.make_room();
    assert_eq!(seqs(&s)[..3], ["b1:1", "b1:2-5 lost", "b1:6"], "guests that ended stay longest");
    s.ack("b1", 4);
    assert_eq!(seqs(&s), ["b1:2-5 lost", "b1:6"], "a gap goes with its last number");
}

#[test]
fn an_aggregator_that_knows_higher_numbers_moves_ours_above_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Spool::open(dir.path(), "b1", 1);
    s.ack("b1", 40);
    assert_eq!(s.push(gone("a"), 1, 1).seq, 41);
}

#[test]
fn a_disk_that_refuses_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Spool::open(&dir.path().join("missing"), "b1", 1);
    assert_eq!(s.push(gone("a"), 1, 1).seq, 1);
    assert_eq!(s.push(gone("b"), 1, 1).seq, 2);
    assert!(!s.settle());
    assert_eq!(seqs(&s), ["b1:1", "b1:2"]);
    std::fs::create_dir(dir.path().join("missing")).unwrap();
    assert!(s.settle());
    drop(s);
    assert_eq!(seqs(&Spool::open(&dir.path().join("missing"), "b1", 1)), ["b1:1", "b1:2"]);
}

#[test]
fn a_stream_goes_on_where_it_was_whatever_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Spool::open(dir.path(), "b1", 1);
    (0..4).for_each(|_| drop(s.push(gone("a"), 1, 1)));
    let third = s.entries().nth(2).unwrap().0;
    s.ack("b1", 2);
    let rest: Vec<u64> = s.after(third).map(|(_, e)| e.last_seq()).collect();
    assert_eq!(rest, [4]);
}
