//! Care for autostart flags: taken over where the site acts, given back where it no longer does.
//!
//! libvirt starts guests at boot before any agent can say that they run
//! elsewhere by now. So the flag of a protected guest is cleared, and owed.
//!
//! ```text
//!   take:       own state (disk) -> clear the flag -> note in the domain's metadata
//!   give back:  set the flag -> take the note away -> own state (disk)
//! ```
//!
//! In this order a crash between two steps leaves at worst a flag that is owed and still set.

use crate::hypervisor::{Domain, Fault, Hypervisor};
use crate::state::{State, StateFile};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What to do with one guest's flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Take(String),
    GiveBack(String),
}

/// The steps that remain, given what libvirt last said.
pub fn plan<'a>(state: &State, domains: impl Iterator<Item = &'a Domain>) -> Vec<Step> {
    let mut steps = Vec::new();
    // Before the first care nobody has said what is protected: what is owed stays owed.
    if state.mode.is_empty() {
        return steps;
    }
    for d in domains.filter(|d| d.persistent) {
        let cared_for = state.acts() && state.protected.contains(&d.uuid);
        // The note outlives a lost state directory.
        let noted = !d.autostart && d.description.as_ref().is_some_and(|d| d.autostart_noted);
        if cared_for && d.autostart {
            steps.push(Step::Take(d.uuid.clone()));
        } else if !cared_for && (noted || state.autostart_taken.contains(&d.uuid)) {
            steps.push(Step::GiveBack(d.uuid.clone()));
        }
    }
    steps
}

/// Carries the steps out, as far as libvirt lets us. Returns the guests that were touched.
pub async fn carry_out(steps: Vec<Step>, hypervisor: Arc<dyn Hypervisor>, state: Arc<StateFile>) -> BTreeSet<String> {
    let mut touched = BTreeSet::new();
    for step in steps {
        let (uuid, result) = match &step {
            Step::Take(uuid) => (uuid, take(uuid, &*hypervisor, &state).await),
            Step::GiveBack(uuid) => (uuid, give_back(uuid, &*hypervisor, &state).await),
        };
        match result {
            Ok(()) => tracing::info!(guest = uuid, "autostart: {step:?}"),
            Err(e) => {
                tracing::warn!(guest = uuid, code = "MDV-AUTOSTART", "autostart: {step:?}: {e}; tried again later")
            }
        }
        touched.insert(uuid.clone());
    }
    touched
}

async fn take(uuid: &str, hypervisor: &dyn Hypervisor, state: &Arc<StateFile>) -> Result<(), String> {
    let owed = uuid.to_owned();
    change(state, move |s| s.autostart_taken.extend([owed])).await?;
    hypervisor.set_autostart(uuid, false).await.map_err(|e| e.to_string())?;
    // Best effort: the note only helps a person, and the agent of a host that takes the guest over.
    if let Err(e) = hypervisor.note_autostart(uuid, true).await {
        tracing::debug!(guest = uuid, "no note in the metadata: {e}");
    }
    Ok(())
}

async fn give_back(uuid: &str, hypervisor: &dyn Hypervisor, state: &Arc<StateFile>) -> Result<(), String> {
    match hypervisor.set_autostart(uuid, true).await {
        Ok(()) => {}
        Err(e) if matches!(e, Fault::NotAnswering(_)) || is_defined(uuid, hypervisor).await => {
            return Err(e.to_string());
        }
        // Undefined meanwhile: nothing is owed any more.
        Err(e) => tracing::debug!(guest = uuid, "no flag to give back: {e}"),
    }
    if let Err(e) = hypervisor.note_autostart(uuid, false).await {
        tracing::debug!(guest = uuid, "the note in the metadata stays: {e}");
    }
    let owed = uuid.to_owned();
    change(state, move |s| s.autostart_taken.retain(|u| *u != owed)).await
}

/// Whether libvirt knows the domain, or does not say: a call that was never begun is refused, too.
async fn is_defined(uuid: &str, hypervisor: &dyn Hypervisor) -> bool {
    !matches!(hypervisor.domain(uuid).await, Ok(None))
}

async fn change(state: &Arc<StateFile>, apply: impl FnOnce(&mut State) + Send + 'static) -> Result<(), String> {
    let state = Arc::clone(state);
    let changed = tokio::task::spawn_blocking(move || state.change(apply)).await;
    changed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(uuid: &str, autostart: bool) -> Domain {
        Domain {
            uuid: uuid.into(),
            name: uuid.into(),
            state: 1,
            reason: 1,
            persistent: true,
            autostart,
            managed_save: false,
            description: None,
        }
    }

    fn state(mode: &str, protected: &[&str], taken: &[&str]) -> State {
        State {
            mode: mode.into(),
            protected: protected.iter().map(|s| s.to_string()).collect(),
            autostart_taken: taken.iter().map(|s| s.to_string()).collect(),
            ..State::default()
        }
    }

    #[test]
    fn flags_of_protected_guests_are_taken_where_the_site_acts() {
        let domains = [domain("a", true), domain("b", true), domain("c", false)];
        let steps = plan(&state("act", &["a", "c"], &[]), domains.iter());
        assert_eq!(steps, [Step::Take("a".into())]);
        let transient = Domain { persistent: false, ..domain("a", true) };
        assert_eq!(plan(&state("act", &["a"], &[]), [transient].iter()), []);
    }

    #[test]
    fn nothing_is_touched_in_observe_and_what_was_taken_is_given_back() {
        let domains = [domain("a", true), domain("b", false)];
        let steps = plan(&state("observe", &["a", "b"], &["b"]), domains.iter());
        assert_eq!(steps, [Step::GiveBack("b".into())]);
    }

    #[test]
    fn an_unprotected_guest_gets_its_flag_back() {
        let steps = plan(&state("approve", &[], &["a"]), [domain("a", false)].iter());
        assert_eq!(steps, [Step::GiveBack("a".into())]);
    }

    #[test]
    fn nothing_is_given_back_before_the_first_care() {
        assert_eq!(plan(&state("", &[], &["a"]), [domain("a", false)].iter()), []);
    }

    #[test]
    fn a_flag_noted_in_the_metadata_is_owed_even_without_our_own_state() {
        let noted = crate::domain_xml::Description { autostart_noted: true, ..Default::default() };
        let d = Domain { description: Some(Arc::new(noted)), ..domain("a", false) };
        assert_eq!(plan(&state("observe", &[], &[]), [d].iter()), [Step::GiveBack("a".into())]);
    }

    #[test]
    fn a_flag_set_again_by_its_user_is_taken_again() {
        let steps = plan(&state("act", &["a"], &["a"]), [domain("a", true)].iter());
        assert_eq!(steps, [Step::Take("a".into())]);
    }
}
