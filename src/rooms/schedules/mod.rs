//! Schedules: work that starts at its time, once or again and again.
//!
//! What is to start once is a task that waits in the store, and needs nobody here at its time. What
//! recurs is due at times that a [`rule`] tells; at each of them the [`starter`] of one scheduler,
//! of however many, decides by the [`policy`] whether a task is started, and writes down what it
//! has decided, and why.
//!
//! | room | what it holds |
//! |---|---|
//! | [`api`], `members`, [`view`] | the requests, what they hold, and what is answered |
//! | [`outline`] | what a schedule is about, for whoever shows it otherwise |
//! | `plan` | what was asked for: checked once, stored with the schedule |
//! | `rule`, `policy` | when it is due; what is done about it. Both are pure |
//! | [`starter`], [`metrics`] | does it; and how well |

pub mod api;
mod members;
pub mod metrics;
pub mod outline;
mod plan;
mod policy;
mod rule;
pub mod starter;
pub mod view;

use self::plan::Plan;
use crate::store::Millis;
use crate::store::schedules::{NewSchedule, ScheduleId};
use crate::task::Name;

/// The schedule that a request asks for, as [`api`] takes it; captures are tasks of the kind
/// `capture`.
///
/// # Errors
/// What is wrong with it, in words that begin with the name of the member.
pub fn read(
    body: &[u8],
    id: ScheduleId,
    capture: &Name,
    now_ms: Millis,
) -> Result<NewSchedule, String> {
    let schedule = Plan::read(body).and_then(|plan| plan.schedule(id, capture, now_ms));
    schedule.map_err(|wrong| wrong.to_string())
}
