//! The bells of the tasks, in every process that has the file open: `<state>/tasks.bells`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::service::bell::{Listener, Ringer};
use crate::store::Bells;

const WORK: u8 = 1;
const NEWS: u8 = 2;
const PLANS: u8 = 4;

/// Which bells to ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rings {
    pub(super) work: bool,
    pub(super) news: bool,
    pub(super) plans: bool,
}

impl Rings {
    const fn bits(self) -> u8 {
        let Self { work, news, plans } = self;
        (work as u8 * WORK) | (news as u8 * NEWS) | (plans as u8 * PLANS)
    }

    /// Those of another change as well.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            work: self.work || other.work,
            news: self.news || other.news,
            plans: self.plans || other.plans,
        }
    }
}

#[derive(Debug, Default)]
struct Heard {
    work: watch::Sender<u64>,
    news: watch::Sender<u64>,
    plans: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct Tower {
    heard: Arc<Heard>,
    ringer: Ringer,
    _listener: Listener,
}

impl Tower {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let folder = dir.join("tasks.bells");
        let heard = Arc::<Heard>::default();
        let hears = Arc::clone(&heard);
        let listener = Listener::start(&folder, 1, move |datagram| {
            let bits = datagram.first().copied().unwrap_or(0);
            let Heard { work, news, plans } = hears.as_ref();
            for (bit, bell) in [(WORK, work), (NEWS, news), (PLANS, plans)] {
                if bits & bit != 0 {
                    bell.send_modify(|rings| *rings = rings.wrapping_add(1));
                }
            }
        })?;
        Ok(Self { heard, ringer: Ringer::new(&folder)?, _listener: listener })
    }

    pub(super) fn ring(&self, rings: Rings) {
        let bits = rings.bits();
        if bits != 0 {
            self.ringer.ring(&[bits]);
        }
    }

    pub(super) fn bells(&self) -> Bells {
        let Heard { work, news, plans } = self.heard.as_ref();
        Bells { work: work.subscribe(), news: news.subscribe(), plans: plans.subscribe() }
    }
}
