//! What ran and will run around now: a lane for each ship and kind of task, a bar for each start.
//!
//! State is told by colour, by a mark, and in words for whoever points at a bar. The picture moves
//! on by steps, so that it is the same for all who look at it in the same step.

use std::collections::BTreeMap;

use askama::Template;

use super::Schedules;
use super::row::{mark, what};
use crate::page::chart::{clock_text, time_ticks};
use crate::page::format::Moment;
use crate::page::view::{Focus, Fragment};
use crate::rooms::schedules::outline::Outline;
use crate::store::schedules::{Occurrence, Run, Schedule, ScheduleFilter, ScheduleState};
use crate::store::{Millis, StoreError};

const ID: &str = "schedules-timeline";
/// Schedules that are looked at: those that will start something, and those that have ended.
const OPEN_MAX: usize = 200;
const ENDED_MAX: usize = 100;
/// Recurring ones whose past is looked up.
const PASTS_MAX: usize = 20;
/// Starts of one of these, and lanes.
const STARTS_MAX: usize = 60;
const LANES_MAX: usize = 20;
/// Starts of a lane up to which each has a mark: more would stand in each other's way.
const MARKED_MAX: usize = 24;
/// What will start something.
const OPEN: [ScheduleState; 3] =
    [ScheduleState::Pending, ScheduleState::Running, ScheduleState::Active];
const ENDED: [ScheduleState; 5] = [
    ScheduleState::Finished,
    ScheduleState::Failed,
    ScheduleState::Missed,
    ScheduleState::Cancelled,
    ScheduleState::Ended,
];

/// Spans to choose: in an address, for people, in milliseconds.
const SPANS: [(&str, &str, Millis); 3] =
    [("10m", "10 minutes", 600_000), SPAN_USUAL, ("24h", "24 hours", 86_400_000)];
const SPAN_USUAL: (&str, &str, Millis) = ("1h", "1 hour", 3_600_000);
/// Steps of a span.
const STEPS: Millis = 600;
/// Starts of one schedule that can be told apart in a span.
const APART: Millis = 120;

#[derive(Template)]
#[template(path = "schedules/timeline.html", config = "src/page/askama.toml")]
struct Timeline {
    spans: Vec<Choice>,
    lanes: Vec<Lane>,
    ticks: Vec<Tick>,
    /// Where now is.
    now: String,
    height: usize,
    has_more_lanes: bool,
    is_cut: bool,
    is_unattended: bool,
}

/// A span to choose.
struct Choice {
    word: &'static str,
    text: &'static str,
    is_chosen: bool,
}

struct Tick {
    x: String,
    iso: String,
    text: String,
}

struct Lane {
    name: String,
    /// Where it begins, from above.
    top: usize,
    bars: Vec<Bar>,
}

impl Lane {
    const HEIGHT: usize = 44;

    const fn label(&self) -> usize {
        self.top + 13
    }

    const fn bar(&self) -> usize {
        self.top + 19
    }

    const fn mark(&self) -> usize {
        self.top + 32
    }
}

struct Bar {
    x: String,
    width: String,
    state: &'static str,
    mark: &'static str,
    from: Moment,
    /// When it ended or will, if that is later.
    to: Option<Moment>,
}

/// The time that is shown.
#[derive(Debug, Clone, Copy)]
struct Window {
    from_ms: Millis,
    to_ms: Millis,
    now_ms: Millis,
}

/// Starts by what is started.
type Lanes = BTreeMap<String, Vec<Start>>;

/// A start in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Start {
    from_ms: Millis,
    to_ms: Millis,
    state: &'static str,
}

impl Window {
    /// A third of it has gone by.
    fn around(now_ms: Millis, span_ms: Millis) -> Self {
        let step_ms = span_ms / STEPS;
        let now_ms = now_ms.div_euclid(step_ms) * step_ms;
        let from_ms = now_ms - span_ms / 3;
        Self { from_ms, to_ms: from_ms + span_ms, now_ms }
    }

    fn holds(&self, start: &Start) -> bool {
        start.to_ms >= self.from_ms && start.from_ms < self.to_ms
    }

    /// How far into it a time is, in percent, within its edges.
    fn share(&self, at_ms: Millis) -> f64 {
        let (into, whole) = (at_ms - self.from_ms, self.to_ms - self.from_ms);
        #[expect(clippy::cast_precision_loss, reason = "a picture has less than 2^52 places")]
        let share = into as f64 / whole.max(1) as f64 * 100.0;
        share.clamp(0.0, 100.0)
    }

    fn bar(&self, start: &Start) -> Bar {
        let (x, end) = (self.share(start.from_ms), self.share(start.to_ms));
        Bar {
            x: format!("{x:.2}"),
            width: format!("{:.2}", (end - x).max(0.3)),
            state: start.state,
            mark: mark(start.state),
            from: Moment(start.from_ms),
            to: (start.to_ms > start.from_ms).then_some(Moment(start.to_ms)),
        }
    }

