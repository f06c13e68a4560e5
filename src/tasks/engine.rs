//! The engine: takes jobs from a supply, runs each in a slot, and delivers what came of it.
//!
//! Slots are threads, since work computes or blocks; one is made when all others are busy. Four
//! loops feed and empty them:
//!
//! | loop | does |
//! |---|---|
//! | feed | takes jobs while there is room; gives back what waits behind long ones |
//! | settle | delivers what ended, grouped; by way of the spool, if the supply is remote |
//! | sign | says every [`BEAT_EVERY`] what runs, and stops what is not wanted any more |
//! | watch | stops what has run too long |

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use tokio::sync::mpsc;

use super::deliver::{self, Deliverer};
use super::hand::Hand;
use super::handler::{Ended, Handler, Job, Run};
use super::product;
use super::spool::{Left, Spool};
use super::supply::{Done, Supply};
use super::window::JOBS_MAX;
use crate::clock::Clock;
use crate::service::{Lifecycle, jittered, printable};
use crate::store::{Millis, TOO_LATE};
use crate::task::{Name, Outcome};

/// How often a worker signs while it has jobs in hand.
pub const BEAT_EVERY: Duration = Duration::from_millis(500);
/// How long news may wait for more.
const NEWS_GAP: Duration = Duration::from_millis(50);
/// How long a job may wait behind others before it is given back.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked for runs that take too long and jobs that wait too long.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// The pause after a supply could not be asked; doubled up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// What an engine is made of.
#[derive(Debug)]
pub struct Engine {
    /// Where jobs come from and results go.
    pub supply: Arc<dyn Supply>,
    /// Who runs which kind.
    pub handlers: HashMap<Name, Arc<dyn Handler>>,
    /// How many jobs run at once.
    pub slots: usize,
    /// Where results are kept on their way.
    pub spool: Arc<Spool>,
    /// What dead processes have left there.
    pub left: Vec<Left>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Begins and ends it.
    pub life: Lifecycle,
    /// How long what runs may go on when the process stops.
    pub finish_within: Duration,
}

/// What the loops and the slots share.
#[derive(Debug, Clone)]
struct Shared {
    supply: Arc<dyn Supply>,
    handlers: Arc<HashMap<Name, Arc<dyn Handler>>>,
    hand: Arc<Hand>,
    spool: Arc<Spool>,
    clock: Arc<dyn Clock>,
    life: Lifecycle,
}

/// The threads that run jobs: as many as there were jobs at once, at most.
struct Slots {
    slots_max: usize,
    shared: Shared,
    queue: Receiver<Job>,
    endings: mpsc::Sender<Done>,
    threads: Vec<JoinHandle<()>>,
}

impl Slots {
    /// There are so many jobs in hand.
    fn grow(&mut self, jobs: usize) -> std::io::Result<()> {
        for number in self.threads.len()..jobs.min(self.slots_max) {
            let Self { shared, queue, endings, .. } = &*self;
            let (shared, queue, endings) = (shared.clone(), queue.clone(), endings.clone());
            let slot = std::thread::Builder::new().name(format!("task-{number}"));
            self.threads.push(slot.spawn(move || shared.slot(number, &queue, &endings))?);
        }
        Ok(())
    }
}

