//! Files that nothing imports: each must be reachable by `mod` from a crate's root.

use std::collections::HashMap;

use crate::Violation;
use crate::lexer::{Kind, Token};
use crate::source::{Source, attribute, closing, is_cfg_test};

/// A `mod name;`.
#[derive(Debug)]
struct Declaration {
    /// The files it may stand for.
    files: [String; 2],
    /// Is it under `#[cfg(test)]`?
    for_tests: bool,
}

/// Notes which files are compiled for tests only.
pub(crate) fn mark_test_files(sources: &mut [Source]) {
    let reached = reached(sources);
    for source in sources {
        source.is_test_file = reached.get(&source.path) == Some(&true);
    }
}

/// The files that no root reaches.
pub(crate) fn orphans(sources: &[Source]) -> Vec<Violation> {
    let reached = reached(sources);
    let orphans = sources.iter().filter(|source| !reached.contains_key(&source.path));
    let text = "nothing imports this file; declare it with `mod`, or remove it";
    orphans.map(|source| Violation::new(&source.path, 1, text)).collect()
}

/// Every file that a root reaches; `true` if by way of `#[cfg(test)]` only.
fn reached(sources: &[Source]) -> HashMap<String, bool> {
    let by_path: HashMap<&str, &Source> =
        sources.iter().map(|source| (source.path.as_str(), source)).collect();
    let roots = sources.iter().filter(|source| is_root(&source.path));
    let mut waiting: Vec<(&Source, bool)> = roots.map(|source| (source, false)).collect();
    let mut reached = HashMap::new();
    while let Some((source, for_tests)) = waiting.pop() {
        // Seen again matters only if it was seen as a test and is none.
        match reached.get(&source.path) {
            Some(false) => continue,
            Some(true) if for_tests => continue,
            _ => reached.insert(source.path.clone(), for_tests),
        };
        for declaration in declarations(source) {
            let files = declaration.files.iter().filter_map(|file| by_path.get(file.as_str()));
            waiting.extend(files.map(|file| (*file, for_tests || declaration.for_tests)));
        }
    }
    reached
}

/// Where Cargo starts to compile.
fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(
        parts.as_slice(),
        ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["src", "bin", _, "main.rs"]
            | ["tests" | "examples", _]
            | ["tests" | "examples", _, "main.rs"]
    )
}

/// The modules that a file declares and does not hold itself.
fn declarations(source: &Source) -> Vec<Declaration> {
    let tokens = &source.tokens;
    let mut found = Vec::new();
    // Modules written in place, with the index of the brace that closes each.
    let mut within: Vec<(String, usize)> = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        within.retain(|(_, close)| *close > index);
        let name = tokens.get(index + 1).filter(|name| name.kind == Kind::Word);
        let (true, Some(name), Some(next)) = (token.is("mod"), name, tokens.get(index + 2)) else {
            continue;
        };
        if next.is("{") {
            within.extend(closing(tokens, index + 2).map(|close| (name.text.clone(), close)));
        } else if next.is(";") {
            let inner: Vec<&str> = within.iter().map(|(name, _)| name.as_str()).collect();
            let attributes = attributes_before(tokens, index);
            let at = attributes.iter().find_map(|content| path_attribute(content));
            let for_tests = source.in_tests(token.line)
                || attributes.iter().any(|content| is_cfg_test(content));
            let files = match at {
                Some(at) => [join(folder(&source.path), at), String::new()],
                None => {
                    let base = format!("{}/{}", home(&source.path), inner.join("/"));
                    let base = join(&base, &name.text);
                    [format!("{base}.rs"), format!("{base}/mod.rs")]
                }
            };
            found.push(Declaration { files, for_tests });
        }
    }
    found
}

/// The attributes of the item one of whose tokens has this index.
fn attributes_before(tokens: &[Token], index: usize) -> Vec<&[Token]> {
    let ends = |token: &Token| token.is(";") || token.is("{") || token.is("}");
    let before = tokens.get(..index).unwrap_or_default();
    let start = before.iter().rposition(ends).map_or(0, |end| end + 1);
    (start..index)
        .filter(|at| tokens.get(*at).is_some_and(|token| token.is("#")))
        .filter_map(|at| attribute(tokens, at))
        .collect()
}

fn path_attribute(content: &[Token]) -> Option<&str> {
    match content {
        [name, mark, text] if name.is("path") && mark.is("=") => Some(text.text.trim_matches('"')),
        _ => None,
    }
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The folder of a file's child modules.
fn home(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or_default();
    if is_root(path) || name == "mod.rs" { folder(path) } else { path.trim_end_matches(".rs") }
}

/// Joins and takes `..` and empty parts out.
fn join(folder: &str, path: &str) -> String {
    let mut parts = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Vec<Source> {
        let mut sources: Vec<Source> =
            files.iter().map(|(path, text)| Source::new(path, text)).collect();
        mark_test_files(&mut sources);
        sources
    }

    #[test]
    fn a_file_that_nothing_imports_is_found() {
        let sources = sources(&[
            ("src/lib.rs", "pub mod a;\npub(crate) mod b { mod c; }\n// mod lost;"),
            ("src/main.rs", "fn main() { \"mod lost;\"; }"),
            ("src/a/mod.rs", "mod d;"),
            ("src/a/d.rs", "mod e;"),
            ("src/a/d/e.rs", ""),
            ("src/b/c.rs", ""),
            ("src/lost.rs", ""),
            ("src/a/lost.rs", "mod lost_too;"),
            ("examples/one/main.rs", "#[path = \"../two/shared.rs\"]\nmod shared;"),
            ("examples/two/shared.rs", ""),
            ("tests/suite/main.rs", ""),
            ("tests/suite/lost.rs", ""),
        ]);
        let found: Vec<String> =
            orphans(&sources).into_iter().map(|violation| violation.file).collect();
        assert_eq!(found, ["src/lost.rs", "src/a/lost.rs", "tests/suite/lost.rs"]);
    }

    #[test]
    fn a_file_for_tests_only_is_told_from_others() {
        let sources = sources(&[
            ("src/lib.rs", "mod a;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod t { mod in_t; }"),
            ("src/a.rs", "    #[cfg(test)]\n    #[path = \"b.rs\"]\n    mod c;"),
            ("src/b.rs", ""),
            ("src/tests.rs", "mod deep;"),
            ("src/tests/deep.rs", ""),
            ("src/t/in_t.rs", ""),
        ]);
        let for_tests = sources.iter().filter(|source| source.is_test_file);
        let found: Vec<&str> = for_tests.map(|source| source.path.as_str()).collect();
        assert_eq!(found, ["src/b.rs", "src/tests.rs", "src/tests/deep.rs", "src/t/in_t.rs"]);
    }
}