    /// A start that is planned for a time, as far as it is known how it went.
    fn start(
        &self,
        planned_ms: Millis,
        duration_ms: Option<Millis>,
        run: Option<&Run>,
        state: &'static str,
    ) -> Start {
        let from_ms = run.and_then(|run| run.started_at_ms).unwrap_or(planned_ms);
        let planned_end_ms = planned_ms.saturating_add(duration_ms.unwrap_or(0));
        let to_ms = match run {
            Some(Run { finished_at_ms: Some(at_ms), .. }) => *at_ms,
            Some(Run { started_at_ms: Some(_), .. }) => planned_end_ms.max(self.now_ms),
            _ => planned_end_ms,
        };
        Start { from_ms, to_ms: to_ms.max(from_ms), state }
    }
}

impl Schedules {
    pub(super) async fn timeline(&self, focus: &Focus) -> Fragment {
        let asked = focus.get("span");
        let span = SPANS.into_iter().find(|(word, ..)| Some(*word) == asked);
        let (chosen, _, span_ms) = span.unwrap_or(SPAN_USUAL);
        let window = Window::around(self.clock.wall().timestamp_millis(), span_ms);
        let (lanes, is_unattended) = tokio::join!(self.lanes(window), self.is_unattended());
        match lanes {
            Ok((lanes, is_cut)) => {
                let drawn = timeline(window, chosen, lanes);
                Fragment::of(ID, &Timeline { is_cut, is_unattended, ..drawn })
            }
            Err(error) => Fragment::trouble(ID, "The timeline", &error.to_string()),
        }
    }

    /// The starts in a window, by what is started; and whether some may be missing.
    async fn lanes(&self, window: Window) -> Result<(Lanes, bool), StoreError> {
        // One look of the store at each, however many there are: this is drawn again and again.
        let look = |states: &[ScheduleState], schedules_max| {
            let states = states.to_vec();
            let filter = ScheduleFilter { label: None, states, before: None, schedules_max };
            self.store.schedules(filter)
        };
        let (open, ended) = tokio::try_join!(look(&OPEN, OPEN_MAX), look(&ENDED, ENDED_MAX))?;
        let mut is_cut = open.next.is_some() || ended.next.is_some();
        let (mut looked_at, mut pasts) = (Vec::new(), 0);
        for schedule in open.schedules.into_iter().chain(ended.schedules) {
            let Some(outline) = Outline::of(&schedule) else { continue };
            let mut past = Vec::new();
            if outline.recurs.is_some() {
                if pasts < PASTS_MAX {
                    past = self.past(window, &schedule, &outline).await?;
                }
                let reaches_back = past.iter().any(|start| start.from_ms < window.from_ms);
                is_cut |= pasts == PASTS_MAX || (past.len() == STARTS_MAX && !reaches_back);
                pasts = (pasts + 1).min(PASTS_MAX);
            }
            looked_at.push((schedule, outline, past));
        }
        // The times of many cron expressions take a while.
        let found = tokio::task::spawn_blocking(move || by_subject(window, looked_at)).await;
        let lanes = found.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok((lanes, is_cut))
    }

    /// What was decided of the times of a schedule that recurs.
    async fn past(
        &self,
        window: Window,
        schedule: &Schedule,
        outline: &Outline,
    ) -> Result<Vec<Start>, StoreError> {
        let found = self.store.occurrences(schedule.id, Some(window.to_ms), STARTS_MAX).await?;
        let start = |one: &Occurrence| {
            let state = one.run.as_ref().map_or(one.decision.word(), |run| run.state.word());
            let duration_ms = one.task.and_then(|_| outline.duration_ms());
            let whole = one.times.last_due_at_ms - one.times.due_at_ms;
            let duration_ms = Some(duration_ms.unwrap_or(0).max(whole));
            window.start(one.times.due_at_ms, duration_ms, one.run.as_ref(), state)
        };
        Ok(found.iter().map(start).collect())
    }
}

fn once(window: Window, schedule: &Schedule, outline: &Outline) -> Vec<Start> {
    let Some(start_ms) = outline.start_ms else { return Vec::new() };
    let (duration_ms, run) = (outline.duration_ms(), schedule.run.as_ref());
    vec![window.start(start_ms, duration_ms, run, schedule.state.word())]
}

/// All starts, of the past and to come, by what is started.
fn by_subject(window: Window, schedules: Vec<(Schedule, Outline, Vec<Start>)>) -> Lanes {
    let mut lanes = Lanes::new();
    for (schedule, outline, mut starts) in schedules {
        starts.extend(match outline.recurs {
            None => once(window, &schedule, &outline),
            Some(_) => coming(window, &schedule, &outline),
        });
        starts.retain(|start| window.holds(start));
        if !starts.is_empty() {
            lanes.entry(what(&outline)).or_default().extend(starts);
        }
    }
    lanes
}