impl Engine {
    /// Runs tasks until the process stops; then gives back what has not ended in time.
    ///
    /// # Errors
    /// A thread can't be started.
    pub async fn run(self) -> std::io::Result<()> {
        let hand = Arc::new(Hand::new(self.slots));
        let shared = Shared {
            supply: Arc::clone(&self.supply),
            handlers: Arc::new(self.handlers),
            hand: Arc::clone(&hand),
            spool: Arc::clone(&self.spool),
            clock: self.clock,
            life: self.life.clone(),
        };
        let deliverer = Deliverer {
            supply: Arc::clone(&self.supply),
            spool: self.spool,
            hand: Arc::clone(&hand),
            life: self.life.clone(),
            give_up_within: self.finish_within,
        };
        let now_ms = shared.now_ms();
        deliverer.leftovers(self.left, now_ms).await;
        let (jobs, queue) = bounded(JOBS_MAX);
        let (endings, ended) = mpsc::channel(JOBS_MAX);
        let mut slots = Slots {
            slots_max: self.slots,
            shared: shared.clone(),
            queue: queue.clone(),
            endings: endings.clone(),
            threads: Vec::new(),
        };
        slots.grow(1)?;
        let signing = tokio::spawn(sign(shared.clone()));
        let watching = tokio::spawn(shared.clone().watch(queue, endings));
        let settling = tokio::spawn(deliver::settle(deliverer, ended));
        shared.feed(&jobs, &mut slots).await;
        // The slots end what they have begun; what waits, they give back.
        let threads = std::mem::take(&mut slots.threads);
        drop((jobs, slots));
        let slots = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|slot| drop(slot.join()));
        });
        tokio::pin!(slots);
        if tokio::time::timeout(self.finish_within, &mut slots).await.is_err() {
            tracing::info!("what still runs is stopped, and given back");
            hand.stop_all();
            let _panicked = slots.await;
        }
        watching.abort();
        let _ended = watching.await;
        let _panicked = settling.await;
        signing.abort();
        // Whoever opens the spool next is to find that nobody holds it.
        let _ended = signing.await;
        self.supply.close().await;
        Ok(())
    }
}

