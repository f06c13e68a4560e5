//! A long-running command from start to end: signals, state, parts, drain with a deadline.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Failure, OrExit};
use super::settings::{LogSettings, ProcessSettings, StateSettings};
use crate::clock::{Clock, SystemClock};
use crate::service::presence::Presence;
use crate::service::{Lifecycle, program};
use crate::state::{OpenError, State, holds_state};

/// What every part is given; without a state (`()`), what a part that keeps nothing is given.
#[derive(Clone)]
pub(super) struct Process<S = State> {
    pub(super) state: S,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) life: Lifecycle,
    /// What is said of this process to others of the machine.
    pub(super) presence: Presence,
    /// The deadline of a stop.
    pub(super) shutdown: Duration,
}

/// Runs `parts` until they end, which they do when the process is asked to stop.
pub(super) fn run<F, R>(
    name: &'static str,
    state: &StateSettings,
    process: &ProcessSettings,
    parts: F,
) -> Result<Exit, Failure>
where
    F: FnOnce(Process) -> R,
    R: Future<Output = Result<(), Failure>>,
{
    let open = |life: &Lifecycle| {
        let state = open_state(state, life)?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), pid = std::process::id(),
            state_dir = %state.dir().display(), "{name} starts"
        );
        Ok(state)
    };
    let announce = |state: &State, clock: &dyn Clock| announce(state, name, clock);
    run_on(open, announce, &state.log, process, parts)?;
    tracing::info!("{name} has ended: everything taken is stored");
    Ok(Exit::Done)
}

/// The same for what keeps nothing.
pub(super) fn run_without_state<F, R>(
    name: &'static str,
    log: &LogSettings,
    process: &ProcessSettings,
    parts: F,
) -> Result<Exit, Failure>
where
    F: FnOnce(Process<()>) -> R,
    R: Future<Output = Result<(), Failure>>,
{
    let open = |_: &Lifecycle| {
        let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
        tracing::info!(version, pid, "{name} starts");
        Ok(())
    };
    run_on(open, |(), _| Presence::default(), log, process, parts)?;
    tracing::info!("{name} has ended");
    Ok(Exit::Done)
}

/// Tells the others of the machine that this process is there; without that it works all the same.
fn announce(state: &State, command: &str, clock: &dyn Clock) -> Presence {
    let announced = Presence::announce(state.dir(), command, env!("CARGO_PKG_VERSION"), clock);
    announced.unwrap_or_else(|error| {
        tracing::warn!(%error, "the page will not show this process: its card is not written");
        Presence::default()
    })
}

fn run_on<S, F, R>(
    open: impl FnOnce(&Lifecycle) -> Result<S, Failure>,
    announce: impl FnOnce(&S, &dyn Clock) -> Presence,
    log: &LogSettings,
    process: &ProcessSettings,
    parts: F,
) -> Result<(), Failure>
where
    F: FnOnce(Process<S>) -> R,
    R: Future<Output = Result<(), Failure>>,
{
    without_huge_pages(true);
    let runtime = network_runtime(network_threads())?;
    let life = Lifecycle::new();
    let shutdown = Duration::from_secs(process.shutdown_seconds);
    // First of all: from here on a signal is a request to stop and not a death.
    runtime.block_on(async { watch_signals(&life, shutdown) })?;
    super::logging::start(log)?;
    raise_descriptor_limit();
    let state = open(&life)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let presence = announce(&state, clock.as_ref());
    let process =
        Process { state, clock, life: life.clone(), presence: presence.clone(), shutdown };
    let outcome = runtime.block_on(parts(process));
    presence.end();
    life.stop();
    // Whatever still holds the state environment ends with the runtime; then it is closed.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome?;
    life.failure().map_or(Ok(()), |failure| {
        let exit = if failure.is_settings { Exit::Config } else { Exit::Io };
        Err(Failure::new(exit, anyhow!(failure.reason)))
    })
}