/// The times that are yet to come: of those that nobody can tell apart, the first.
fn coming(window: Window, schedule: &Schedule, outline: &Outline) -> Vec<Start> {
    let Some(next_ms) = schedule.next_at_ms else { return Vec::new() };
    let apart_ms = (window.to_ms - window.from_ms) / APART;
    let after = |from_ms| outline.times(from_ms, window.to_ms, 1).first().copied();
    let first = after(next_ms.max(window.from_ms));
    let times = std::iter::successors(first, |at_ms| after(at_ms + apart_ms));
    times.map(|at_ms| window.start(at_ms, outline.duration_ms(), None, "pending")).collect()
}

fn timeline(window: Window, chosen: &str, starts: Lanes) -> Timeline {
    let has_more_lanes = starts.len() > LANES_MAX;
    let lane = |(place, (name, mut starts)): (usize, (String, Vec<Start>))| {
        starts.sort_by_key(|start| start.from_ms);
        let mut bars: Vec<Bar> = starts.iter().map(|start| window.bar(start)).collect();
        if bars.len() > MARKED_MAX {
            bars.iter_mut().for_each(|bar| bar.mark = "");
        }
        Lane { name, top: place * Lane::HEIGHT, bars }
    };
    let lanes: Vec<Lane> = starts.into_iter().take(LANES_MAX).enumerate().map(lane).collect();
    let ms = |at_ms: Millis| u64::try_from(at_ms).unwrap_or(0);
    let ticks = time_ticks(ms(window.from_ms), ms(window.to_ms)).into_iter().map(|at_ms| Tick {
        x: format!("{:.2}", window.share(at_ms.cast_signed())),
        iso: Moment(at_ms.cast_signed()).to_string(),
        text: clock_text(at_ms),
    });
    let choice = |(word, text, _)| Choice { word, text, is_chosen: word == chosen };
    Timeline {
        spans: SPANS.into_iter().map(choice).collect(),
        height: lanes.len() * Lane::HEIGHT,
        lanes,
        ticks: ticks.collect(),
        now: format!("{:.2}", window.share(window.now_ms)),
        has_more_lanes,
        is_cut: false,
        is_unattended: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: Millis = 3_600_000;

    #[test]
    fn the_picture_is_the_same_until_the_next_step() {
        let one = Window::around(10 * HOUR_MS, HOUR_MS);
        assert_eq!((one.from_ms, one.to_ms), (10 * HOUR_MS - 1_200_000, 10 * HOUR_MS + 2_400_000));
        let other = Window::around(10 * HOUR_MS + 5_999, HOUR_MS);
        assert_eq!((other.from_ms, other.now_ms), (one.from_ms, one.now_ms));
        assert!((one.share(one.now_ms) - 33.333).abs() < 0.01);
        assert_eq!((one.share(0), one.share(Millis::MAX / 4)), (0.0, 100.0));
    }

    #[test]
    fn a_start_goes_from_when_it_began_to_when_it_ended_or_will() {
        let window = Window::around(10 * HOUR_MS, HOUR_MS);
        let planned = 10 * HOUR_MS - 60_000;
        let run = |state, finished_at_ms| Run {
            state,
            started_at_ms: Some(planned + 5),
            finished_at_ms,
            error: None,
            result: None,
        };
        let of = |run: Option<&Run>| {
            let start = window.start(planned, Some(30_000), run, "x");
            (start.from_ms - planned, start.to_ms - planned)
        };
        assert_eq!(of(None), (0, 30_000));
        assert_eq!(of(Some(&run(crate::store::TaskState::Running, None))), (5, 60_000));
        assert_eq!(of(Some(&run(crate::store::TaskState::Failed, Some(planned + 9)))), (5, 9));
    }

    #[test]
    fn what_starts_each_second_is_shown_to_the_end_of_the_window() {
        let window = Window::around(10 * HOUR_MS, HOUR_MS);
        let plan = br#"{"work":{"task":{"kind":"echo","payload":"1"}},"start_time":null,
            "lateness_seconds":null,"recurrence":{"steps":{"every":{"seconds":1}},"until":null,
            "catch_up":"skip","overlap":"skip"}}"#;
        let schedule = Schedule {
            id: crate::store::schedules::ScheduleId::new(),
            label: None,
            plan: plan.to_vec(),
            created_at_ms: 0,
            state: ScheduleState::Active,
            next_at_ms: Some(window.now_ms),
            ended_at_ms: None,
            task: None,
            run: None,
        };
        let starts = coming(window, &schedule, &Outline::of(&schedule).unwrap());
        assert_eq!(starts.first().unwrap().from_ms, window.now_ms);
        assert!(starts.last().unwrap().from_ms >= window.to_ms - HOUR_MS / APART);
        assert!(starts.len() <= 120, "{}", starts.len());
    }
}