impl Shared {
    /// Takes jobs until the process stops.
    async fn feed(&self, jobs: &Sender<Job>, slots: &mut Slots) {
        let (mut pause, mut told) = (PAUSE, false);
        loop {
            let room = self.hand.room();
            if room == 0 {
                tokio::select! {
                    () = self.hand.freed.notified() => continue,
                    () = self.life.stopping() => return,
                }
            }
            let next = tokio::select! {
                next = self.supply.next(room) => next,
                () = self.life.stopping() => return,
            };
            match next {
                Ok(taken) => {
                    (pause, told) = (PAUSE, false);
                    let now = self.clock.monotonic();
                    for job in taken {
                        if !self.hand.take((job.id, job.attempt), now) {
                            tracing::warn!(task = %job.id, job.attempt, "it is in hand already");
                            continue;
                        }
                        // There is room for as many as are ever in hand.
                        let _full_or_gone = jobs.try_send(job);
                    }
                    if let Err(error) = slots.grow(self.hand.len()) {
                        tracing::warn!(%error, "no more tasks can run at once");
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "no tasks can be taken now; trying again");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(jittered(pause)) => {}
                        () = self.life.stopping() => return,
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// A thread that runs one job after the other.
    fn slot(&self, number: usize, queue: &Receiver<Job>, endings: &mpsc::Sender<Done>) {
        while let Ok(job) = queue.recv() {
            let done = match self.not_to_run(&job) {
                Some(outcome) => Some(unrun(&job, outcome, self.now_ms())),
                None => self.run(number, &job),
            };
            match done {
                Some(done) => {
                    let _ended = endings.blocking_send(done);
                }
                None => self.hand.remove([(job.id, job.attempt)]),
            }
        }
    }

    /// What is said of a job that is not to run.
    fn not_to_run(&self, job: &Job) -> Option<Outcome> {
        if self.life.is_stopping() {
            return Some(Outcome::Released);
        }
        let is_late = job.expires_at_ms.is_some_and(|at| at < self.now_ms());
        is_late.then(|| Outcome::Missed { reason: TOO_LATE.to_owned() })
    }

    fn now_ms(&self) -> Millis {
        self.clock.wall().timestamp_millis()
    }

    /// Runs a job; what came of it, if anybody wants it.
    fn run(&self, slot: usize, job: &Job) -> Option<Done> {
        let key = (job.id, job.attempt);
        let result_path = self.spool.result_path(job.id, job.attempt);
        let handler = self.handlers.get(&job.kind);
        let timeout = handler.map_or(Duration::MAX, |handler| handler.timeout(job));
        let run = Run::new(&result_path, timeout);
        if !self.hand.begin(key, run.clone(), self.clock.monotonic()) {
            return None;
        }
        let began_at_ms = self.now_ms();
        self.spool.note_running(slot, Some(key));
        let ended = match handler {
            None => Ended::Failed {
                reason: format!("this worker does not know how to run `{}`", job.kind),
                // Another worker may know.
                is_final: false,
            },
            Some(handler) => {
                let ran = catch_unwind(AssertUnwindSafe(|| handler.run(job, &run)));
                ran.unwrap_or_else(|_| Ended::Failed {
                    reason: "the handler panicked; see the log of the worker".to_owned(),
                    is_final: false,
                })
            }
        };
        self.spool.note_running(slot, None);
        let why = self.hand.end(key, self.clock.monotonic());
        if let Ended::Failed { reason, .. } = &ended {
            let reason = printable(reason);
            tracing::warn!(task = %job.id, kind = %job.kind, reason, "an attempt failed");
        }
        product::done(job, &run, ended, why, (began_at_ms, self.now_ms()))
    }

    /// Stops what runs too long; gives back what waits too long behind it.
    async fn watch(self, queue: Receiver<Job>, endings: mpsc::Sender<Done>) {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            let now = self.clock.monotonic();
            self.hand.stop_overdue(now);
            let waits = self.hand.waiting_since();
            if waits.is_none_or(|since| now.saturating_duration_since(since) < PATIENCE) {
                continue;
            }
            self.hand.stuck();
            loop {
                match queue.try_recv() {
                    Ok(job) => {
                        let _ended =
                            endings.send(unrun(&job, Outcome::Released, self.now_ms())).await;
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
        }
    }
}

/// What is said of a job that was not begun.
fn unrun(job: &Job, outcome: Outcome, at_ms: Millis) -> Done {
    let (id, attempt) = (job.id, job.attempt);
    Done { id, attempt, outcome, body: None, began_at_ms: None, at_ms }
}

/// Signs while there is something in hand, and learns what is not wanted any more.
async fn sign(shared: Shared) {
    let mut news = shared.supply.news();
    let (mut is_heard, mut was_busy) = (true, false);
    loop {
        tokio::select! {
            () = tokio::time::sleep(BEAT_EVERY) => {}
            Ok(()) = news.changed() => tokio::time::sleep(NEWS_GAP).await,
        }
        let is_busy = !shared.hand.is_empty();
        // Once more without anything: so it signs off.
        if !is_busy && !std::mem::replace(&mut was_busy, is_busy) {
            continue;
        }
        was_busy = is_busy;
        match shared.supply.beat(shared.hand.beats()).await {
            Ok(lost) => {
                is_heard = true;
                for (id, attempt) in shared.hand.lose(&lost) {
                    tracing::info!(task = %id, attempt, "not wanted any more: stopping it");
                }
            }
            Err(error) => {
                if std::mem::replace(&mut is_heard, false) {
                    tracing::warn!(%error, "no sign of life can be given; the work goes on");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::path::Path;
    use std::sync::Mutex;

    use futures_util::future::BoxFuture;
    use tokio::sync::{Notify, watch};

    use super::super::echo::Echo;
    use super::super::spool::RESULTS;
    use super::super::supply::SupplyError;
    use super::*;
    use crate::clock::SystemClock;
    use crate::task::{Attempt, Beat, TaskId};

    /// Gives out what is pushed, and notes what comes back.
    #[derive(Debug)]
    struct Fake {
        jobs: Mutex<VecDeque<Job>>,
        pushed: Notify,
        done: watch::Sender<Vec<Done>>,
        lost: Mutex<Vec<(TaskId, Attempt)>>,
        news: watch::Sender<u64>,
        failures: Mutex<u32>,
        is_remote: bool,
    }

    impl Fake {
        fn new(is_remote: bool) -> Arc<Self> {
            Arc::new(Self {
                jobs: Mutex::default(),
                pushed: Notify::new(),
                done: watch::Sender::new(Vec::new()),
                lost: Mutex::default(),
                news: watch::Sender::new(0),
                failures: Mutex::default(),
                is_remote,
            })
        }

        fn push(&self, kind: &str, payload: &[u8]) -> TaskId {
            let (id, kind) = (TaskId::new(), kind.parse().unwrap());
            let job = Job { id, attempt: 1, kind, expires_at_ms: None, payload: payload.to_vec() };
            self.jobs.lock().unwrap().push_back(job);
            self.pushed.notify_one();
            id
        }

        async fn outcomes(&self, count: usize) -> HashMap<TaskId, Outcome> {
            let mut done = self.done.subscribe();
            let all = done.wait_for(|done| done.len() >= count);
            // In vain, if what is waited for was lost.
            let done = tokio::time::timeout(Duration::from_secs(60), all).await.unwrap().unwrap();
            done.iter().map(|done| (done.id, done.outcome.clone())).collect()
        }
    }

    impl Supply for Fake {
        fn next(&self, jobs_max: usize) -> BoxFuture<'_, Result<Vec<Job>, SupplyError>> {
            Box::pin(async move {
                loop {
                    {
                        let mut jobs = self.jobs.lock().unwrap();
                        if !jobs.is_empty() {
                            let many = jobs.len().min(jobs_max);
                            return Ok(jobs.drain(..many).collect());
                        }
                    }
                    self.pushed.notified().await;
                }
            })
        }

        fn deliver<'a>(&'a self, done: &'a [Done]) -> BoxFuture<'a, Result<(), SupplyError>> {
            Box::pin(async move {
                let mut failures = self.failures.lock().unwrap();
                if *failures > 0 {
                    *failures -= 1;
                    return Err(SupplyError("away".to_owned()));
                }
                self.done.send_modify(|all| all.extend_from_slice(done));
                Ok(())
            })
        }

        fn beat(
            &self,
            running: Vec<Beat>,
        ) -> BoxFuture<'_, Result<Vec<(TaskId, Attempt)>, SupplyError>> {
            let mut lost = self.lost.lock().unwrap().clone();
            lost.retain(|key| running.iter().any(|beat| (beat.id, beat.attempt) == *key));
            Box::pin(async move { Ok(lost) })
        }

        fn news(&self) -> watch::Receiver<u64> {
            self.news.subscribe()
        }

        fn is_remote(&self) -> bool {
            self.is_remote
        }

        fn close(&self) -> BoxFuture<'_, ()> {
            Box::pin(async {})
        }
    }

    /// Runs until it is told to stop, and says when it has begun.
    #[derive(Debug)]
    struct Endless(watch::Sender<u32>, Duration);

    impl Handler for Endless {
        fn run(&self, _job: &Job, run: &Run) -> Ended {
            self.0.send_modify(|begun| *begun += 1);
            assert!(run.life.wait_stopping(Duration::from_secs(60)), "nobody stopped it");
            Ended::Stopped
        }

        fn timeout(&self, _job: &Job) -> Duration {
            self.1
        }
    }

    #[derive(Debug)]
    struct Panics;

    impl Handler for Panics {
        fn run(&self, _job: &Job, _run: &Run) -> Ended {
            panic!("on purpose")
        }

        fn timeout(&self, _job: &Job) -> Duration {
            Duration::from_secs(60)
        }
    }

    struct Running {
        supply: Arc<Fake>,
        begun: watch::Receiver<u32>,
        life: Lifecycle,
        engine: tokio::task::JoinHandle<std::io::Result<()>>,
        dir: tempfile::TempDir,
    }

    fn start(supply: Arc<Fake>, slots: usize, timeout: Duration) -> Running {
        let dir = tempfile::tempdir().unwrap();
        start_in(supply, slots, timeout, dir)
    }

    fn start_in(
        supply: Arc<Fake>,
        slots: usize,
        timeout: Duration,
        dir: tempfile::TempDir,
    ) -> Running {
        let (life, sender) = (Lifecycle::new(), watch::Sender::new(0));
        let (spool, left) = Spool::open(dir.path(), RESULTS).unwrap();
        let begun = sender.subscribe();
        let mut handlers: HashMap<Name, Arc<dyn Handler>> = HashMap::new();
        handlers.insert("echo".parse().unwrap(), Arc::new(Echo));
        handlers.insert("endless".parse().unwrap(), Arc::new(Endless(sender, timeout)));
        handlers.insert("panics".parse().unwrap(), Arc::new(Panics));
        let engine = Engine {
            supply: Arc::clone(&supply) as Arc<dyn Supply>,
            handlers,
            slots,
            spool: Arc::new(spool),
            left,
            clock: Arc::new(SystemClock),
            life: life.clone(),
            finish_within: Duration::ZERO,
        };
        Running { supply, begun, life, engine: tokio::spawn(engine.run()), dir }
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_job_comes_back_once_with_what_came_of_it() {
        let running = start(Fake::new(false), 2, LONG);
        let supply = &running.supply;
        let ids: Vec<TaskId> = (0..1000).map(|_| supply.push("echo", b"7")).collect();
        let (panics, unknown) = (supply.push("panics", b""), supply.push("unknown", b""));
        let outcomes = supply.outcomes(1002).await;
        assert_eq!(outcomes.len(), 1002);
        for id in ids {
            assert!(matches!(&outcomes[&id], Outcome::Finished(head) if head.head == b"7"));
        }
        assert!(matches!(outcomes[&panics], Outcome::Failed { is_final: false, .. }));
        assert!(matches!(outcomes[&unknown], Outcome::Failed { is_final: false, .. }));
        running.life.stop();
        running.engine.await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cancelled_job_is_stopped_and_its_slot_runs_the_next_one() {
        let mut running = start(Fake::new(false), 1, LONG);
        let id = running.supply.push("endless", b"");
        running.begun.wait_for(|begun| *begun == 1).await.unwrap();
        running.supply.lost.lock().unwrap().push((id, 1));
        running.supply.news.send_modify(|news| *news += 1);
        let next = running.supply.push("echo", b"");
        let outcomes = running.supply.outcomes(1).await;
        assert_eq!(outcomes.keys().collect::<Vec<_>>(), [&next], "nobody waits for the other");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_job_that_takes_too_long_is_stopped_and_has_failed() {
        let running = start(Fake::new(false), 1, Duration::from_millis(10));
        let id = running.supply.push("endless", b"");
        let outcomes = running.supply.outcomes(1).await;
        assert!(
            matches!(&outcomes[&id], Outcome::Failed { reason, .. } if reason.contains("long"))
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn jobs_behind_long_ones_are_given_back_and_so_is_everything_at_the_end() {
        let mut running = start(Fake::new(false), 1, LONG);
        // Quick ones first, so that many are taken at once.
        for _ in 0..200 {
            running.supply.push("echo", b"");
        }
        running.supply.outcomes(200).await;
        let long = running.supply.push("endless", b"");
        let behind: Vec<TaskId> = (0..5).map(|_| running.supply.push("echo", b"")).collect();
        running.begun.wait_for(|begun| *begun == 1).await.unwrap();
        let taken = 5 - running.supply.jobs.lock().unwrap().len();
        let outcomes = running.supply.outcomes(200 + taken).await;
        for id in behind.iter().take(taken) {
            assert_eq!(outcomes[id], Outcome::Released);
        }
        running.life.stop();
        running.engine.await.unwrap().unwrap();
        assert_eq!(running.supply.outcomes(0).await[&long], Outcome::Released);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_cannot_be_delivered_is_tried_again_and_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let first = Fake::new(true);
        *first.failures.lock().unwrap() = 2;
        let running = start_in(Arc::clone(&first), 1, LONG, dir);
        first.push("echo", b"again");
        first.outcomes(1).await;
        let is_kept = || walk(&path).iter().any(|name| name.ends_with(".group"));
        let until_kept = async |expected: bool| {
            while is_kept() != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // The first group goes from the disk a moment after it was delivered.
        until_kept(false).await;
        *first.failures.lock().unwrap() = u32::MAX;
        let id = first.push("echo", b"later");
        until_kept(true).await;
        running.life.stop();
        running.engine.await.unwrap().unwrap();
        assert_eq!(first.outcomes(0).await.len(), 1);
        let second = start_in(Fake::new(true), 1, LONG, running.dir);
        let outcomes = second.supply.outcomes(1).await;
        assert!(matches!(&outcomes[&id], Outcome::Finished(head) if head.head == b"later"));
    }

    fn walk(path: &Path) -> Vec<String> {
        let folders = std::fs::read_dir(path.join("results")).unwrap();
        let entries = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}