/// When one part of a process ends, so do the others.
pub(super) async fn then_stop<T>(life: &Lifecycle, part: impl Future<Output = T>) -> T {
    let ended = part.await;
    life.stop();
    ended
}

/// What runs everything that speaks to the network, on so many threads.
pub(super) fn network_runtime(threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("starting the runtime")
        .or_exit(Exit::Unavailable)
}

/// Half of the cores, so that the committer and the workers, which are threads of their own, find
/// one free: threads of the network beyond that mostly wake each other.
fn network_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// The usual soft limit of 1,024 open files is less than the connections that a server may have.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, soft = ?limit.current, "cannot raise the limit of open files");
    }
}

/// Whether memory comes in pages of the usual size only. With transparent huge pages, which the
/// allocator asks for, each thread takes some 8 MiB, of which it uses a few hundred KiB.
pub(super) fn without_huge_pages(is_without: bool) {
    // A kernel that knows none has none.
    let _unknown = rustix::thread::disable_transparent_huge_pages(is_without);
}

/// Opens the state environment of a command; a failed sync stops `life`.
pub(super) fn open_state(settings: &StateSettings, life: &Lifecycle) -> Result<State, Failure> {
    let life = life.clone();
    let options = settings.options(Box::new(move |reason| life.fail(reason)));
    State::open(options).map_err(|error| {
        let exit = match &error {
            OpenError::Directory { .. } | OpenError::Environment { .. } => Exit::CannotCreate,
            OpenError::Guard(_) | OpenError::Format { .. } => Exit::Config,
        };
        Failure::new(exit, error)
    })
}

/// Opens the state environment for a command that only looks, and so makes nothing: an account of a
/// new one would be right, but hardly what was asked for.
pub(super) fn open_existing_state(settings: &StateSettings) -> Result<State, Failure> {
    let dir = settings.state_dir.display();
    let wrong = match holds_state(&settings.state_dir) {
        Ok(true) => return open_state(settings, &Lifecycle::new()),
        Ok(false) if settings.state_dir.exists() => {
            anyhow!("state directory {dir} is none: it has no data.mdb; is STATE_DIR right?")
        }
        Ok(false) => anyhow!("state directory {dir} is not there: is STATE_DIR right?"),
        Err(error) => anyhow!("state directory {dir}: {error}; is STATE_DIR right?"),
    };
    Err(Failure::new(Exit::CannotCreate, wrong))
}

/// Opens another state directory than the setting's, to look at it.
pub(super) fn open_state_of(settings: &StateSettings, dir: &Path) -> Result<State, Failure> {
    let mut other = settings.clone();
    dir.clone_into(&mut other.state_dir);
    open_existing_state(&other)
}

/// The first signal stops, the second ends at once; so does the deadline.
fn watch_signals(life: &Lifecycle, shutdown: Duration) -> Result<(), Failure> {
    let install =
        |kind| signal(kind).context("installing a signal handler").or_exit(Exit::Software);
    let mut interrupt = install(SignalKind::interrupt())?;
    let mut terminate = install(SignalKind::terminate())?;
    let stopping = life.clone();
    tokio::spawn(async move {
        let name = next_signal(&mut interrupt, &mut terminate).await;
        tracing::info!("{name}: stopping; once more ends at once");
        stopping.stop();
        let name = next_signal(&mut interrupt, &mut terminate).await;
        tracing::warn!("{name} again: ending at once; what was accepted is stored");
        program::kill_all();
        std::process::exit(Exit::Interrupted as i32);
    });
    let stopping = life.clone();
    tokio::spawn(async move {
        stopping.stopping().await;
        tokio::time::sleep(shutdown).await;
        tracing::error!(
            seconds = shutdown.as_secs(),
            "the stop takes too long: ending; what was accepted is stored, the next start goes on"
        );
        program::kill_all();
        std::process::exit(Exit::TemporaryFailure as i32);
    });
    Ok(())
}

async fn next_signal(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "Ctrl-C",
        _ = terminate.recv() => "SIGTERM",
    }
}
