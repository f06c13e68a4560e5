//! The examples do what their heads say, clean up, and fail when something is wrong.

mod clients;
mod deploy;
mod factorial;
mod fake_server;
mod files;
mod hosts;
mod page;
mod telemetry;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::harness::BINARY;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// An example that Cargo has built beside the binary.
pub(crate) fn built_example(name: &str) -> PathBuf {
    let path = Path::new(BINARY).parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    path
}

/// Runs a script, or a built example, in an environment of its own.
struct Example {
    command: Command,
    /// Where it may put what it removes again.
    temporary: TempDir,
}

impl Example {
    fn new(name: &str) -> Self {
        let program = if name.ends_with(".sh") { folder().join(name) } else { built_example(name) };
        let temporary = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("BINARY", BINARY).env("TMPDIR", temporary.path()).stdin(Stdio::null());
        Self { command, temporary }
    }

    fn arg(mut self, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(value);
        self
    }

    fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it a file as its stdin.
    fn stdin(mut self, path: &Path) -> Self {
        self.command.stdin(std::fs::File::open(path).unwrap());
        self
    }

    /// Runs it to its end; whatever came of it, nothing may be left behind.
    fn run(mut self) -> Output {
        let output = self.command.output().unwrap();
        let left: Vec<_> = std::fs::read_dir(self.temporary.path()).unwrap().collect();
        assert!(left.is_empty(), "it leaves behind {left:?}");
        output
    }

    /// Runs it, and expects it to succeed; what it printed.
    fn succeed(self) -> String {
        let output = self.run();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it, and expects it to fail; its code and what it said.
    fn fail(self) -> (i32, String) {
        let output = self.run();
        assert!(!output.status.success(), "{output:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn every_example_is_run_by_a_test_and_says_how_to_run_it() {
    let tests = [
        include_str!("examples/clients.rs"),
        include_str!("examples/factorial.rs"),
        include_str!("examples/files.rs"),
        include_str!("examples/hosts.rs"),
        include_str!("examples/page.rs"),
        include_str!("examples/telemetry.rs"),
    ]
    .concat();
    let mut found = 0;
    for path in std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        // The folders are programs for other tests, and what is deployed.
        if path.is_dir() {
            continue;
        }
        found += 1;
        let (call, how) = match name.strip_suffix(".rs") {
            Some(name) => (format!("Example::new(\"{name}\")"), format!("--example {name}")),
            None => (format!("Example::new(\"{name}\")"), format!("examples/{name}")),
        };
        assert!(tests.contains(&call), "no test runs {name}");
        let text = std::fs::read_to_string(&path).unwrap();
        let is_comment = |line: &&str| line.starts_with('#') || line.starts_with("//!");
        let head: Vec<_> = text.lines().take_while(is_comment).collect();
        assert!(
            head.len() > 4 && head.join("\n").contains(&how),
            "{name} does not say how to run it"
        );
    }
    assert!(found >= 7, "only {found} examples were found");
}
