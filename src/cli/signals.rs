//! Ctrl-C and SIGTERM in a tool: it stops in order, and tells how far it came.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, Failure, OrExit};
use crate::service::Lifecycle;

/// Watches for the rest of the process: the first Ctrl-C or SIGTERM stops, the second ends at once.
pub(super) fn watch() -> Result<Lifecycle, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("starting the runtime")
        .or_exit(Exit::Unavailable)?;
    let entered = runtime.enter();
    let install = |kind| signal(kind).context("a signal handler").or_exit(Exit::Software);
    let mut interrupt = install(SignalKind::interrupt())?;
    let mut terminate = install(SignalKind::terminate())?;
    drop(entered);
    let life = Lifecycle::new();
    let stopping = life.clone();
    let watch = move || {
        runtime.block_on(async {
            loop {
                tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
                if stopping.is_stopping() {
                    std::process::exit(Exit::Interrupted as i32);
                }
                stopping.stop();
            }
        });
    };
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(watch);
    thread.context("starting a thread").or_exit(Exit::Unavailable)?;
    Ok(life)
}
