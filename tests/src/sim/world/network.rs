//! Who reaches whom.

use super::*;

impl World {
    /// Packets from one host reach another (`None` is the aggregator) on a plane.
    pub(super) fn carries(&self, from: Option<usize>, to: Option<usize>, plane: usize) -> bool {
        let up = |node: Option<usize>| node.is_none_or(|host| self.hosts[host].planes[plane]);
        let side = |node: Option<usize>| node.is_some_and(|host| self.hosts[host].far_side);
        let mute = from.is_some_and(|host| self.hosts[host].deaf_side);
        up(from) && up(to) && side(from) == side(to) && !mute
    }

    pub(super) fn path(&self, a: Option<usize>, b: Option<usize>, plane: usize) -> bool {
        self.carries(a, b, plane) && self.carries(b, a, plane)
    }

    /// What a probe of `target` gets, were no packet lost by chance.
    pub(super) fn answer(&self, from: Option<usize>, target: usize, plane: usize) -> ProbeAnswer {
        let host = &self.hosts[target];
        if !host.up || !self.path(from, Some(target), plane) {
            return ProbeAnswer::Nothing;
        }
        if host.frozen { ProbeAnswer::KernelOnly } else { ProbeAnswer::UserSpace }
    }
}
