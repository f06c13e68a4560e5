//! What of a subscription is in hand: delivered and waiting here, taken, not acknowledged. Pure but
//! for the channel that it keeps.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use lapin::Channel;
use lapin::message::Delivery;

use crate::broker::pipes::Tag;

/// Windows up to this are as large as is asked for; larger ones are powers of two, so that they
/// need not be changed often.
const EXACT_MAX: usize = 16;
const WINDOW_MAX: usize = 1024;
/// How long a delivery may wait here, unacknowledged: the broker would close the channel after half
/// an hour. Given back, it comes again at once, if nobody else is there.
const STALE: Duration = Duration::from_secs(300);

/// What a subscription is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Go on.
    Stay,
    /// Begin again with another window.
    Resize,
    /// End until somebody waits.
    Pause,
    /// End for a while.
    StepBack,
}

/// The deliveries of one subscription after the other.
#[derive(Debug)]
pub(super) struct Hand {
    /// The window, if it never changes.
    fixed: Option<u16>,
    session: u64,
    channel: Option<Channel>,
    waiting: VecDeque<(Tag, Delivery, Instant)>,
    /// Those that wait here included.
    unacknowledged: BTreeSet<u64>,
    /// How many may be unacknowledged for a taker to get all that it wants.
    needed: usize,
    takers: usize,
    asked_at: Instant,
    steps_back: bool,
}

impl Hand {
    pub(super) fn new(fixed: Option<u16>) -> Self {
        Self {
            fixed,
            session: 0,
            channel: None,
            waiting: VecDeque::new(),
            unacknowledged: BTreeSet::new(),
            needed: 0,
            takers: 0,
            asked_at: Instant::now(),
            steps_back: false,
        }
    }

    /// A channel begins, on which every tag is new.
    pub(super) fn begin(&mut self, channel: Channel) {
        self.drop_all();
        self.channel = Some(channel);
    }

    /// The channel is lost, and every delivery with it.
    pub(super) fn drop_all(&mut self) {
        self.session += 1;
        self.channel = None;
        self.waiting.clear();
        self.unacknowledged.clear();
    }

    pub(super) fn push(&mut self, delivery: Delivery) {
        let tag = Tag { session: self.session, number: delivery.delivery_tag };
        self.unacknowledged.insert(tag.number);
        self.waiting.push_back((tag, delivery, Instant::now()));
    }

    pub(super) fn take(&mut self, count_max: usize) -> Vec<(Tag, Delivery)> {
        let taken = self.unacknowledged.len().saturating_sub(self.waiting.len());
        self.needed = taken.saturating_add(count_max);
        self.asked_at = Instant::now();
        let count = count_max.min(self.waiting.len());
        self.waiting.drain(..count).map(|(tag, delivery, _)| (tag, delivery)).collect()
    }

