//! What the tasks of a test are, and what must come of each.
//!
//! | work | its kind | ends |
//! |---|---|---|
//! | `echo/N` | `echo`, N bytes | with its payload |
//! | `factorial/N` | `POST /factorial` | with N! |
//! | `slow/MS` | a program that takes MS milliseconds | with `slow ID ATTEMPT` |
//! | `moody/0` | a program that fails the first time it runs | with `moody ID ATTEMPT` |
//! | `large/N` | a program that prints `ID` and a newline again and again | with N bytes of that |
//! | `poison/F` | a program that always fails, one way or another | failed, after F failures |
//! | `stuck/F` | a program that never ends, with a timeout | failed, after F failures |
//!
//! The programs are given to the workers by whoever runs the test.

use std::fmt;

use crate::random::SplitMix64;

/// Others than the tester's kills may not make a task fail for good.
const FAILURES_MAX: u64 = 1000;

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Echo,
    Factorial,
    Slow,
    Moody,
    Large,
    Poison,
    Stuck,
}

/// What one task is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) kind: Kind,
    /// Bytes, input, milliseconds or failures, as the kind has it.
    pub(crate) size: u64,
}

/// How a task must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With this result.
    Bytes(String),
    /// With these words and its attempt, which proves that no other one has had its way.
    Signed(String, u64),
    /// With the factorial of this.
    Factorial(u64),
    /// Failed, after so many failures.
    Failed(u64),
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Echo,
        Self::Factorial,
        Self::Slow,
        Self::Moody,
        Self::Large,
        Self::Poison,
        Self::Stuck,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Factorial => "factorial",
            Self::Slow => "slow",
            Self::Moody => "moody",
            Self::Large => "large",
            Self::Poison => "poison",
            Self::Stuck => "stuck",
        }
    }
}

impl Work {
    /// Draws what an entry of `POST /tasks` does: mostly what is over at once, since processes
    /// that are killed all the time do not get on with much else.
    pub(crate) fn draw(random: &mut SplitMix64) -> Self {
        let (kind, size) = match random.below(1000) {
            0..=14 => (Kind::Slow, random.between(20, 600)),
            15..=17 => (Kind::Slow, random.between(1000, 3000)),
            18..=25 => (Kind::Moody, 0),
            26..=29 => (Kind::Large, random.between(1, 3_000_000)),
            30..=33 => (Kind::Poison, random.between(1, 3)),
            34..=35 => (Kind::Stuck, 1),
            36..=40 => (Kind::Echo, random.between(1000, 60_000)),
            _ => (Kind::Echo, random.between(0, 200)),
        };
        Self { kind, size }
    }

    /// Draws an input: small ones come again and again, large ones rarely.
    pub(crate) fn draw_factorial(random: &mut SplitMix64) -> Self {
        let size = match random.below(100) {
            0..=4 => random.between(15_000, 30_000),
            5..=59 => random.between(0, 60),
            _ => random.between(0, 3000),
        };
        Self { kind: Kind::Factorial, size }
    }

    /// Reads what [`fmt::Display`] writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (word, size) = text.split_once('/')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
        Some(Self { kind, size: size.parse().ok()? })
    }

    /// The entry that submits it.
    pub(crate) fn entry(self, id: &str) -> String {
        let Self { kind, size } = self;
        let payload = match kind {
            Kind::Echo => pattern(id, size),
            // The shell's `sleep` takes seconds.
            Kind::Slow => format!("{}.{:03}\\n", size / 1000, size % 1000),
            _ => format!("{size}\\n"),
        };
        let failures_max = match kind {
            Kind::Poison | Kind::Stuck => size,
            _ => FAILURES_MAX,
        };
        let kind = kind.word();
        let rest = format!(r#""payload":"{payload}","failures_max":{failures_max}}}"#);
        format!(r#"{{"id":"{id}","kind":"{kind}",{rest}"#)
    }

    /// How task `id` must end, if its last attempt was `attempt`.
    pub(crate) fn end(self, id: &str, attempt: u64) -> End {
        match self.kind {
            Kind::Echo => End::Bytes(pattern(id, self.size)),
            Kind::Large => End::Bytes(pattern(&format!("{id}\n"), self.size)),
            Kind::Factorial => End::Factorial(self.size),
            Kind::Slow | Kind::Moody => End::Signed(format!("{} {id}", self.kind.word()), attempt),
            Kind::Poison | Kind::Stuck => End::Failed(self.size),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.word(), self.size)
    }
}

/// `text` again and again, `bytes` bytes of it.
fn pattern(text: &str, bytes: u64) -> String {
    text.chars().cycle().take(usize::try_from(bytes).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::{End, Kind, Work};
    use crate::json;
    use crate::random::SplitMix64;

    #[test]
    fn every_work_is_drawn_and_read_as_it_is_written() {
        let mut random = SplitMix64::new(1, 0);
        let mut seen = Vec::new();
        for _ in 0..20_000 {
            for work in [Work::draw(&mut random), Work::draw_factorial(&mut random)] {
                assert_eq!(Work::parse(&work.to_string()), Some(work));
                json::members(&work.entry("ab-1"), &mut |_, _| ()).unwrap();
                if !seen.contains(&work.kind) {
                    seen.push(work.kind);
                }
            }
        }
        assert_eq!(seen.len(), Kind::ALL.len());
        for text in ["echo", "echo/x", "ecko/1", "/1"] {
            assert_eq!(Work::parse(text), None);
        }
    }

    #[test]
    fn an_end_is_that_of_its_task_and_attempt() {
        let end = |text: &str| Work::parse(text).unwrap().end("ab", 7);
        assert_eq!(end("echo/5"), End::Bytes("ababa".into()));
        assert_eq!(end("large/5"), End::Bytes("ab\nab".into()));
        assert_eq!(end("slow/5"), End::Signed("slow ab".into(), 7));
        assert_eq!(end("poison/3"), End::Failed(3));
        assert_eq!(end("factorial/5"), End::Factorial(5));
    }
}
