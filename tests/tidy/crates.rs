//! Dependencies, as `cargo metadata` tells them: each is used, and each licence is permissive.

use std::collections::HashSet;
use std::process::{Command, Output};

use serde_json::Value;

use crate::Violation;
use crate::checkout::Checkout;
use crate::licence::is_permissive;
use crate::paths::paths;
use crate::source::Source;

/// The platform whose dependencies are judged.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// A dependency of Cargo.toml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Direct {
    /// The name in Cargo.toml.
    name: String,
    /// Is it one of [dev-dependencies]?
    for_tests: bool,
}

/// What Cargo knows of this package and of all it builds on. The network is asked only if the
/// answer is not on this machine.
pub(crate) fn metadata(checkout: &Checkout) -> Result<Value, String> {
    let mut said = String::new();
    for more in [&["--offline"][..], &[]] {
        let output = cargo_metadata(checkout, more)?;
        if output.status.success() {
            let error = |error| format!("cargo metadata gave no JSON: {error}");
            return serde_json::from_slice(&output.stdout).map_err(error);
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    Err(format!("cargo metadata failed: {said}"))
}

fn cargo_metadata(checkout: &Checkout, more: &[&str]) -> Result<Output, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", PLATFORM]);
    command.args(more).current_dir(&checkout.root);
    command.output().map_err(|error| format!("cargo metadata does not start: {error}"))
}

/// Reads a list of the answer.
fn list<'a>(value: &'a Value, pointer: &str) -> Result<&'a [Value], String> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.map(Vec::as_slice).ok_or_else(|| format!("cargo metadata has no list {pointer}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The dependencies that Cargo.toml names.
pub(crate) fn direct(metadata: &Value) -> Result<Vec<Direct>, String> {
    let root = metadata.pointer("/resolve/root").and_then(Value::as_str);
    let packages = list(metadata, "/packages")?;
    let own = packages.iter().find(|package| Some(text(package, "id")) == root);
    let dependencies = list(own.ok_or("cargo metadata has no root package")?, "/dependencies")?;
    let direct = dependencies.iter().filter(|dependency| text(dependency, "kind") != "build");
    let read = |dependency| {
        let renamed = text(dependency, "rename");
        let name = if renamed.is_empty() { text(dependency, "name") } else { renamed };
        Direct { name: name.to_owned(), for_tests: text(dependency, "kind") == "dev" }
    };
    Ok(direct.map(read).collect())
}

/// The dependencies that no source names where it should: one of [dependencies] in the program,
/// one of [dev-dependencies] in tests or examples.
pub(crate) fn unused(direct: &[Direct], manifest: &str, sources: &[Source]) -> Vec<Violation> {
    let (mut by_program, mut by_tests) = (HashSet::new(), HashSet::new());
    for source in sources {
        by_tests.extend(named_first(source, |_| true));
        if source.station().is_some() {
            by_program.extend(named_first(source, |line| !source.in_tests(line)));
        }
    }
    let mut violations = Vec::new();
    for Direct { name, for_tests } in direct {
        let word = name.replace('-', "_");
        let text = match (*for_tests, by_program.contains(&word), by_tests.contains(&word)) {
            (false, true, _) | (true, _, true) => continue,
            (false, false, true) => "is used by tests and examples only; it is a dev-dependency",
            (_, _, false) => "is used nowhere; remove it",
        };
        let line = line_of_key(manifest, name, *for_tests);
        violations.push(Violation::new("Cargo.toml", line, format!("`{name}` {text}")));
    }
    violations
}

/// The first words of all paths, and `use name;`.
fn named_first(source: &Source, holds: impl Fn(usize) -> bool) -> HashSet<String> {
    let tokens = source.tokens.iter().filter(|token| holds(token.line));
    let used_whole = source.tokens.windows(2).filter_map(|pair| match pair {
        [r#use, name] if r#use.is("use") && holds(name.line) => Some(name.text.clone()),
        _ => None,
    });
    let longer = paths(tokens).into_iter().filter(|path| path.words.len() > 1);
    longer.filter_map(|path| path.words.into_iter().next()).chain(used_whole).collect()
}

/// The line of a key in the wanted sort of dependencies; 1 if it is written in some other way.
fn line_of_key(manifest: &str, name: &str, for_tests: bool) -> usize {
    let wanted = if for_tests { "[dev-dependencies" } else { "[dependencies" };
    let (shared, own) = (format!("{wanted}]"), format!("{wanted}.{name}]"));
    let mut section = "";
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        let key = line.split(['=', '.']).next().unwrap_or_default().trim();
        if line == own || (section == shared && key == name) {
            return index + 1;
        }
    }
    1
}

