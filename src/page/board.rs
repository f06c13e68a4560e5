//! Who looks at what, and when it is drawn again.
//!
//! What a browser looks at is a text, `view?focus`. One task draws each view and focus that
//! somebody looks at, and ends when nobody does: at once when something has changed after a quiet
//! time, and at most every [`REDRAWN_EVERY`] while things keep changing. Who is slow gets what
//! stands when he is ready, and no queue of what stood before. However many different things are
//! looked at, [`DRAWN_AT_ONCE`] are drawn at a time.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::view::{Focus, Fragment, Sources, View};
use crate::service::{Lifecycle, held};
use crate::state::State;
use crate::store::{Bells, Store};

/// How often the same is drawn, at most.
const REDRAWN_EVERY: Duration = Duration::from_millis(150);
/// How many are drawn at a time, at most.
const DRAWN_AT_ONCE: usize = 4;
/// How often it is looked whether the state environment has changed.
const STATE_LOOKED_EVERY: Duration = Duration::from_millis(50);
/// How often a view is drawn whose bell has not rung: a ring may be lost.
const POLL: Duration = Duration::from_secs(1);
/// The longest text that names what is looked at, in bytes.
const LOOKED_AT_BYTES_MAX: usize = 1024;

/// A fragment as it is sent, and in which drawing it came to be as it is.
#[derive(Debug, Clone)]
struct Piece {
    id: &'static str,
    drawing: u64,
    frame: Utf8Bytes,
}

/// What stands now of one text, for all who look at it.
#[derive(Debug, Clone, Default)]
struct Drawn {
    drawing: u64,
    pieces: Arc<Vec<Piece>>,
}

/// A view, and what of it is looked at.
type Subject = (&'static str, Focus);

/// What stands of it, for all who look at it.
struct Shown {
    /// What the first of them calls it, as in its frames.
    text: Arc<str>,
    drawn: watch::Sender<Drawn>,
}

/// The board.
pub struct Board {
    views: Vec<Arc<dyn View>>,
    state: State,
    store: Arc<dyn Store>,
    life: Lifecycle,
    shown: Mutex<HashMap<Subject, Shown>>,
    desks: Semaphore,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.views.iter().map(|view| view.name()).collect();
        f.debug_struct("Board").field("views", &names).finish_non_exhaustive()
    }
}

/// What one browser looks at.
#[derive(Debug)]
pub struct Look {
    drawn: watch::Receiver<Drawn>,
    /// What it calls that, if others call it otherwise.
    text: Option<String>,
    /// The last drawing of which all was taken.
    seen: u64,
    /// What is to be sent yet, the first at the end.
    waiting: Vec<Utf8Bytes>,
}

impl Look {
    /// Waits for the next frame that differs from what was sent before. Dropped before it is ready,
    /// it has lost nothing. `None` when the board has stopped.
    pub async fn next(&mut self) -> Option<Utf8Bytes> {
        loop {
            if let Some(frame) = self.waiting.pop() {
                return Some(frame);
            }
            self.drawn.changed().await.ok()?;
            let drawn = self.drawn.borrow_and_update().clone();
            let news = drawn.pieces.iter().rev().filter(|piece| piece.drawing > self.seen);
            let text = self.text.as_deref();
            self.waiting.extend(news.map(|piece| called(text, &piece.frame)));
            self.seen = drawn.drawing;
        }
    }
}

/// A frame under the name that its receiver has for what it looks at.
fn called(text: Option<&str>, frame: &Utf8Bytes) -> Utf8Bytes {
    match text.zip(frame.split_once('#')) {
        Some((text, (_, piece))) => format!("{text}#{piece}").into(),
        None => frame.clone(),
    }
}

impl Board {
    /// A board of these views. It draws while somebody looks, and until `life` stops.
    #[must_use]
    pub fn new(
        views: Vec<Arc<dyn View>>,
        state: State,
        store: Arc<dyn Store>,
        life: Lifecycle,
    ) -> Self {
        let desks = Semaphore::new(DRAWN_AT_ONCE);
        Self { views, state, store, life, shown: Mutex::default(), desks }
    }

    /// Begins to look at `view?focus`; `None` if there is no such view. Needs a tokio runtime.
    #[must_use]
    pub fn look(self: &Arc<Self>, text: &str) -> Option<Look> {
        if text.len() > LOOKED_AT_BYTES_MAX || text.contains(['#', '\n']) {
            return None;
        }
        let (name, focus) = text.split_once('?').unwrap_or((text, ""));
        let view = Arc::clone(self.views.iter().find(|view| view.name() == name)?);
        let focus = Focus::read(focus).only(view.choices());
        let subject = (view.name(), focus);
        let mut all = held(&self.shown);
        if let Some(shown) = all.get(&subject) {
            let mut drawn = shown.drawn.subscribe();
            // What stands already is news to whoever comes.
            drawn.mark_changed();
            let other = Some(text).filter(|text| *text != &*shown.text).map(str::to_owned);
            return Some(Look { drawn, text: other, seen: 0, waiting: Vec::new() });
        }
        let (text, sender) = (Arc::from(text), watch::Sender::new(Drawn::default()));
        let drawn = sender.subscribe();
        let shown = Shown { text: Arc::clone(&text), drawn: sender.clone() };
        all.insert(subject.clone(), shown);
        let pulse = Pulse::new(self, view.as_ref());
        let drawing = Drawing { board: Arc::clone(self), view, subject, text, sender, pulse };
        tokio::spawn(drawing.run());
        Some(Look { drawn, text: None, seen: 0, waiting: Vec::new() })
    }
}

