//! The files of the repository: which there are, what lies at the top, what must not be in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Violation;

/// What the top level may hold beside dotfiles and licences.
const AT_THE_TOP: &[&str] =
    &["Cargo.toml", "Cargo.lock", "src", "tests", "examples", "README.md", "Justfile"];

/// Directories that every machine has: to name one says nothing about this one.
const COMMON: &[&str] = &[
    "/app",
    "/data",
    "/etc",
    "/home",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/srv",
    "/tmp",
    "/usr/local",
    "/usr/local/src",
    "/usr/src",
    "/var",
    "/var/lib",
    "/var/tmp",
    "/workspace",
];

/// The repository on disk.
#[derive(Debug)]
pub(crate) struct Checkout {
    /// Its top.
    pub(crate) root: PathBuf,
    /// What git tracks; without git what lies there and is not ignored.
    pub(crate) tracked: Vec<String>,
    /// `tracked` and what is new and not ignored, as far as it is there and is text.
    pub(crate) files: Vec<String>,
    is_git: bool,
}

impl Checkout {
    /// Lists the files.
    pub(crate) fn open() -> Result<Self, String> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let is_git = is_top_of_git(&root);
        let (tracked, mut files) = if is_git {
            let new = git_list(&root, &["ls-files", "-z", "--others", "--exclude-standard"])?;
            let tracked = git_list(&root, &["ls-files", "-z"])?;
            (tracked.clone(), [tracked, new].concat())
        } else {
            let listed = list_files(&root)?;
            (listed.clone(), listed)
        };
        files.sort();
        files.dedup();
        // A link to elsewhere, a file removed since, an image: nothing to read.
        files.retain(|path| {
            let path = root.join(path);
            let is_file = path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
            is_file && fs::read(path).is_ok_and(|bytes| std::str::from_utf8(&bytes).is_ok())
        });
        Ok(Self { root, tracked, files, is_git })
    }

    /// The text of one of the files.
    pub(crate) fn read(&self, path: &str) -> Result<String, String> {
        fs::read_to_string(self.root.join(path)).map_err(|error| format!("{path}: {error}"))
    }

    /// Where a file names the place of this checkout.
    pub(crate) fn own_paths(&self) -> Result<Vec<Violation>, String> {
        let Some(place) = telling_place(&self.root) else { return Ok(Vec::new()) };
        let mut violations = Vec::new();
        for path in &self.files {
            violations.extend(mentions(path, &self.read(path)?, &place));
        }
        Ok(violations)
    }

    /// The planted bugs in `tests/planted` whose patch no longer fits. Only git can tell.
    pub(crate) fn stale_patches(&self) -> Result<Vec<Violation>, String> {
        let is_patch =
            |path: &&String| path.starts_with("tests/planted/") && path.ends_with(".patch");
        let mut violations = Vec::new();
        for path in self.files.iter().filter(is_patch).filter(|_| self.is_git) {
            let output = git(&self.root, &["apply", "--check", path])
                .output()
                .map_err(|error| format!("git apply does not start: {error}"))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                let said = said.trim().replace('\n', "; ");
                let text = format!("the patch does not apply, make it anew: {said}");
                violations.push(Violation::new(path, 1, text));
            }
        }
        Ok(violations)
    }
}

fn git(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(root).args(arguments).stdin(Stdio::null());
    command
}

/// Is git there, and is this the top of its checkout, not a folder somewhere in another one?
fn is_top_of_git(root: &Path) -> bool {
    let Ok(output) = git(root, &["rev-parse", "--show-toplevel"]).output() else { return false };
    let top = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end());
    output.status.success()
        && matches!((top.canonicalize(), root.canonicalize()), (Ok(top), Ok(root)) if top == root)
}

