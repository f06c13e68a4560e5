//! Exit codes, and how an error that ends the process is told.

use std::io::Write;
use std::process::ExitCode;

/// The table printed under `--help`.
pub(super) const HELP: &str = "\
Exit codes:
    0  done
    1  a check found something (verify, config check, doctor, bench), or a task did not end well
    2  wrong usage
   65  input data is wrong (publish, dead, tasks)
   69  something needed cannot be had (an address in use; bench: no server; doctor: no answer)
   70  a mistake of the program itself
   73  a directory or file cannot be made or used
   74  reading or writing failed; the next start recovers
   75  not done in time, try again (the shutdown deadline passed, no room, no consumer)
   78  a setting in the environment or the settings file is wrong
  130  ended by Ctrl-C before the end (the second one; publish, tasks, calculate, bench: the first)

Examples:
  async-data-processor up
  async-data-processor config check
  async-data-processor verify";

/// How a process ends; 64 to 78 as in sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "described in `HELP`")]
pub enum Exit {
    Done = 0,
    CheckFailed = 1,
    Usage = 2,
    DataError = 65,
    Unavailable = 69,
    Software = 70,
    CannotCreate = 73,
    Io = 74,
    TemporaryFailure = 75,
    Config = 78,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with the exit code it ends the process with.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, where, and what to do.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure that ends with `exit`.
    pub(super) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    /// All that is wrong with the settings, as one failure.
    pub(super) fn of_settings(problems: Vec<anyhow::Error>) -> Self {
        let texts: Vec<_> = problems.iter().map(tell).collect();
        Self::new(Exit::Config, anyhow::anyhow!(texts.join("; ")))
    }

    /// Prints the error and gives its code.
    #[must_use]
    pub fn report(self) -> ExitCode {
        // A stderr that takes nothing does not change how the process ends.
        let _told = writeln!(std::io::stderr(), "error: {}", tell(&self.error));
        self.exit.into()
    }
}

/// An error with its causes, each told once: many name their cause in their own words.
pub(super) fn tell(error: &anyhow::Error) -> String {
    let causes = error.chain().map(ToString::to_string);
    causes.fold(String::new(), |told, cause| match told.is_empty() {
        true => cause,
        false if told.contains(&cause) => told,
        false => format!("{told}: {cause}"),
    })
}

/// Gives errors their exit code where they happen.
pub(super) trait OrExit<T> {
    /// The error ends the process with `exit`.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, error))
    }
}
