//! Every row of the precedence, one by one.

use super::*;
use Ha::{Off, On, Tenant};

/// One server of which everything is known.
struct Site {
    protect_all: bool,
    rules: Vec<PolicyRule>,
    aggregates: Vec<Aggregate>,
    image: Mould,
    flavor: Mould,
    metadata: Marks,
    word: Option<bool>,
}

fn marks(of: &[(&str, &str)]) -> Marks {
    of.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn rule(level: Level, ha: Ha) -> PolicyRule {
    let wanted = match level {
        Level::Site => return PolicyRule { ha: Some(ha), ..PolicyRule::default() },
        Level::Zone => "east",
        Level::Aggregate => "fast",
        Level::Project => "p-1",
        Level::Image => "debian",
        Level::Flavor => "m1",
        Level::Server => "id-1",
    };
    PolicyRule { matches: [(level, wanted.to_owned())].into(), ha: Some(ha), ..PolicyRule::default() }
}

impl Site {
    fn new(protect_all: bool) -> Self {
        let mould = |id: &str, name: &str| Mould { id: id.into(), name: name.into(), marks: Marks::new() };
        Self {
            protect_all,
            rules: Vec::new(),
            aggregates: vec![Aggregate { name: "fast".into(), ..Aggregate::default() }],
            image: mould("img-1", "debian"),
            flavor: mould("", "m1"),
            metadata: Marks::new(),
            word: None,
        }
    }

    fn judge(&self) -> Policy {
        let id = InstanceId::from("id-1");
        let facts = Facts {
            id: &id,
            name: None,
            zone: "east",
            aggregates: self.aggregates.iter().collect(),
            project: "p-1",
            image: &self.image,
            flavor: &self.flavor,
            metadata: &self.metadata,
            marked: false,
            word: self.word,
        };
        judge(self.protect_all, &self.rules, &facts)
    }

    fn protected(&self) -> bool {
        self.judge().protected.value
    }
}

#[test]
fn each_finer_rule_overrides_every_coarser_one_in_whatever_order_they_are_written() {
    for (fine, (finer, name, _)) in LEVELS.iter().enumerate() {
        for (coarser, _, _) in &LEVELS[..fine] {
            for (ha, other) in [(On, Off), (Off, On)] {
                let mut site = Site::new(true);
                site.rules = vec![rule(*finer, ha), rule(*coarser, other)];
                let protected = site.judge().protected;
                assert_eq!(protected.value, ha == On, "{finer:?} {ha:?} over {coarser:?}");
                assert!(protected.rule.contains(name), "{}", protected.rule);
            }
        }
    }
}

/// `protect`, what operators say (nobody, or a rule), what the tenant says, and whether it is protected.
const WHO_DECIDES: [(bool, Option<Ha>, Option<bool>, bool); 24] = [
    (true, None, None, true),
    (true, None, Some(false), false),
    (true, None, Some(true), true),
    (false, None, None, false),
    (false, None, Some(false), false),
    (false, None, Some(true), true),
    (true, Some(On), None, true),
    (true, Some(On), Some(false), true),
    (true, Some(On), Some(true), true),
    (false, Some(On), None, true),
    (false, Some(On), Some(false), true),
    (false, Some(On), Some(true), true),
    (true, Some(Off), None, false),
    (true, Some(Off), Some(false), false),
    (true, Some(Off), Some(true), false),
    (false, Some(Off), None, false),
    (false, Some(Off), Some(false), false),
    (false, Some(Off), Some(true), false),
    (true, Some(Tenant), None, true),
    (true, Some(Tenant), Some(false), false),
    (true, Some(Tenant), Some(true), true),
    (false, Some(Tenant), None, false),
    (false, Some(Tenant), Some(false), false),
    (false, Some(Tenant), Some(true), true),
];

#[test]
fn a_tenant_decides_only_what_operators_leave_to_it() {
    for (protect_all, operators, tenant, expected) in WHO_DECIDES {
        // At every level, so that no one of them lets a tenant through.
        for (level, _, _) in LEVELS {
            let mut site = Site::new(protect_all);
            site.rules.extend(operators.map(|ha| rule(level, ha)));
            if let Some(on) = tenant {
                site.metadata = marks(&[("HA_Enabled", if on { "True" } else { "False" })]);
            }
            assert_eq!(site.protected(), expected, "{protect_all} {operators:?} {tenant:?} at {level:?}");
        }
    }
}

#[test]
fn an_operators_word_beats_every_rule() {
    for word in [true, false] {
        let mut site = Site::new(!word);
        site.rules = LEVELS.iter().map(|(level, _, _)| rule(*level, if word { Off } else { On })).collect();
        site.metadata = marks(&[("HA_Enabled", if word { "no" } else { "yes" })]);
        site.word = Some(word);
        assert_eq!(site.protected(), word);
    }
}

#[test]
fn every_mark_in_use_elsewhere_is_understood_on_flavors_images_and_aggregates() {
    for (mark, _) in HA_MARKS {
        for (text, on) in [("true", true), ("False", false), ("1", true), ("off", false), ("Yes", true)] {
            for place in 0..3 {
                let mut site = Site::new(!on);
                let marks = marks(&[(mark, text)]);
                match place {
                    0 => site.flavor.marks = marks,
                    1 => site.image.marks = marks,
                    _ => site.aggregates[0].marks = marks,
                }
                let protected = site.judge().protected;
                assert_eq!(protected.value, on, "{mark} = {text} at {place}");
                assert!(protected.rule.contains(mark), "{}", protected.rule);
            }
        }
    }
}

#[test]
fn a_mark_is_as_fine_as_what_bears_it_and_a_rule_of_the_same_level_beats_it() {
    let mut site = Site::new(true);
    site.aggregates[0].marks = marks(&[("medevac:ha", "off")]);
    assert!(!site.protected());
    site.image.marks = marks(&[("medevac:ha", "on")]);
    assert!(site.protected());
    site.flavor.marks = marks(&[("medevac:ha", "off")]);
    assert!(!site.protected());
    site.rules = vec![rule(Level::Flavor, On)];
    assert!(site.protected());
}

#[test]
fn a_mark_can_leave_it_to_the_tenant_and_a_tenants_own_mark_cannot() {
    let mut site = Site::new(true);
    site.rules = vec![rule(Level::Site, On)];
    site.metadata = marks(&[("medevac:ha", "off")]);
    assert!(site.protected());
    site.flavor.marks = marks(&[("medevac:ha", "tenant")]);
    assert!(!site.protected());
    site.metadata = marks(&[("medevac:ha", "tenant")]);
    assert!(site.protected(), "it says nothing");
}

#[test]
fn a_tenant_sets_neither_priority_nor_tier_nor_what_becomes_of_disks() {
    let mut site = Site::new(true);
    site.metadata = marks(&[("medevac:priority", "100"), ("medevac:tier", "1"), ("medevac:on_local_disks", "rebuild")]);
    let policy = site.judge();
    assert_eq!((policy.priority.is_some(), policy.tier.is_some(), policy.rebuilds()), (false, false, false));
    assert_eq!(policy.faults.len(), 3, "{:?}", policy.faults);
}

#[test]
fn each_value_comes_from_the_finest_that_says_it_and_names_its_rule() {
    let mut site = Site::new(true);
    site.rules = vec![
        PolicyRule { priority: Some(5), tier: Some(3), ..rule(Level::Project, Tenant) },
        PolicyRule { on_local_disks: Some(OnLocalDisks::Rebuild), ..rule(Level::Zone, On) },
    ];
    site.flavor.marks = marks(&[("medevac:tier", "1")]);
    let text = site.judge().to_string();
    assert_eq!(
        text,
        "protected (protect = \"all\"); priority 5 (policy for project p-1); tier 1 (flavor m1: medevac:tier = 1); \
         local disks are made anew (policy for zone east)"
    );
}

#[test]
fn a_rule_fits_only_who_fits_all_of_it() {
    let mut site = Site::new(true);
    let mut both = rule(Level::Flavor, Off);
    both.matches.insert(Level::Project, "p-2".into());
    site.rules = vec![both.clone()];
    assert!(site.protected());
    both.matches.insert(Level::Project, "p-1".into());
    site.rules = vec![both];
    assert!(!site.protected());
}

#[test]
fn of_two_rules_of_one_level_the_later_one_counts() {
    let mut site = Site::new(true);
    site.rules = vec![rule(Level::Flavor, On), rule(Level::Flavor, Off)];
    assert!(!site.protected());
}

#[test]
fn of_two_aggregates_that_differ_the_one_that_promises_less_counts() {
    let mut site = Site::new(true);
    let tell = |ha: &str, tier: &str, disks: &str| {
        marks(&[("medevac:ha", ha), ("medevac:tier", tier), ("medevac:on_local_disks", disks)])
    };
    site.aggregates[0].marks = tell("off", "2", "wait");
    site.aggregates.push(Aggregate { name: "slow".into(), marks: tell("on", "1", "rebuild"), ..Aggregate::default() });
    for _ in 0..2 {
        let policy = site.judge();
        assert!(!policy.protected.value && !policy.rebuilds());
        assert_eq!(policy.tier.map(|said| said.value), Some(2));
        site.aggregates.reverse();
    }
}

#[test]
fn a_mark_that_cannot_be_read_says_nothing_and_is_shown() {
    let mut site = Site::new(true);
    site.flavor.marks = marks(&[("medevac:ha", "maybe"), ("medevac:tier", "0"), ("medevac:priority", "101")]);
    site.metadata = marks(&[("HA_Enabled", "\u{1b}[2J"), ("colour", "red")]);
    let policy = site.judge();
    assert!(policy.protected.value && policy.tier.is_none() && policy.priority.is_none());
    assert_eq!(policy.faults.len(), 4, "{:?}", policy.faults);
    assert!(!policy.to_string().contains('\u{1b}'), "it would reach a terminal");
}

#[test]
fn a_tenant_cannot_take_a_rule_by_giving_its_server_a_name() {
    let id = InstanceId::from("id-9");
    let (none, mould) = (Marks::new(), Mould::default());
    let named = PolicyRule { matches: [(Level::Server, "db".to_owned())].into(), ..rule(Level::Site, On) };
    for (name, expected) in [(None, false), (Some("db"), true)] {
        let facts = Facts {
            id: &id,
            name,
            zone: "",
            aggregates: Vec::new(),
            project: "",
            image: &mould,
            flavor: &mould,
            metadata: &none,
            marked: false,
            word: None,
        };
        assert_eq!(judge(false, std::slice::from_ref(&named), &facts).protected.value, expected);
    }
}