/// The packages, of those that are built, whose licence asks for more than a notice.
pub(crate) fn refused_licences(metadata: &Value, lock: &str) -> Result<Vec<Violation>, String> {
    let nodes = list(metadata, "/resolve/nodes")?;
    let built: HashSet<&str> = nodes.iter().map(|node| text(node, "id")).collect();
    let mut violations = Vec::new();
    for package in list(metadata, "/packages")? {
        if !built.contains(text(package, "id")) {
            continue;
        }
        let (name, version) = (text(package, "name"), text(package, "version"));
        let licence = text(package, "license");
        let problem = match is_permissive(licence) {
            Ok(true) => continue,
            _ if licence.is_empty() => "names no licence".to_owned(),
            Ok(false) => format!("is under `{licence}`, which is not permissive"),
            Err(error) => format!("has a licence that cannot be read, `{licence}`: {error}"),
        };
        let text = format!("{name} {version} {problem}; take another crate");
        violations.push(Violation::new("Cargo.lock", line_in_lock(lock, name, version), text));
    }
    Ok(violations)
}

fn line_in_lock(lock: &str, name: &str, version: &str) -> usize {
    let (name, version) = (format!("name = \"{name}\""), format!("version = \"{version}\""));
    let lines: Vec<&str> = lock.lines().collect();
    lines.windows(2).position(|pair| pair == [name.as_str(), version.as_str()]).map_or(1, |i| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_dependency_that_is_not_used_where_it_should_be_is_found() {
        let names = ["in-src", "derived", "in_tests", "nowhere", "commented"];
        let names = names.into_iter().map(|name| (name, false));
        let names = names.chain([("dev-one", true), ("dev-two", true)]);
        let direct: Vec<Direct> =
            names.map(|(name, for_tests)| Direct { name: name.to_owned(), for_tests }).collect();
        let manifest = "[package]\nnowhere = 1\n[dependencies]\nin_tests = \"1\"\nnowhere.a = 1\n\
                        [dependencies.commented]\nb = 1\n[dev-dependencies]\nnowhere = \"1\"\n\
                        dev-two = \"1\"\n";
        let sources = [
            Source::new("src/a.rs", "use in_src;\n#[derive(derived::Error)]\n// commented::X"),
            Source::new("src/b.rs", "#[cfg(test)]\nmod t { use in_tests::A; }"),
            Source::new("tests/c.rs", "fn f() { dev_one::g(); }"),
        ];
        let found = unused(&direct, manifest, &sources);
        let found: Vec<(usize, &str)> =
            found.iter().map(|violation| (violation.line, violation.text.as_str())).collect();
        assert_eq!(
            found,
            [
                (4, "`in_tests` is used by tests and examples only; it is a dev-dependency"),
                (5, "`nowhere` is used nowhere; remove it"),
                (6, "`commented` is used nowhere; remove it"),
                (10, "`dev-two` is used nowhere; remove it"),
            ]
        );
    }

    #[test]
    fn the_dependencies_are_those_of_the_root_under_their_names_here() {
        let metadata = json!({
            "resolve": {"root": "r"},
            "packages": [
                {"id": "a", "dependencies": [{"name": "not-ours"}]},
                {"id": "r", "dependencies": [
                    {"name": "one", "rename": null, "kind": null},
                    {"name": "two", "rename": "zwei", "kind": "dev"},
                    {"name": "three", "kind": "build"},
                ]},
            ],
        });
        let one = Direct { name: "one".to_owned(), for_tests: false };
        let two = Direct { name: "zwei".to_owned(), for_tests: true };
        assert_eq!(direct(&metadata), Ok(vec![one, two]));
    }

    #[test]
    fn a_licence_is_judged_if_its_package_is_built() {
        let metadata = json!({
            "resolve": {"nodes": [{"id": "a"}, {"id": "b"}, {"id": "c"}, {"id": "d"}]},
            "packages": [
                {"id": "a", "name": "a", "version": "1.0.0", "license": "MIT"},
                {"id": "b", "name": "b", "version": "1.0.0", "license": "GPL-3.0-only"},
                {"id": "c", "name": "c", "version": "1.0.0", "license": null},
                {"id": "d", "name": "d", "version": "1.0.0", "license": "MIT,ISC AND"},
                {"id": "e", "name": "e", "version": "1.0.0", "license": "GPL-3.0-only"},
            ],
        });
        let lock = "[[package]]\nname = \"b\"\nversion = \"0.9.0\"\n\nname = \"b\"\nversion = \
                    \"1.0.0\"\n";
        let found = refused_licences(&metadata, lock).unwrap();
        let lines: Vec<usize> = found.iter().map(|violation| violation.line).collect();
        assert_eq!(lines, [5, 1, 1], "{found:?}");
    }
}
