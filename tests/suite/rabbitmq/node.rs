//! The process of a broker and the shell that keeps it: as soon as the pipe from the test process
//! closes, which it does however that process ends, the shell kills the broker and removes its
//! files.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::wait_for;

/// $1 is a directory to remove, the rest the broker's command. A line on stdin lets go of the
/// broker, which has ended then; without it the end of stdin is the end of the broker.
const KEEPER: &str = r#"
trap '' INT TERM HUP QUIT
exec 3<&0
directory=$1
shift
"$@" >"$directory/out" 2>&1 </dev/null 3<&- &
broker=$!
(
    if ! read -r _ <&3; then
        kill -9 "$broker"
        until rm -rf "$directory"; do sleep 0.1; done
    fi
) &
echo "$broker"
wait "$broker" 2>"$directory/ended"
wait
"#;

/// One run of the broker.
pub(crate) struct Node {
    keeper: Child,
    pub(crate) pid: Pid,
}

impl Node {
    pub(crate) fn start(dir: &Path, broker: &Command) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper"]).arg(dir);
        command.arg(broker.get_program()).args(broker.get_args());
        command.env_clear().current_dir(dir);
        command.envs(broker.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        Self { keeper, pid }
    }

    pub(crate) fn is_there(&self) -> bool {
        // The keeper reaps it at once.
        Path::new(&format!("/proc/{}", self.pid.as_raw_nonzero())).exists()
    }

    pub(crate) fn end(mut self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
        wait_for("the end of the broker", || (!self.is_there()).then_some(()));
        self.keeper.stdin.take().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _reaped = self.keeper.wait();
    }
}
