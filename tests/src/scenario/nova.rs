//! What a scenario says of Nova and of those who use it:
//!
//! ```text
//!   nova down 30s                      nothing but errors
//!   nova lose-answer                   the next change is made, and nobody is told
//!   nova lose-evacuation-answer        the same, of the next evacuation
//!   nova lose-request                  the next evacuation never arrives, and nobody is told
//!   nova fail vm1 2                    its next two evacuations find no valid host
//!   nova limit vm1 4                   its next four evacuations are too many requests
//!   nova state vm1 paused              the server is in this state
//!   nova delete vm1                    its owner deletes it
//!   nova hide vm1   nova unhide vm1    lists do not name it
//!   nova renames hv1                   its nova-compute there goes by hv1.example.org
//!   nova stop-compute hv1   nova start-compute hv1   nova disable hv1
//!   nova kill-at-evacuation before|after             the aggregator dies there
//! ```

use super::{duration, index, number};
use crate::sim::{Fault, NovaFault};

pub(super) fn fault(words: &[&str]) -> Result<Fault, String> {
    let nova = |fault| Ok(Fault::Nova(fault));
    match *words {
        ["down", time] => Ok(Fault::BreakNova(duration(time)?)),
        ["lose-answer"] => Ok(Fault::LoseNovaAnswer),
        ["kill-at-evacuation", "before"] => Ok(Fault::DieAtEvacuation { before: true }),
        ["kill-at-evacuation", "after"] => Ok(Fault::DieAtEvacuation { before: false }),
        ["lose-evacuation-answer"] => nova(NovaFault::LoseEvacuationAnswer),
        ["lose-request"] => nova(NovaFault::LoseRequest),
        [kind @ ("fail" | "limit"), guest, times] => {
            let times = u32::try_from(number(times)?).map_err(|_| "that is too often".to_owned())?;
            let guest = index(guest)?;
            nova(if kind == "fail" { NovaFault::Fail { guest, times } } else { NovaFault::Limit { guest, times } })
        }
        ["state", guest, state] => nova(NovaFault::State { guest: index(guest)?, state: state.to_owned() }),
        ["delete", guest] => nova(NovaFault::Delete(index(guest)?)),
        ["hide", guest] => nova(NovaFault::Hide(index(guest)?)),
        ["unhide", guest] => nova(NovaFault::Unhide(index(guest)?)),
        ["stop-compute", host] => nova(NovaFault::StopCompute(index(host)?)),
        ["start-compute", host] => nova(NovaFault::StartCompute(index(host)?)),
        ["renames", host] => nova(NovaFault::Rename(index(host)?)),
        ["disable", host] => nova(NovaFault::Disable(index(host)?)),
        _ => Err("Nova does nothing of that kind".to_owned()),
    }
}