/// Draws one subject as long as somebody looks at it.
struct Drawing {
    board: Arc<Board>,
    view: Arc<dyn View>,
    subject: Subject,
    text: Arc<str>,
    sender: watch::Sender<Drawn>,
    pulse: Pulse,
}

impl Drawing {
    async fn run(mut self) {
        let (board, sender) = (Arc::clone(&self.board), self.sender.clone());
        // The desks are never closed.
        while let Ok(desk) = board.desks.acquire().await {
            // Whoever asked may have gone on to something else meanwhile.
            if self.is_left() {
                return;
            }
            self.pulse.mark();
            let began_at = Instant::now();
            let fragments = self.view.draw(&self.subject.1).await;
            drop(desk);
            self.publish(fragments);
            tokio::select! {
                () = board.life.stopping() => break,
                () = sender.closed() => if self.is_left() { return },
                () = self.pulse.beat() => {}
            }
            sleep_until(began_at + REDRAWN_EVERY).await;
        }
        // Those who look learn of the end by it.
        held(&board.shown).remove(&self.subject);
    }

    /// Whether nobody looks any more; then nobody will find it either.
    fn is_left(&self) -> bool {
        let mut all = held(&self.board.shown);
        let is_left = self.sender.receiver_count() == 0;
        if is_left {
            all.remove(&self.subject);
        }
        is_left
    }

    /// Passes on what differs from what stood before.
    fn publish(&self, fragments: Vec<Fragment>) {
        self.sender.send_if_modified(|drawn| {
            let drawing = drawn.drawing + 1;
            let mut differs = false;
            let pieces = fragments.into_iter().map(|Fragment { id, html }| {
                let frame = format!("{}#{id}\n{html}", self.text);
                let before = drawn.pieces.iter().find(|piece| piece.id == id);
                match before.filter(|piece| piece.frame.as_str() == frame) {
                    Some(same) => same.clone(),
                    None => {
                        differs = true;
                        Piece { id, drawing, frame: frame.into() }
                    }
                }
            });
            let pieces = Arc::new(pieces.collect());
            if differs {
                *drawn = Drawn { drawing, pieces };
            }
            differs
        });
    }
}

/// Tells when what a view shows may have changed.
struct Pulse {
    sources: Sources,
    state: State,
    change: usize,
    bells: Bells,
    /// That of the view itself.
    bell: Option<watch::Receiver<u64>>,
}

impl Pulse {
    fn new(board: &Board, view: &dyn View) -> Self {
        let (state, bells) = (board.state.clone(), board.store.bells());
        Self { sources: view.sources(), state, change: 0, bells, bell: view.bell() }
    }

    /// What happens from now on is news.
    fn mark(&mut self) {
        self.change = self.state.last_change();
        self.bells.work.mark_unchanged();
        self.bells.news.mark_unchanged();
        self.bells.plans.mark_unchanged();
        self.bell.as_mut().map(watch::Receiver::mark_unchanged);
    }

    /// Waits for the next.
    async fn beat(&mut self) {
        let Self { sources, state, change, bells, bell } = self;
        let of_state = async {
            while state.last_change() == *change {
                sleep(STATE_LOOKED_EVERY).await;
            }
        };
        let of_store = async {
            tokio::select! {
                rung = bells.work.changed() => if rung.is_err() { sleep(POLL).await },
                rung = bells.news.changed() => if rung.is_err() { sleep(POLL).await },
                rung = bells.plans.changed() => if rung.is_err() { sleep(POLL).await },
                () = sleep(POLL) => {}
            }
        };
        let of_view = async {
            let rung = match bell {
                Some(bell) => bell.changed().await.is_ok(),
                None => false,
            };
            if !rung {
                std::future::pending::<()>().await;
            }
        };
        let every = sources.every;
        let of_time = async { sleep(every.unwrap_or_default()).await };
        tokio::select! {
            () = of_state, if sources.state => {}
            () = of_store, if sources.store => {}
            () = of_view => {}
            () = of_time, if every.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use tempfile::TempDir;

    use super::*;
    use crate::state::StateOptions;
    use crate::store::sqlite::SqliteStore;

    /// Shows how often it was drawn, beside what never changes.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl View for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }

        fn sources(&self) -> Sources {
            Sources { state: true, ..Sources::default() }
        }

        fn choices(&self) -> &'static [&'static str] {
            &["still", "more"]
        }

        fn draw<'a>(&'a self, focus: &'a Focus) -> BoxFuture<'a, Vec<Fragment>> {
            let times = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            let still = focus.get("still").unwrap_or_default().to_owned();
            let fragment = |id, html| Fragment { id, html };
            async move { vec![fragment("still", still), fragment("times", times.to_string())] }
                .boxed()
        }
    }

