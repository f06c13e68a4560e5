//! Runs a user's program: bytes in, bytes out, a deadline, and an end that is an end.
//!
//! The program runs in a process group of its own. When its time is up, or the process stops, the
//! whole group is killed; when it ends by itself, what it left running in its group is killed, too.
//! A child that leaves the group (`setsid`) gets away: nothing waits for it. A program whose own
//! process is killed does too: it goes on until it finds its stdin or stdout closed.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};

use super::{Lifecycle, held};

/// How often a run looks whether the process stops.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a pipe is read after its program ended, if others hold it open.
const AFTER_END: Duration = Duration::from_secs(1);
/// What is kept of stderr: its end.
const STDERR_BYTES_MAX: usize = 2048;
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// Reads of one pipe before the others, and the time, are looked at.
const READS_AT_ONCE: usize = 16;
/// What a shell answers when it cannot run a command, or not find it.
const NOT_RUN: [i32; 2] = [126, 127];

/// A command line for `/bin/sh -c`, and the limits of its runs.
#[derive(Debug, Clone)]
pub struct Program {
    /// The command line.
    pub command: String,
    /// The most bytes that it may print.
    pub output_bytes_max: usize,
    /// How long it may go on when the process stops.
    pub stop_within: Duration,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// With exit code 0, after printing this.
    Done(Vec<u8>),
    /// In another way, for this reason.
    Failed(String),
    /// It was killed, since its time was up.
    TimedOut,
    /// It could not be started, for this reason; what it was to do has nothing to do with it.
    NotRun(String),
    /// It was killed, since the process stops.
    Stopped,
}

impl Program {
    /// Runs it with `input` on its stdin and `environment` beside that of this process.
    #[must_use]
    pub fn run(
        &self,
        input: &[u8],
        environment: &[(&str, String)],
        timeout: Duration,
        life: &Lifecycle,
    ) -> Ended {
        let deadline = Instant::now() + timeout;
        match self.start(input, environment) {
            Ok(mut run) => {
                let ended = run.follow(deadline, self.stop_within, life);
                run.kill();
                ended.unwrap_or_else(|error| Ended::NotRun(format!("watching it: {error}")))
            }
            Err(error) => Ended::NotRun(format!("/bin/sh: {error}")),
        }
    }

    fn start<'a>(&self, input: &'a [u8], environment: &[(&str, String)]) -> io::Result<Run<'a>> {
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(&self.command)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        held(&RUNNING).push(pid_of(&child)?);
        let run = Run {
            child,
            status: None,
            stdin: stdin.map(|pipe| (pipe, input)),
            stdout,
            stderr,
            output: Vec::new(),
            output_bytes_max: self.output_bytes_max,
            told: Vec::new(),
            chunk: vec![0; READ_BYTES],
        };
        // It is waited for also if this fails.
        let mut run = run;
        let unblocked = run.pipes().try_for_each(|pipe| rustix::io::ioctl_fionbio(pipe, true));
        if let Err(error) = unblocked {
            run.kill();
            return Err(error.into());
        }
        Ok(run)
    }
}

/// A run that goes on.
struct Run<'a> {
    child: Child,
    status: Option<ExitStatus>,
    /// The pipe, and what is still to be written to it.
    stdin: Option<(ChildStdin, &'a [u8])>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    output: Vec<u8>,
    output_bytes_max: usize,
    told: Vec<u8>,
    chunk: Vec<u8>,
}

impl Run<'_> {
    fn pipes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let stdin = self.stdin.as_ref().map(|(pipe, _)| pipe.as_fd());
        let stdout = self.stdout.as_ref().map(AsFd::as_fd);
        let stderr = self.stderr.as_ref().map(AsFd::as_fd);
        [stdin, stdout, stderr].into_iter().flatten()
    }

    fn follow(
        &mut self,
        mut deadline: Instant,
        stop_within: Duration,
        life: &Lifecycle,
    ) -> io::Result<Ended> {
        let pid = pid_of(&self.child)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let mut stop_by = None;
        loop {
            let now = Instant::now();
            if life.is_stopping() && *stop_by.get_or_insert(now + stop_within) <= now {
                return Ok(Ended::Stopped);
            }
            if now >= deadline {
                // Ended, but for a pipe that somebody else holds open: what came through it counts.
                self.read_pipes();
                return Ok(self.status.map_or(Ended::TimedOut, |status| self.judge(status)));
            }
            let wait = LOOK_EVERY.min(deadline - now);
            self.wait(pidfd.as_fd(), wait)?;
            self.write_stdin();
            self.read_pipes();
            if let Some(ended) = self.printed_too_much() {
                return Ok(ended);
            }
            if self.status.is_none() && self.has_ended()? {
                self.stdin = None;
                self.kill();
                // It has printed all that it will: only others can keep the pipe open.
                deadline = Instant::now() + AFTER_END;
            }
            if let Some(status) = self.status.filter(|_| self.stdout.is_none()) {
                return Ok(self.judge(status));
            }
        }
    }

    /// Until a pipe is ready, the program ends, or the time is up.
    fn wait(&self, pidfd: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
        let mut fds: Vec<_> = [
            self.stdin
                .as_ref()
                .map(|(pipe, _)| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::OUT)),
            self.stdout.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)),
            self.stderr.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)),
            self.status.is_none().then(|| PollFd::from_borrowed_fd(pidfd, PollFlags::IN)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write_stdin(&mut self) {
        let Some((pipe, rest)) = &mut self.stdin else { return };
        let done = loop {
            match pipe.write(rest) {
                Ok(written) => {
                    *rest = rest.get(written..).unwrap_or_default();
                    if rest.is_empty() {
                        break true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                // It does not want to read it all; its exit code tells what it thinks of that.
                Err(_) => break true,
            }
        };
        if done {
            self.stdin = None;
        }
    }

    fn read_pipes(&mut self) {
        let most = self.output_bytes_max;
        let (output, told) = (&mut self.output, &mut self.told);
        read_pipe(&mut self.stdout, &mut self.chunk, |read| {
            output.extend_from_slice(read);
            output.len() <= most
        });
        read_pipe(&mut self.stderr, &mut self.chunk, |read| {
            told.extend_from_slice(read);
            let beyond = told.len().saturating_sub(STDERR_BYTES_MAX);
            told.drain(..beyond);
            true
        });
    }

    fn printed_too_much(&self) -> Option<Ended> {
        let most = self.output_bytes_max;
        let reason = || format!("it printed more than {most} bytes");
        (self.output.len() > most).then(|| Ended::Failed(reason()))
    }

    fn judge(&mut self, status: ExitStatus) -> Ended {
        if let Some(ended) = self.printed_too_much() {
            return ended;
        }
        if status.success() {
            return Ended::Done(std::mem::take(&mut self.output));
        }
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => status.to_string(),
        };
        let told = String::from_utf8_lossy(&self.told);
        let last = told.trim_end().lines().last().unwrap_or_default();
        let reason = if last.is_empty() { how } else { format!("{how}: {last}") };
        match status.code() {
            Some(code) if NOT_RUN.contains(&code) => Ended::NotRun(reason),
            _ => Ended::Failed(reason),
        }
    }

    /// Whether it has ended; it keeps its number until [`Run::kill`].
    fn has_ended(&self) -> io::Result<bool> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(pid_of(&self.child)?), look)?.is_some())
    }

    /// Kills what is left of the group, while its number is taken by the program, dead or alive.
    fn kill(&mut self) {
        if self.status.is_some() {
            return;
        }
        if let Ok(pid) = pid_of(&self.child) {
            // Nobody may be left.
            let _gone = kill_process_group(pid, Signal::KILL);
            held(&RUNNING).retain(|running| *running != pid);
        }
        self.status = self.child.wait().ok();
    }
}

