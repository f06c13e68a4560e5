//! What has come together, sorted by what the store is asked. Pure.
//!
//! Signs of life come first, since they say what ran before it ended; then parts, then the ends,
//! each in their order.

use crate::broker::pipes::{Heard, Said, Tag};
use crate::store::{Millis, Settlement};
use crate::task::{Attempt, Beat, Name, Outcome, PART_BYTES, ResultHead, TaskId, WorkerId};

/// A part of a result.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) id: TaskId,
    pub(super) attempt: Option<Attempt>,
    /// Who says so.
    pub(super) endpoint: Option<Name>,
    pub(super) index: u32,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// The last sign of life of each worker.
    pub(super) beats: Vec<(WorkerId, Vec<Beat>)>,
    pub(super) parts: Vec<Part>,
    pub(super) ended: Vec<(Tag, Settlement)>,
    pub(super) retired: Vec<WorkerId>,
    pub(super) probes: Vec<(WorkerId, u64)>,
    /// What makes no sense: who said it, and why.
    pub(super) unclear: Vec<(Option<Name>, String)>,
    /// Everything but the ends.
    pub(super) tags: Vec<Tag>,
}

impl Sorted {
    pub(super) fn of(heard: Vec<Heard>, now_ms: Millis) -> Self {
        let mut sorted = Self::default();
        for Heard { tag, endpoint, said } in heard {
            match said {
                Said::Ended { id, attempt, outcome, began_at_ms, at_ms } => {
                    let attempt = Some(attempt);
                    let at_ms = when(&outcome, at_ms, now_ms);
                    let began_at_ms = began_at_ms.map(|began_at_ms| began_at_ms.min(at_ms));
                    let settlement =
                        Settlement { id, attempt, endpoint, outcome, began_at_ms, at_ms };
                    sorted.ended.push((tag, settlement));
                    continue;
                }
                Said::Foreign { id, body } => {
                    sorted.foreign(tag, id, endpoint, &body, now_ms);
                    continue;
                }
                Said::Part { id, attempt, index, bytes } => {
                    let attempt = Some(attempt);
                    sorted.parts.push(Part { id, attempt, endpoint, index, bytes });
                }
                Said::Beat { worker, running } => {
                    sorted.beats.retain(|(other, _)| *other != worker);
                    sorted.beats.push((worker, running));
                }
                Said::Retired { worker } => sorted.retired.push(worker),
                Said::Probe { by, number } => sorted.probes.push((by, number)),
                Said::Reply { .. } => {
                    let reason = "it is the answer to somebody else's task".to_owned();
                    sorted.unclear.push((endpoint, reason));
                }
                Said::Unclear { reason } => sorted.unclear.push((endpoint, reason)),
            }
            sorted.tags.push(tag);
        }
        sorted
    }

    /// A whole result in one message, from a worker that knows of no attempts.
    fn foreign(
        &mut self,
        tag: Tag,
        id: TaskId,
        endpoint: Option<Name>,
        body: &[u8],
        now_ms: Millis,
    ) {
        let head: Vec<u8> = body.iter().take(ResultHead::BYTES_MAX).copied().collect();
        let result = ResultHead { bytes: body.len() as u64, head };
        if !result.is_whole() {
            for (index, part) in (0..).zip(body.chunks(PART_BYTES)) {
                let (endpoint, bytes) = (endpoint.clone(), part.to_vec());
                self.parts.push(Part { id, attempt: None, endpoint, index, bytes });
            }
        }
        let outcome = Outcome::Finished(result);
        let settlement =
            Settlement { id, attempt: None, endpoint, outcome, began_at_ms: None, at_ms: now_ms };
        self.ended.push((tag, settlement));
    }
}

/// When an attempt ended. A worker's clock may be wrong: nothing has ended in the future, and the
/// pause after a failure counts from now.
fn when(outcome: &Outcome, said_ms: Millis, now_ms: Millis) -> Millis {
    match outcome {
        Outcome::Failed { is_final: false, .. } | Outcome::Died { .. } => now_ms,
        _ => said_ms.min(now_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(number: u64, said: Said) -> Heard {
        let endpoint = Some("lab".parse().unwrap());
        Heard { tag: Tag { session: 1, number }, endpoint, said }
    }

    #[test]
    fn of_the_signs_of_life_the_last_of_each_worker_counts() {
        let (one, two) = (WorkerId::new(), WorkerId::new());
        let beat = |progress| Beat { id: TaskId::new(), attempt: 1, progress };
        let beats = [(one, beat(1)), (two, beat(2)), (one, beat(3))];
        let said = beats.map(|(worker, beat)| Said::Beat { worker, running: vec![beat] });
        let heard = (1..).zip(said).map(|(number, said)| heard(number, said)).collect();
        let sorted = Sorted::of(heard, 0);
        let expected = [beats[1], beats[2]].map(|(worker, beat)| (worker, vec![beat]));
        assert_eq!(sorted.beats, expected);
        assert_eq!(sorted.tags.len(), 3);
    }

    #[test]
    fn a_worker_whose_clock_is_wrong_shifts_no_pause_and_ends_nothing_in_the_future() {
        let failed = Outcome::Failed { reason: "no".to_owned(), is_final: false };
        let finished = Outcome::Finished(ResultHead { bytes: 1, head: b"7".to_vec() });
        for (outcome, began, at, expected) in [
            (finished.clone(), 40, 50, (Some(40), 50)),
            (finished, 140, 150, (Some(100), 100)),
            (failed.clone(), 40, 50, (Some(40), 100)),
            (failed, 140, 150, (Some(100), 100)),
        ] {
            let (id, began_at_ms) = (TaskId::new(), Some(began));
            let said = Said::Ended { id, attempt: 1, outcome, began_at_ms, at_ms: at };
            let sorted = Sorted::of(vec![heard(1, said)], 100);
            let settlement = &sorted.ended[0].1;
            assert_eq!((settlement.began_at_ms, settlement.at_ms), expected);
        }
    }

    #[test]
    fn a_foreign_result_is_split_into_parts_unless_it_is_small() {
        let (small, large) = (TaskId::new(), TaskId::new());
        let bytes = |count: usize| vec![b'7'; count];
        let sorted = Sorted::of(
            vec![
                heard(1, Said::Foreign { id: small, body: bytes(1024) }),
                heard(2, Said::Foreign { id: large, body: bytes(PART_BYTES + 1) }),
            ],
            9,
        );
        let parts: Vec<_> = sorted.parts.iter().map(|p| (p.id, p.index, p.bytes.len())).collect();
        assert_eq!(parts, [(large, 0, PART_BYTES), (large, 1, 1)]);
        let heads: Vec<_> = sorted.ended.iter().map(|(_, end)| end.outcome.clone()).collect();
        let head = |bytes| Outcome::Finished(ResultHead { bytes, head: vec![b'7'; 1024] });
        assert_eq!(heads, [head(1024), head(PART_BYTES as u64 + 1)]);
        assert!(sorted.tags.is_empty(), "what has ended is acknowledged when it is settled");
    }
}