    struct Rig {
        board: Arc<Board>,
        view: Arc<Counting>,
        state: State,
        life: Lifecycle,
        _dir: TempDir,
    }

    fn rig() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(StateOptions {
            dir: dir.path().to_owned(),
            map_bytes: 16 << 20,
            low_water_bytes: None,
            on_poison: Box::new(|_| {}),
        });
        let (state, life) = (state.unwrap(), Lifecycle::new());
        let store = Arc::new(SqliteStore::open(dir.path()).unwrap());
        let view = Arc::new(Counting::default());
        let views: Vec<Arc<dyn View>> = vec![Arc::clone(&view) as _];
        let board = Arc::new(Board::new(views, state.clone(), store, life.clone()));
        Rig { board, view, state, life, _dir: dir }
    }

    impl Rig {
        fn change(&self) {
            let changed = self
                .state
                .commit(|txn| Ok(txn.tables.meta.put(&mut txn.txn, b"test", b"changed")?));
            changed.unwrap();
        }
    }

    async fn next(look: &mut Look) -> String {
        let next = tokio::time::timeout(Duration::from_secs(30), look.next()).await;
        next.unwrap().unwrap().as_str().to_owned()
    }

    #[tokio::test]
    async fn all_who_look_get_one_drawing_and_then_what_differs() {
        let rig = rig();
        let mut first = rig.board.look("counting?still=%3C").unwrap();
        assert_eq!(next(&mut first).await, "counting?still=%3C#still\n<");
        assert_eq!(next(&mut first).await, "counting?still=%3C#times\n1");
        let mut second = rig.board.look("counting?still=%3C").unwrap();
        assert_eq!(next(&mut second).await, "counting?still=%3C#still\n<");
        assert_eq!(next(&mut second).await, "counting?still=%3C#times\n1");
        rig.change();
        assert_eq!(next(&mut first).await, "counting?still=%3C#times\n2");
        assert_eq!(next(&mut second).await, "counting?still=%3C#times\n2");
        assert_eq!(rig.view.0.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn who_is_slow_gets_what_stands_and_nothing_that_stood_before() {
        let rig = rig();
        let (mut slow, mut quick) =
            (rig.board.look("counting").unwrap(), rig.board.look("counting").unwrap());
        for _ in 0..2 {
            next(&mut quick).await;
        }
        for times in 2..5 {
            rig.change();
            assert_eq!(next(&mut quick).await, format!("counting#times\n{times}"));
        }
        assert_eq!(next(&mut slow).await, "counting#still\n");
        assert_eq!(next(&mut slow).await, "counting#times\n4");
        assert!(slow.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn nothing_is_drawn_for_nobody_and_all_learn_of_the_end() {
        let rig = rig();
        let mut look = rig.board.look("counting").unwrap();
        next(&mut look).await;
        drop(look);
        while !held(&rig.board.shown).is_empty() {
            tokio::task::yield_now().await;
        }
        let mut look = rig.board.look("counting").unwrap();
        for _ in 0..2 {
            next(&mut look).await;
        }
        rig.life.stop();
        assert!(look.next().await.is_none());
    }

    #[tokio::test]
    async fn the_same_by_another_name_is_drawn_once_and_comes_under_that_name() {
        let rig = rig();
        let mut first = rig.board.look("counting?still=a&more=b").unwrap();
        assert_eq!(next(&mut first).await, "counting?still=a&more=b#still\na");
        for other in ["counting?more=b&still=%61", "counting?still=a&x=1&more=b"] {
            let mut look = rig.board.look(other).unwrap();
            assert_eq!(next(&mut look).await, format!("{other}#still\na"));
            assert_eq!(next(&mut look).await, format!("{other}#times\n1"));
        }
    }

    #[tokio::test]
    async fn what_is_left_before_its_turn_is_not_drawn() {
        let rig = rig();
        let desks = rig.board.desks.acquire_many(4).await.unwrap();
        for place in 0..100 {
            drop(rig.board.look(&format!("counting?still={place}")).unwrap());
        }
        drop(desks);
        while !held(&rig.board.shown).is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.view.0.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn what_is_no_view_is_not_looked_at() {
        let rig = rig();
        let long = format!("counting?{}", "a".repeat(LOOKED_AT_BYTES_MAX));
        for wrong in ["", "other", "counting#x", "counting?a\nb", long.as_str()] {
            assert!(rig.board.look(wrong).is_none(), "{wrong}");
        }
    }
}