/// The programs that run.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Kills every program that runs, with its children: for a process that ends without waiting.
pub fn kill_all() {
    for pid in held(&RUNNING).iter() {
        // It may have ended.
        let _gone = kill_process_group(*pid, Signal::KILL);
    }
}

fn pid_of(child: &Child) -> io::Result<Pid> {
    let raw = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    raw.ok_or_else(|| io::Error::other("it has no process number"))
}

/// Reads what is there, while `keep` wants more; drops the pipe at its end.
fn read_pipe<P: Read>(pipe: &mut Option<P>, chunk: &mut [u8], mut keep: impl FnMut(&[u8]) -> bool) {
    for _ in 0..READS_AT_ONCE {
        let Some(open) = pipe else { return };
        match open.read(chunk) {
            Ok(0) => *pipe = None,
            Ok(count) => {
                if !keep(chunk.get(..count).unwrap_or_default()) {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => *pipe = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Less than the programs here would take.
    const LONG: Duration = Duration::from_secs(60);

    fn program(command: &str) -> Program {
        let stop_within = Duration::ZERO;
        Program { command: command.to_owned(), output_bytes_max: 1 << 20, stop_within }
    }

    fn run(command: &str, input: &[u8], timeout: Duration) -> Ended {
        program(command).run(input, &[("PLACE", "7".to_owned())], timeout, &Lifecycle::new())
    }

    fn failure(command: &str) -> String {
        match run(command, b"a\n", LONG) {
            Ended::Failed(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn more_than_a_pipe_holds_goes_through() {
        let input = vec![b'x'; 900_000];
        assert_eq!(run("cat", &input, LONG), Ended::Done(input.clone()));
        assert_eq!(run("head -c 3", &input, LONG), Ended::Done(b"xxx".to_vec()));
        assert_eq!(run("exec <&-; echo $PLACE", &input, LONG), Ended::Done(b"7\n".to_vec()));
    }

    #[test]
    fn a_failure_says_how_and_what_was_said_last() {
        assert_eq!(failure("echo first >&2; echo last >&2; exit 3"), "exit code 3: last");
        assert_eq!(failure("kill -9 $$"), "killed by signal 9");
        assert!(matches!(run("/no/such/program", b"", LONG), Ended::NotRun(_)));
    }

    #[test]
    fn endless_output_is_cut_off() {
        assert!(failure("yes").contains("more than 1048576 bytes"));
    }

    /// Waits until the process with this number has died; a kill takes its time.
    fn assert_dies(pid: &str) {
        let stat = format!("/proc/{}/stat", pid.trim());
        let deadline = Instant::now() + LONG;
        while let Ok(stat) = std::fs::read_to_string(&stat) {
            if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')) {
                break;
            }
            assert!(Instant::now() < deadline, "{stat}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let command = format!("sleep 600 & echo $! > {}; wait", pid.display());
        assert_eq!(run(&command, b"", Duration::from_millis(500)), Ended::TimedOut);
        assert_dies(&std::fs::read_to_string(&pid).unwrap());
    }

    #[test]
    fn what_a_program_leaves_running_does_not_keep_it_waiting() {
        let Ended::Done(output) = run("sleep 600 & echo $!", b"", LONG) else { panic!("not done") };
        assert_dies(&String::from_utf8(output).unwrap());
    }

    #[test]
    fn a_stop_kills_it_and_says_so() {
        let life = Lifecycle::new();
        let stopping = life.clone();
        let thread = std::thread::spawn(move || {
            program("echo started; sleep 600").run(b"", &[], LONG, &stopping)
        });
        life.stop();
        assert_eq!(thread.join().unwrap(), Ended::Stopped);
    }
}
