//! What people do to the aggregator itself: another configuration, a backup, the way back from it.

use super::*;
use medevac_triage::{Restoring, Wall, restored};

impl World {
    /// The configuration is read again with a change in it. Returns what it came to.
    pub fn reload(&mut self, change: impl FnOnce(&mut Settings)) -> String {
        let mut fresh = self.settings.clone();
        change(&mut fresh);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let take = Box::new(move |verdict| drop(tell.send(verdict)));
        let (settings, longest_fence) = (Ok(fresh.clone()), Duration::from_secs(60));
        self.inbox.push(Input::Reload(Box::new(Reload { settings, longest_fence, take })));
        self.turn_soon();
        self.run_for(Duration::from_millis(50));
        match told.try_recv() {
            Ok(Ok(notes)) => {
                self.settings = fresh;
                std::iter::once("taken".to_owned()).chain(notes).collect::<Vec<_>>().join("; ")
            }
            Ok(Err(why)) => format!("refused: {why}"),
            Err(_) => "the aggregator is down".to_owned(),
        }
    }

    /// The store as it is now.
    pub fn back_up(&mut self) {
        self.saved = self.shared.lock().records.iter().map(|(key, record)| (key.clone(), record.clone())).collect();
    }

    /// The store as it was then, in place of the one that there is; the aggregator starts with it.
    pub fn restore(&mut self) {
        self.kill_aggregator("its store is restored");
        let mut state = self.shared.lock();
        let wall = Wall(1_700_000_000_000 + state.now);
        let (what, reason) = ("restored from a backup".to_owned(), "the disk was lost".to_owned());
        let how = Restoring { epoch: state.epoch + 1000, wall, what, reason };
        state.records = restored(self.saved.clone(), &how).0.into_iter().collect();
        state.epoch = how.epoch;
    }
}
