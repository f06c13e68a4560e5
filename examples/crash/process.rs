//! A child process that never outlives its owner, with what a crash test does to it.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const POLL: Duration = Duration::from_millis(5);
/// How much of a log is shown after a failure.
const TAIL_BYTES: u64 = 4000;

/// How a process that was asked to end did so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It finished and exited with 0.
    Clean,
    /// The signal ended it before it was ready to handle one.
    Early,
}

/// A command for `program` that the kernel kills when this process ends without cleaning up: by a
/// signal. Where `setpriv` is missing, it is the plain command.
pub(crate) fn leashed(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// A running child; it is killed when this value is dropped, also by a panic.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    started_at: Instant,
    ended: bool,
}

impl Process {
    /// Starts `command`; what it prints is appended to `log`, its results to `results` if given.
    pub(crate) fn start(
        name: &str,
        command: &mut Command,
        log: &Path,
        results: Option<&Path>,
    ) -> Result<Self, String> {
        let place = |error: std::io::Error| format!("{name} does not start: {error}");
        let open = |path: &Path| OpenOptions::new().append(true).create(true).open(path);
        let stderr = open(log).map_err(place)?;
        let stdout = open(results.unwrap_or(log)).map_err(place)?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn().map_err(place)?;
        let (name, log) = (name.to_owned(), log.to_owned());
        Ok(Self { name, child, log, started_at: Instant::now(), ended: false })
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How long ago it was started.
    pub(crate) fn age(&self) -> Duration {
        self.started_at.elapsed()
    }

    /// An error when it ended, which nobody asked it to.
    pub(crate) fn check_alive(&mut self) -> Result<(), String> {
        match self.poll()? {
            None => Ok(()),
            Some(status) => Err(self.complain("ended by itself", status)),
        }
    }

    /// Kills it (SIGKILL). An error when it had ended before.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        self.child.kill().map_err(|error| format!("{}: {error}", self.name))?;
        let status = self.child.wait().map_err(|error| format!("{}: {error}", self.name))?;
        self.ended = true;
        if status.signal() == Some(SIGKILL) {
            return Ok(());
        }
        Err(self.complain("ended by itself", status))
    }

    /// Sends the signal with this name. The child is not reaped, so its id can't be another's.
    pub(crate) fn signal(&mut self, signal: &str) -> Result<(), String> {
        self.check_alive()?;
        // The shell's own `kill`: std sends SIGKILL only, and /bin/kill is not everywhere.
        let line = format!("kill -{signal} {}", self.child.id());
        let status = Command::new("/bin/sh").args(["-c", &line]).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("{}: {line}: {other:?}", self.name)),
        }
    }

    /// Asks it to end (SIGTERM) and waits; an error unless it exits with 0 within `patience`. A
    /// process younger than `unready` may also die of the signal.
    pub(crate) fn terminate(
        &mut self,
        patience: Duration,
        unready: Duration,
    ) -> Result<End, String> {
        let young = self.age() < unready;
        self.signal("TERM")?;
        let status = self.wait(patience)?;
        if status.success() {
            return Ok(End::Clean);
        }
        if young && status.signal() == Some(SIGTERM) {
            return Ok(End::Early);
        }
        Err(self.complain("was asked to end and did not exit with 0", status))
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<ExitStatus, String> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            if since.elapsed() >= patience {
                let seconds = patience.as_secs();
                let tail = self.log_tail();
                return Err(format!("{} still runs after {seconds} s\n{tail}", self.name));
            }
            std::thread::sleep(POLL);
        }
    }

    fn poll(&mut self) -> Result<Option<ExitStatus>, String> {
        let status = self.child.try_wait().map_err(|error| format!("{}: {error}", self.name))?;
        self.ended = status.is_some();
        Ok(status)
    }

    fn complain(&self, what: &str, status: ExitStatus) -> String {
        let (name, age_ms) = (&self.name, self.age().as_millis());
        format!("{name} {what}: {status}, {age_ms} ms after its start\n{}", self.log_tail())
    }

    /// The end of its log, with a title; empty when the log is.
    pub(crate) fn log_tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = std::fs::File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            Ok(String::from_utf8_lossy(&tail).into_owned())
        };
        let tail = read().unwrap_or_else(|error| error.to_string());
        if tail.is_empty() {
            return tail;
        }
        format!("--- the end of {} ---\n{tail}", self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            // It may have ended meanwhile; either way it is reaped here.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Process};
    use std::path::PathBuf;
    use std::process::Command;
    use std::time::Duration;

    fn shell(name: &str, script: &str) -> (Process, PathBuf) {
        let file = format!("crash-process-{name}-{}", std::process::id());
        let log = std::env::temp_dir().join(file);
        let mut command = Command::new("/bin/sh");
        (Process::start(name, command.args(["-c", script]), &log, None).unwrap(), log)
    }

    #[test]
    fn an_end_that_nobody_asked_for_is_an_error_that_shows_the_log() {
        let (mut process, log) = shell("own-end", "echo why >&2; exit 3");
        process.wait(Duration::from_secs(10)).unwrap();
        assert!(process.check_alive().unwrap_err().contains("why"));
        assert!(process.kill().is_err());
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_clean_end_and_a_death_by_the_signal_are_told_apart() {
        let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done";
        let (mut process, log) = shell("clean", script);
        while !std::fs::read_to_string(&log).unwrap().contains("ready") {
            process.check_alive().unwrap();
        }
        let end = process.terminate(Duration::from_secs(10), Duration::ZERO);
        assert_eq!(end.unwrap(), End::Clean);
        std::fs::remove_file(log).unwrap();
        for (unready, early) in [(Duration::from_secs(60), true), (Duration::ZERO, false)] {
            let (mut process, log) = shell("early", "exec sleep 60");
            let end = process.terminate(Duration::from_secs(10), unready);
            assert_eq!(end == Ok(End::Early), early, "{end:?}");
            std::fs::remove_file(log).unwrap();
        }
    }

    #[test]
    fn a_dropped_process_is_gone_also_when_it_is_stopped() {
        let (mut process, log) = shell("dropped", "exec sleep 60");
        process.signal("STOP").unwrap();
        let folder = PathBuf::from(format!("/proc/{}", process.child.id()));
        assert!(folder.exists());
        drop(process);
        assert!(!folder.exists());
        std::fs::remove_file(log).unwrap();
    }
}
