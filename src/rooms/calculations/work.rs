//! The kind `factorial`: who runs the calculations.
//!
//! Small ones are over in no time, and run where they are. Each of the others runs in a process of
//! its own, this program again: that can be killed at any instant, its memory is watched, and
//! nothing that goes wrong in it ends the worker. It writes the digits to the file it is given, and
//! how far it is to its stdout: thousandths, a line each.

use std::io::{self, BufWriter, Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::factorial::{FactorialError, Progress, write_factorial};
use super::order::{Order, VERSION};
use crate::service::printable;
use crate::task::Permille;
use crate::tasks::handler::{Ended, Handler, Job, Product, Run};

/// The hidden command that calculates in a process of its own.
pub const CHILD_COMMAND: &str = "calculate-child";
/// The largest number whose factorial takes milliseconds at most.
const SMALL_MAX: u64 = 10_000;
/// How often a child is looked after.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// How often a child says how far it is.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// The page of `/proc/<pid>/statm` (proc(5)), in bytes.
const PAGE_BYTES: u64 = 4096;
/// What is kept of a child's stderr, in bytes.
const STDERR_BYTES_MAX: u64 = 2048;

/// Runs calculations.
#[derive(Debug, Clone)]
pub struct Calculator {
    /// This program, or another that knows [`CHILD_COMMAND`].
    pub program: PathBuf,
    /// How many threads a large one computes on.
    pub threads: NonZeroUsize,
    /// How long one may take.
    pub timeout: Duration,
    /// The most memory that a large one may use, in bytes.
    pub memory_bytes_max: u64,
}

impl Handler for Calculator {
    fn run(&self, job: &Job, run: &Run) -> Ended {
        match serde_json::from_slice::<Order>(&job.payload) {
            Ok(order) if order.version != VERSION => {
                let version = printable(&order.version);
                failed(format!("this worker knows no calculations of version {version}"), true)
            }
            Ok(Order { input, .. }) if input <= SMALL_MAX => here(input),
            Ok(Order { input, .. }) => self.in_a_process(input, run),
            Err(error) => failed(format!("the payload is no calculation: {error}"), true),
        }
    }

    fn timeout(&self, _job: &Job) -> Duration {
        self.timeout
    }
}

fn failed(reason: String, is_final: bool) -> Ended {
    Ended::Failed { reason, is_final }
}

fn here(input: u64) -> Ended {
    let mut digits = Vec::new();
    match write_factorial(input, NonZeroUsize::MIN, &Progress::default(), &mut digits) {
        Ok(_) => Ended::Finished(Product::Bytes(digits)),
        Err(error) => failed(error.to_string(), true),
    }
}

impl Calculator {
    fn in_a_process(&self, input: u64, run: &Run) -> Ended {
        let mut command = Command::new(&self.program);
        command.arg(CHILD_COMMAND).arg(input.to_string()).arg("--output").arg(&run.result_path);
        command.args(["--threads", &self.threads.to_string()]);
        command.args(["--parent", &std::process::id().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => {
                let mut child = Guard(child);
                let followed = self.follow(&mut child.0, run);
                followed.unwrap_or_else(|error| failed(format!("watching it: {error}"), false))
            }
            Err(error) => {
                failed(format!("{} does not start: {error}", self.program.display()), false)
            }
        }
    }

    /// Looks after a child until it ends, or has to.
    fn follow(&self, child: &mut Child, run: &Run) -> io::Result<Ended> {
        let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut told = Vec::new();
        loop {
            if run.life.is_stopping() {
                return Ok(Ended::Stopped);
            }
            if resident_bytes(child.id()).is_some_and(|bytes| bytes > self.memory_bytes_max) {
                let mib = self.memory_bytes_max >> 20;
                return Ok(failed(format!("it needs more than {mib} MiB of memory"), true));
            }
            let mut waiting = [PollFd::new(&stdout, PollFlags::IN)];
            if poll(&mut waiting, Some(&LOOK_EVERY))? == 0 {
                continue;
            }
            let mut bytes = [0; 256];
            let read = stdout.read(&mut bytes)?;
            if read == 0 {
                break;
            }
            told.extend_from_slice(bytes.get(..read).unwrap_or_default());
            if let Some(permille) = last_line(&mut told) {
                run.tell(permille);
            }
        }
        let mut said = String::new();
        if let Some(stderr) = child.stderr.take() {
            let _cut = stderr.take(STDERR_BYTES_MAX).read_to_string(&mut said);
        }
        let status = child.wait()?;
        Ok(match status.success() {
            true => Ended::Finished(Product::File),
            false => {
                let said = printable(said.trim());
                failed(format!("the process that calculated ended with {status}: {said}"), false)
            }
        })
    }
}

/// A child that does not outlive whoever looks after it.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _status = self.0.wait();
    }
}

