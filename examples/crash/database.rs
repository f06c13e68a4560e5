//! A PostgreSQL of the test's own, in its directory and on its port, which is hit like the others.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cycles::Tally;
use crate::process::Process;
use crate::random::SplitMix64;

const INSTALLED_IN: &str = "/usr/lib/postgresql";
const USER: &str = "crash";
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Of a hundred cycles so many hit the database too.
const STRUCK_PERCENT: u64 = 25;

/// A database; it is killed when this value is dropped.
pub(crate) struct Database {
    directory: PathBuf,
    binaries: PathBuf,
    port: u16,
    process: Process,
    is_down: bool,
    is_paused: bool,
}

impl Database {
    /// Makes it in a new directory, starts it and waits until it answers.
    pub(crate) fn start(directory: &Path, port: u16) -> Result<Self, String> {
        let place = |error: std::io::Error| format!("{}: {error}", directory.display());
        fs::create_dir(directory).map_err(place)?;
        if let Some(owner) = owner() {
            chown(directory, Some(owner), None).map_err(place)?;
        }
        let binaries = installed()?;
        let mut initdb = as_owner(&binaries.join("initdb"));
        initdb.args(["--username", USER, "--auth", "trust", "--no-sync", "--encoding", "UTF8"]);
        initdb.arg("--pgdata").arg(directory.join("data")).current_dir(directory);
        let output = initdb.stdin(Stdio::null()).output().map_err(place)?;
        if !output.status.success() {
            return Err(format!("initdb: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let process = spawn(directory, &binaries, port)?;
        let directory = directory.to_owned();
        let mut database =
            Self { directory, binaries, port, process, is_down: false, is_paused: false };
        database.wait_until_ready()?;
        Ok(database)
    }

    /// Where the binary finds it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    /// Does it some harm, or none.
    pub(crate) fn strike(
        &mut self,
        random: &mut SplitMix64,
        tally: &mut Tally,
    ) -> Result<(), String> {
        if !random.chance(STRUCK_PERCENT) {
            return Ok(());
        }
        self.wait_until_ready()?;
        match random.below(4) {
            0 => {
                tally.killed_database += 1;
                self.process.kill()?;
                self.is_down = true;
            }
            1 => {
                tally.restarted_database += 1;
                // A fast shutdown: clients are sent away, and nothing is left to recover.
                self.process.signal("INT")?;
                self.process.wait(PATIENCE)?;
                self.is_down = true;
            }
            2 => {
                tally.paused_database += 1;
                self.signal_all("STOP")?;
                self.is_paused = true;
            }
            _ => {
                tally.cut_sessions += 1;
                self.query(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
                )?;
            }
        }
        Ok(())
    }

    /// Undoes the harm; a killed one is on its way when this returns.
    pub(crate) fn restore(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.is_down) {
            self.process = spawn(&self.directory, &self.binaries, self.port)?;
        }
        if std::mem::take(&mut self.is_paused) {
            self.signal_all("CONT")?;
        }
        Ok(())
    }

    /// Waits until it answers a client.
    pub(crate) fn wait_until_ready(&mut self) -> Result<(), String> {
        let since = Instant::now();
        while let Err(error) = self.query("SELECT 1") {
            if since.elapsed() > PATIENCE {
                let log = self.process.log_tail();
                return Err(format!("the database does not answer: {error}\n{log}"));
            }
            if self.process.check_alive().is_err() {
                // It refuses to start while a process of the killed one still ends.
                self.process = spawn(&self.directory, &self.binaries, self.port)?;
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn query(&self, sql: &str) -> Result<(), String> {
        let mut psql = Command::new(self.binaries.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--output", "/dev/null", "--command", sql]);
        let output = psql.arg(self.url()).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("psql: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The server has a process for each client; all of them get the signal.
    fn signal_all(&mut self, signal: &str) -> Result<(), String> {
        let parent = self.process.id().to_string();
        let script = format!("kill -{signal} {parent}; pkill -{signal} -P {parent}; true");
        let status = Command::new("/bin/sh").args(["-c", &script]).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("{script}: {other:?}")),
        }
    }
}

fn spawn(directory: &Path, binaries: &Path, port: u16) -> Result<Process, String> {
    let mut command = as_owner(&binaries.join("postgres"));
    command.arg("-D").arg(directory.join("data")).arg("-k").arg(directory);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).current_dir(directory);
    Process::start("database", &mut command, &directory.join("out.log"), None)
}

/// A command for `program` that ends with this process and does not run as root, which PostgreSQL
/// refuses.
fn as_owner(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(owner) = owner() {
        let owner = owner.to_string();
        command.args(["--reuid", &owner, "--clear-groups"]);
    }
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Who runs it, unless it is who runs this; 65534 is nobody.
fn owner() -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let own = fs::metadata("/proc/self").map(|folder| folder.uid());
    own.is_ok_and(|uid| uid == 0).then_some(65_534)
}

fn installed() -> Result<PathBuf, String> {
    let missing = || format!("no PostgreSQL in {INSTALLED_IN}: apt-get install postgresql");
    let versions = fs::read_dir(INSTALLED_IN).map_err(|_| missing())?;
    let versions = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    versions.filter(|binaries| binaries.join("postgres").exists()).max().ok_or_else(missing)
}
