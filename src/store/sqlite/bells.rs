//! The bells of the tasks, in every process that has the file open: `<state>/tasks.bells`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::service::bell::{Listener, Ringer};
use crate::store::Bells;

const WORK: u8 = 1;
const NEWS: u8 = 2;

/// Which bells to ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rings {
    pub(super) work: bool,
    pub(super) news: bool,
}

#[derive(Debug)]
struct Heard {
    work: watch::Sender<u64>,
    news: watch::Sender<u64>,
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
        let heard = Arc::new(Heard { work: watch::Sender::new(0), news: watch::Sender::new(0) });
        let hears = Arc::clone(&heard);
        let listener = Listener::start(&folder, 1, move |datagram| {
            let bits = datagram.first().copied().unwrap_or(0);
            for (bit, bell) in [(WORK, &hears.work), (NEWS, &hears.news)] {
                if bits & bit != 0 {
                    bell.send_modify(|rings| *rings = rings.wrapping_add(1));
                }
            }
        })?;
        Ok(Self { heard, ringer: Ringer::new(&folder)?, _listener: listener })
    }

    pub(super) fn ring(&self, rings: Rings) {
        let bits = if rings.work { WORK } else { 0 } | if rings.news { NEWS } else { 0 };
        if bits != 0 {
            self.ringer.ring(&[bits]);
        }
    }

    pub(super) fn bells(&self) -> Bells {
        Bells { work: self.heard.work.subscribe(), news: self.heard.news.subscribe() }
    }
}
