//! When waiting messages become a delivery. Pure: the caller brings counts and times.
//!
//! A delivery is due as soon as `batch_min` messages wait or the oldest has waited `linger`, and
//! takes everything that waits up to `batch_max` messages and `batch_bytes_max` bytes. A delivery
//! becomes a file; so that a steady stream does not make millions of them, each costs a token of
//! the shard, and without one the delivery grows until the next. A full one waits for nothing.

use std::time::Duration;

/// How deliveries are cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TakePolicy {
    /// Messages that make a delivery due at once (`BATCH_MIN`).
    pub batch_min: u64,
    /// The most messages of one delivery (`BATCH_MAX`).
    pub batch_max: u64,
    /// The most bytes of one delivery, at least one message (`BATCH_MAX_BYTES`).
    pub batch_bytes_max: u64,
    /// The longest that a message waits for others (`BATCH_LINGER_MS`).
    pub linger: Duration,
    /// Files per second and shard in the long run (`FILES_PER_SECOND`); 0 is no limit.
    pub files_per_second: f64,
}

impl TakePolicy {
    /// Files that a shard may make at once before the rate holds it back.
    pub const FILES_IN_HAND: u32 = 10;
}

/// What waits in a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Messages.
    pub messages: u64,
    /// Bytes of their lines.
    pub bytes: u64,
    /// How long the first of them has been seen waiting.
    pub waited: Duration,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Take a delivery; true if it spends a token.
    Take {
        /// Whether a token is spent: there was one.
        spend: bool,
    },
    /// Nothing is due: look again when more arrives, or after this long.
    Wait(Duration),
    /// Due, but without a token: look again after this long, when it may be full.
    Hold(Duration),
}

/// How often a shard is looked at when no wake-up comes: one may get lost.
pub const SLOW_POLL: Duration = Duration::from_millis(250);
/// How often a delivery that waits for its token is looked at: it may be full by then.
const HOLD_POLL: Duration = Duration::from_millis(5);

impl TakePolicy {
    /// Decides; `token_wait` is how long until a token is there, `None` if there is one.
    #[must_use]
    pub fn decide(&self, waiting: Waiting, token_wait: Option<Duration>) -> Decision {
        if waiting.messages == 0 {
            return Decision::Wait(SLOW_POLL);
        }
        if waiting.messages >= self.batch_max || waiting.bytes >= self.batch_bytes_max {
            return Decision::Take { spend: token_wait.is_none() };
        }
        if waiting.messages < self.batch_min && waiting.waited < self.linger {
            return Decision::Wait((self.linger - waiting.waited).min(SLOW_POLL));
        }
        match token_wait {
            None => Decision::Take { spend: true },
            Some(wait) => Decision::Hold(wait.min(HOLD_POLL)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: TakePolicy = TakePolicy {
        batch_min: 5,
        batch_max: 10_000,
        batch_bytes_max: 4 << 20,
        linger: Duration::from_secs(1),
        files_per_second: 1.0,
    };

    fn waiting(messages: u64, waited_ms: u64) -> Waiting {
        Waiting { messages, bytes: messages * 55, waited: Duration::from_millis(waited_ms) }
    }

    #[test]
    fn five_are_taken_as_soon_as_five_wait() {
        assert!(matches!(POLICY.decide(waiting(4, 0), None), Decision::Wait(_)));
        assert_eq!(POLICY.decide(waiting(5, 0), None), Decision::Take { spend: true });
    }

    #[test]
    fn one_is_taken_after_the_linger() {
        let almost = POLICY.decide(waiting(1, 999), None);
        assert_eq!(almost, Decision::Wait(Duration::from_millis(1)));
        assert_eq!(POLICY.decide(waiting(1, 1000), None), Decision::Take { spend: true });
    }

    #[test]
    fn without_a_token_only_a_full_delivery_goes() {
        let no_token = Some(Duration::from_secs(1));
        assert!(matches!(POLICY.decide(waiting(9_999, 5_000), no_token), Decision::Hold(_)));
        assert_eq!(POLICY.decide(waiting(10_000, 0), no_token), Decision::Take { spend: false });
        let large = Waiting { messages: 1, bytes: 4 << 20, waited: Duration::ZERO };
        assert_eq!(POLICY.decide(large, no_token), Decision::Take { spend: false });
    }

    proptest! {
        #[test]
        fn nothing_waits_longer_than_linger_and_token(
            messages in 1_u64..20_000,
            waited_ms in 0_u64..3_000,
            token_ms in prop::option::of(1_u64..2_000),
        ) {
            let token = token_ms.map(Duration::from_millis);
            match POLICY.decide(waiting(messages, waited_ms), token) {
                Decision::Take { spend } => prop_assert_eq!(spend, token.is_none()),
                Decision::Wait(pause) => {
                    let left = POLICY.linger.saturating_sub(Duration::from_millis(waited_ms));
                    prop_assert!(!pause.is_zero() && pause <= left);
                }
                Decision::Hold(pause) => prop_assert!(!pause.is_zero() && Some(pause) <= token),
            }
        }
    }
}