/// The number on the last whole line; it and those before it are taken away.
fn last_line(told: &mut Vec<u8>) -> Option<Permille> {
    let end = told.iter().rposition(|byte| *byte == b'\n')?;
    let lines: Vec<u8> = told.drain(..=end).collect();
    let text = std::str::from_utf8(&lines).ok()?;
    text.lines().last()?.parse().ok()
}

/// How much memory a process has now.
fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

/// Why a child did not calculate.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not.
    #[error(transparent)]
    Factorial(#[from] FactorialError),
    /// A file or a thread failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Whoever started it is gone.
    #[error("the worker that wanted it is gone")]
    Orphan,
}

/// What the child does: calculates into `output`, and dies with `parent`.
///
/// # Errors
/// The file cannot be written, the parent is gone, or the number is too large.
pub fn calculate(
    input: u64,
    threads: NonZeroUsize,
    output: &Path,
    parent: u32,
) -> Result<(), ChildError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    // It may have died before the line above.
    if getppid().is_none_or(|pid| pid.as_raw_nonzero().get().unsigned_abs() != parent) {
        return Err(ChildError::Orphan);
    }
    let progress = Progress::default();
    let mut file = BufWriter::with_capacity(1 << 18, std::fs::File::create(output)?);
    std::thread::scope(|scope| {
        let (over, is_over) = crossbeam_channel::bounded::<()>(0);
        let progress = &progress;
        scope.spawn(move || {
            while is_over.recv_deadline(Instant::now() + TELL_EVERY).is_err_and(|e| e.is_timeout())
            {
                let permille = (progress.fraction() * 1000.0).round();
                if writeln!(io::stdout(), "{permille}").is_err() {
                    return;
                }
            }
        });
        let written = write_factorial(input, threads, progress, &mut file);
        drop(over);
        written
    })?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rooms::calculations::order::KIND;
    use crate::task::TaskId;

    #[test]
    fn the_last_whole_line_says_how_far_it_is() {
        let mut told = b"1\n20\n30".to_vec();
        assert_eq!(last_line(&mut told), Some(20));
        assert_eq!(told, b"30");
        assert_eq!(last_line(&mut told), None);
        told.extend_from_slice(b"0\n");
        assert_eq!(last_line(&mut told), Some(300));
    }

    #[test]
    fn what_cannot_be_calculated_fails_for_good() {
        let job = |payload: &str| Job {
            id: TaskId::new(),
            attempt: 1,
            kind: KIND.parse().unwrap(),
            expires_at_ms: None,
            payload: payload.as_bytes().to_vec(),
        };
        let calculator = Calculator {
            program: "/bin/false".into(),
            threads: NonZeroUsize::MIN,
            timeout: Duration::from_secs(1),
            memory_bytes_max: 1 << 30,
        };
        let run = Run::new(Path::new("unused"), Duration::from_secs(1));
        let id = TaskId::new();
        for wrong in [
            String::new(),
            "{}".to_owned(),
            format!(r#"{{"version":"v2","id":"{id}","input":1}}"#),
            format!(r#"{{"version":"v1","id":"{id}","input":-1}}"#),
        ] {
            let ended = calculator.run(&job(&wrong), &run);
            assert!(matches!(ended, Ended::Failed { is_final: true, .. }), "{wrong}: {ended:?}");
        }
        let small = format!(r#"{{"version":"v1","id":"{id}","input":20}}"#);
        let product = Product::Bytes(b"2432902008176640000".to_vec());
        assert_eq!(calculator.run(&job(&small), &run), Ended::Finished(product));
    }
}
