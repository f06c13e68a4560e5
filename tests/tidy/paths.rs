//! Every `a::b::c` that a file names: in `use` lines, with groups taken apart, and in the code.

use crate::lexer::{Kind, Token};
use crate::source::Source;

/// A path and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPath {
    /// Its words; `*` for everything of a module.
    pub(crate) words: Vec<String>,
    /// The line of its last word.
    pub(crate) line: usize,
}

impl NamedPath {
    /// Does it hold these words side by side?
    pub(crate) fn holds(&self, words: &[&str]) -> bool {
        self.words.windows(words.len()).any(|window| window == words)
    }
}

/// All paths among these tokens, single words too.
pub(crate) fn paths<'a>(tokens: impl Iterator<Item = &'a Token>) -> Vec<NamedPath> {
    let tokens: Vec<&Token> = tokens.collect();
    let mut found = Vec::new();
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        if token.kind == Kind::Word && starts_path(&tokens, index) {
            index = read_tree(&tokens, index, &[], &mut found);
        } else {
            index += 1;
        }
    }
    found
}

/// A word does not start a path if it goes on with one: behind `a::` or `a::<b>::`.
fn starts_path(tokens: &[&Token], index: usize) -> bool {
    let back = |steps: usize| index.checked_sub(steps).and_then(|index| tokens.get(index));
    let behind_path = back(1).is_some_and(|token| token.is("::"));
    let goes_on = back(2).is_some_and(|token| {
        token.is(">") || (token.kind == Kind::Word && !token.is("use") && !token.is("in"))
    });
    !(behind_path && goes_on)
}

/// Reads one tree of a `use` from its first word on; returns the index behind it.
fn read_tree(
    tokens: &[&Token],
    start: usize,
    prefix: &[String],
    found: &mut Vec<NamedPath>,
) -> usize {
    let mut words = prefix.to_vec();
    let mut index = start;
    let mut line = 0;
    while let Some(token) = tokens.get(index) {
        if token.is("{") {
            return read_group(tokens, index, &words, found);
        }
        if token.kind == Kind::Word || token.is("*") {
            // `use a::{self}` names `a`.
            if !token.is("self") || words.is_empty() {
                words.push(token.text.clone());
            }
            line = token.line;
            index += 1;
        }
        match tokens.get(index) {
            Some(mark) if mark.is("::") && continues(tokens.get(index + 1)) => index += 1,
            _ => break,
        }
    }
    found.push(NamedPath { words, line });
    index
}

fn continues(token: Option<&&Token>) -> bool {
    token.is_some_and(|token| token.kind == Kind::Word || token.is("{") || token.is("*"))
}

/// Reads `{a, b::c as d}` from its brace on; returns the index behind it.
fn read_group(
    tokens: &[&Token],
    open: usize,
    prefix: &[String],
    found: &mut Vec<NamedPath>,
) -> usize {
    let mut index = open + 1;
    while let Some(token) = tokens.get(index) {
        if token.is("}") {
            return index + 1;
        }
        if token.is("as") {
            index += 2;
        } else if token.kind == Kind::Word || token.is("*") || token.is("{") {
            index = read_tree(tokens, index, prefix, found);
        } else {
            index += 1;
        }
    }
    index
}

/// The paths into this crate that a file of `src` names outside tests, from the crate's root on:
/// `crate::a`, `super::a` and the crate's own name are made the same.
pub(crate) fn own_paths(source: &Source) -> Vec<NamedPath> {
    let home = module_of(&source.path);
    let mut own = Vec::new();
    for path in paths(source.code()) {
        let supers = path.words.iter().take_while(|word| *word == "super").count();
        let is_root = path.words.first().is_some_and(|word| {
            word == "crate" || (word == "async_data_processor" && path.words.len() > 1)
        });
        let mut words = if is_root {
            Vec::new()
        } else if supers > 0 {
            home.get(..home.len().saturating_sub(supers)).unwrap_or_default().to_vec()
        } else if path.words.first().is_some_and(|word| word == "self") {
            home.clone()
        } else if path.words.len() > 1 && !home.is_empty() && is_front_page(&source.path) {
            // In a `mod.rs`, `child::thing` is a path of its own.
            home.clone()
        } else {
            continue;
        };
        let skipped = if is_root { 1 } else { supers };
        words.extend(path.words.iter().skip(skipped).filter(|word| *word != "self").cloned());
        if !words.is_empty() {
            own.push(NamedPath { words, line: path.line });
        }
    }
    own
}

fn is_front_page(path: &str) -> bool {
    path.ends_with("/mod.rs")
}

/// `src/rooms/messages/mod.rs` is the module `rooms::messages`.
fn module_of(path: &str) -> Vec<String> {
    let below = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut words: Vec<String> = below.split('/').map(str::to_owned).collect();
    if words.last().is_some_and(|word| ["mod", "lib", "main"].contains(&word.as_str())) {
        words.pop();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        let source = Source::new("src/a.rs", text);
        paths(source.tokens.iter()).iter().map(|path| path.words.join("::")).collect()
    }

    fn own(path: &str, text: &str) -> Vec<String> {
        own_paths(&Source::new(path, text)).iter().map(|path| path.words.join("::")).collect()
    }

    #[test]
    fn groups_are_taken_apart() {
        let found = named("use crate::{a, b::{self, c as d, e::*}, f};");
        for path in ["crate::a", "crate::b", "crate::b::c", "crate::b::e::*", "crate::f"] {
            assert!(found.iter().any(|found| found == path), "{path} in {found:?}");
        }
    }

    #[test]
    fn paths_in_code_are_found_without_what_follows() {
        let found = named("fn f() -> x::Y<z::W> { a::b::<c::D>::e(); ::std::env::var(g); }");
        for path in ["x::Y", "z::W", "a::b", "c::D", "std::env::var"] {
            assert!(found.iter().any(|found| found == path), "{path} in {found:?}");
        }
        assert!(!found.iter().any(|path| path == "e"));
    }

    #[test]
    fn every_way_to_name_an_own_module_is_one() {
        let text =
            "use crate::{a, b::c};\nuse super::super::d::E;\nuse async_data_processor::f::G;";
        let found = own("src/rooms/messages/mod.rs", text);
        assert_eq!(found, ["a", "b::c", "d::E", "f::G"]);
        assert_eq!(own("src/broker/take.rs", "use super::embedded::X;"), ["broker::embedded::X"]);
        assert_eq!(own("src/broker/mod.rs", "use embedded::X;"), ["broker::embedded::X"]);
        assert_eq!(own("src/web/mod.rs", "#[cfg(test)]\nmod t { use crate::a::B; }"), [""; 0]);
        assert_eq!(own("src/web/app.rs", "pub(crate) fn f() { \"crate::a::b\"; }"), [""; 0]);
    }
}
