//! What must hold.

use super::*;

impl World {
    pub fn run_until_whole(&mut self, within: Duration) {
        let until = self.now() + within;
        while self.now() < until && !(self.violations.is_empty() && self.missing().is_none()) {
            self.run_for(Duration::from_secs(5));
            if !self.violations.is_empty() {
                return;
            }
        }
    }

    /// What keeps the site from being whole.
    pub(super) fn missing(&self) -> Option<String> {
        for (host, h) in self.hosts.iter().enumerate() {
            if !h.up || !h.agent || h.session.is_none() {
                return Some(format!("hv{} is not up and connected", host + 1));
            }
            if h.held {
                return Some(format!("hv{} still holds its guests", host + 1));
            }
        }
        for (guest, g) in self.guests.iter().enumerate() {
            let alive = self.hosts.iter().filter(|host| host.guests.contains_key(&guest)).count();
            match g.wanted {
                // Nobody brings back what nobody is to bring back.
                Some(true) if alive == 0 && self.is_left_alone(guest) => {}
                Some(true) if alive != 1 => return Some(format!("vm{} runs {alive} times", guest + 1)),
                Some(false) if alive != 0 => {
                    return Some(format!("vm{} was shut down by its user and runs", guest + 1));
                }
                _ => {}
            }
        }
        if let Some(missing) = self.nova_misses() {
            return Some(missing);
        }
        if let Some(untold) = self.untold() {
            return Some(untold);
        }
        self.shared.lock().records.values().find_map(|record| match record {
            Record::Incident(incident) if !incident.phase.closed() => {
                Some(format!("{} is open: {:?}", incident.id, incident.phase))
            }
            _ => None,
        })
    }

    /// # Errors
    /// The first thing that does not hold.
    pub fn verdict(&self) -> Result<Summary, String> {
        if self.beyond_evidence {
            return Ok(self.summary);
        }
        if let Some(first) = self.violations.first() {
            return Err(first.clone());
        }
        match self.missing() {
            Some(missing) => Err(format!("not whole after the repair: {missing}")),
            None => Ok(self.summary),
        }
    }

    /// What the last operator's word was answered with.
    pub fn last_reply(&self) -> String {
        match self.shared.lock().replies.last().map(|reply| reply.answer.clone()) {
            Some(Ok(text)) => text,
            Some(Err(refusal)) => format!("refused, {}: {refusal}", refusal.name),
            None => "no answer".to_owned(),
        }
    }

    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    pub fn summary(&self) -> Summary {
        self.summary
    }

    pub fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// Where each guest really runs.
    pub fn truth(&self) -> Vec<Vec<usize>> {
        let on = |guest| (0..self.hosts.len()).filter(|h| self.hosts[*h].guests.contains_key(&guest)).collect();
        (0..self.guests.len()).map(on).collect()
    }
}