    pub(super) fn holds_any(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A taker begins, or ceases, to wait.
    pub(super) fn wait(&mut self, begins: bool) {
        self.takers = if begins { self.takers + 1 } else { self.takers.saturating_sub(1) };
        self.asked_at = Instant::now();
    }

    /// The window to subscribe with; `None`: nobody waits.
    pub(super) fn window(&self) -> Option<u16> {
        self.fixed.or_else(|| (self.takers > 0).then(|| window(self.needed)))
    }

    pub(super) fn turn(&self, now: u16, patience: Duration) -> Turn {
        if self.fixed.is_some() {
            return if self.steps_back { Turn::StepBack } else { Turn::Stay };
        }
        if self.takers == 0 {
            let is_over = self.asked_at.elapsed() >= patience;
            return if is_over { Turn::Pause } else { Turn::Stay };
        }
        let wanted = window(self.needed);
        let is_far_too_large = usize::from(now) > EXACT_MAX && wanted <= now / 4;
        if wanted > now || is_far_too_large { Turn::Resize } else { Turn::Stay }
    }

    pub(super) const fn step_back(&mut self) {
        self.steps_back = self.fixed.is_some();
    }

    pub(super) const fn stepped_back(&mut self) {
        self.steps_back = false;
    }

    /// What waits here is for others.
    pub(super) fn give_up_waiting(&mut self) -> Vec<Tag> {
        self.waiting.drain(..).map(|(tag, ..)| tag).collect()
    }

    /// What has waited here for too long, and waits no more.
    pub(super) fn stale(&mut self) -> Vec<Tag> {
        let fresh = self.waiting.iter().position(|(.., since)| since.elapsed() < STALE);
        let stale = fresh.unwrap_or(self.waiting.len());
        self.waiting.drain(..stale).map(|(tag, ..)| tag).collect()
    }

    /// Takes these out of hand: by which calls the broker learns it, each with a delivery and
    /// whether it is about all before it as well.
    pub(super) fn settle(&mut self, tags: &[Tag]) -> (Option<Channel>, Vec<(u64, bool)>) {
        let of_session = tags.iter().filter(|tag| tag.session == self.session);
        let mut settled: BTreeSet<u64> = of_session.map(|tag| tag.number).collect();
        settled.retain(|number| self.unacknowledged.contains(number));
        let first = self.unacknowledged.iter().take_while(|number| settled.contains(number));
        let up_to = first.last().copied();
        let mut calls: Vec<_> = up_to.map(|number| (number, true)).into_iter().collect();
        let after = settled.iter().filter(|number| up_to.is_none_or(|last| **number > last));
        calls.extend(after.map(|number| (*number, false)));
        self.unacknowledged.retain(|number| !settled.contains(number));
        (self.channel.clone(), calls)
    }
}

fn window(needed: usize) -> u16 {
    let needed = needed.clamp(1, WINDOW_MAX);
    let window = if needed > EXACT_MAX { needed.next_power_of_two() } else { needed };
    u16::try_from(window).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hand(fixed: Option<u16>, deliveries: u64) -> Hand {
        let mut hand = Hand::new(fixed);
        hand.drop_all();
        for number in 1..=deliveries {
            hand.push(Delivery::mock(number, "".into(), "".into(), false, Vec::new()));
        }
        hand
    }

    fn tags(hand: &Hand, numbers: &[u64]) -> Vec<Tag> {
        numbers.iter().map(|&number| Tag { session: hand.session, number }).collect()
    }

    #[test]
    fn what_was_taken_together_is_acknowledged_by_one_call_and_nothing_else_with_it() {
        let mut hand = hand(None, 6);
        assert_eq!(hand.take(10).len(), 6);
        let two = tags(&hand, &[2, 3]);
        assert_eq!(hand.settle(&two).1, [(2, false), (3, false)], "the first is still in hand");
        assert_eq!(hand.settle(&two).1, [], "it is settled once");
        let more = tags(&hand, &[1, 4, 6]);
        assert_eq!(hand.settle(&more).1, [(4, true), (6, false)]);
    }

    #[test]
    fn a_tag_of_a_lost_channel_means_nothing() {
        let mut hand = hand(None, 1);
        let old = tags(&hand, &[1]);
        hand.drop_all();
        hand.push(Delivery::mock(1, "".into(), "".into(), true, Vec::new()));
        assert_eq!(hand.settle(&old).1, []);
        assert_eq!(hand.unacknowledged.len(), 1);
    }

    #[test]
    fn a_shared_queue_is_left_to_others_when_nobody_waits() {
        let mut hand = hand(None, 3);
        assert_eq!(hand.window(), None);
        hand.wait(true);
        assert_eq!(hand.take(2).len(), 2);
        assert_eq!(hand.window(), Some(2));
        assert_eq!(hand.turn(1, Duration::ZERO), Turn::Resize);
        assert_eq!(hand.turn(2, Duration::ZERO), Turn::Stay);
        hand.take(200);
        assert_eq!(hand.window(), Some(256), "two are taken");
        assert_eq!(hand.turn(512, Duration::ZERO), Turn::Stay, "that will do");
        assert_eq!(hand.turn(1024, Duration::ZERO), Turn::Resize);
        hand.wait(false);
        assert_eq!(hand.turn(256, Duration::from_secs(60)), Turn::Stay);
        assert_eq!(hand.turn(256, Duration::ZERO), Turn::Pause);
    }

    #[test]
    fn a_queue_of_our_own_is_kept_until_another_takes_over() {
        let mut hand = hand(Some(32), 1);
        assert_eq!(hand.turn(32, Duration::ZERO), Turn::Stay);
        hand.step_back();
        assert_eq!(hand.turn(32, Duration::ZERO), Turn::StepBack);
        assert_eq!(hand.give_up_waiting().len(), 1);
        hand.stepped_back();
        assert_eq!(hand.turn(32, Duration::ZERO), Turn::Stay);
    }
}