fn git_list(root: &Path, arguments: &[&str]) -> Result<Vec<String>, String> {
    let output = git(root, arguments).output().map_err(|error| format!("git: {error}"))?;
    if !output.status.success() {
        return Err(format!("git: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let list = String::from_utf8_lossy(&output.stdout);
    Ok(list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

/// All files below the top but what .gitignore names there and what packaging adds.
fn list_files(root: &Path) -> Result<Vec<String>, String> {
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
    let mut ignored: Vec<&str> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    ignored.extend([".git", "target", "Cargo.toml.orig"]);
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let error = |error| format!("{}: {error}", folder.display());
        for entry in fs::read_dir(&folder).map_err(error)? {
            let path = entry.map_err(error)?.path();
            let below = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if ignored.contains(&below.as_str()) {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else {
                files.push(below);
            }
        }
    }
    Ok(files)
}

/// What lies at the top and was not asked for.
pub(crate) fn strangers_at_the_top(tracked: &[String]) -> Vec<Violation> {
    let mut names: Vec<&str> =
        tracked.iter().map(|path| path.split('/').next().unwrap_or(path)).collect();
    names.sort_unstable();
    names.dedup();
    let is_kin = |name: &str| name.starts_with('.') || name.starts_with("LICENSE");
    names.retain(|name| !is_kin(name) && !AT_THE_TOP.contains(name));
    let text = "does not belong at the top level; move it below src, tests or examples";
    names.into_iter().map(|name| Violation::new(name, 1, text)).collect()
}

/// The path that would tell where this checkout lies: the directory that holds it, or itself if
/// that one is common; none if that tells nothing either.
fn telling_place(root: &Path) -> Option<String> {
    let tells = |path: &&Path| {
        path.parent().is_some() && !COMMON.iter().any(|common| Path::new(common) == *path)
    };
    root.ancestors().take(2).filter(tells).last().map(|path| path.display().to_string())
}

/// The lines that hold a path, not as part of a longer name.
fn mentions(file: &str, text: &str, place: &str) -> Vec<Violation> {
    let in_name = |character: char| character.is_alphanumeric() || "_-.~".contains(character);
    let mentioned = |line: &str| {
        line.match_indices(place).any(|(start, found)| {
            let before = line.get(..start).and_then(|before| before.chars().next_back());
            let after = line.get(start + found.len()..).and_then(|after| after.chars().next());
            !before.is_some_and(in_name) && !after.is_some_and(in_name)
        })
    };
    let lines = text.lines().enumerate().filter(|(_, line)| mentioned(line));
    let what = format!("`{place}` is a place on this machine; write a path below the top");
    lines.map(|(index, _)| Violation::new(file, index + 1, what.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_at_the_top_is_found_once() {
        let asked =
            [".ci/run", ".gitignore", "Cargo.toml", "src/lib.rs", "LICENSE-MIT", "Justfile"];
        let strangers = ["docs/a.md", "docs/b.md", "notes.txt", "Dockerfile"];
        let tracked: Vec<String> = asked.iter().chain(&strangers).map(|s| (*s).into()).collect();
        let found: Vec<String> =
            strangers_at_the_top(&tracked).into_iter().map(|violation| violation.file).collect();
        assert_eq!(found, ["Dockerfile", "docs", "notes.txt"]);
    }

    #[test]
    fn a_path_of_this_machine_is_found_and_a_longer_name_is_none() {
        let text = "/den/a\n\"file:///den\"\n/dental/a\n/home/den/a\na/den/b\n(/den)\n";
        let found = mentions("README.md", text, "/den");
        let lines: Vec<usize> = found.iter().map(|violation| violation.line).collect();
        assert_eq!(lines, [1, 2, 6]);
    }

    #[test]
    fn a_common_directory_tells_nothing() {
        let place = |path| telling_place(Path::new(path));
        assert_eq!(place("/home/ann/adp").as_deref(), Some("/home/ann"));
        assert_eq!(place("/den/adp").as_deref(), Some("/den"));
        assert_eq!(place("/tmp/adp").as_deref(), Some("/tmp/adp"));
        assert_eq!(place("/den").as_deref(), Some("/den"));
        assert_eq!(place("/app"), None);
    }

    #[test]
    fn without_git_the_directory_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["src/a.rs", "target/debug/x", "data_dump/y", "notes.txt", ".gitignore"] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "/target\n/data_dump\n").unwrap();
        }
        let mut found = list_files(folder.path()).unwrap();
        found.sort();
        assert_eq!(found, [".gitignore", "notes.txt", "src/a.rs"]);
        assert!(!is_top_of_git(folder.path()));
    }
}
