//! The laws of the house: what a reader may rely on anywhere in this repository, one test a law.
//!
//! A test that fails names every place as `file:line: what it is, and what to do`. The modules:
//!
//! | module | what it holds |
//! |---|---|
//! | [`checkout`] | which files there are, what the top level may hold, patches that still fit |
//! | [`lexer`] | Rust source to tokens, so that texts and comments are not taken for code |
//! | [`source`] | one source file: its tokens, its tests, its attributes |
//! | [`paths`] | every `a::b::c` that a file names, groups taken apart |
//! | [`shape`] | openings, lengths of files, functions and lines |
//! | [`imports`] | who may import whom |
//! | [`words`] | what only one place may do, and what nobody may |
//! | [`modules`] | files that nothing imports |
//! | [`crates`] | dependencies are used, and their licences permissive |
//! | [`licence`] | licence expressions |

mod checkout;
mod crates;
mod imports;
mod lexer;
mod licence;
mod modules;
mod paths;
mod shape;
mod source;
mod words;

use std::fmt;
use std::sync::LazyLock;

use checkout::Checkout;
use source::Source;

/// A place where a law is broken: `file:line: what, and what to do`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    file: String,
    line: usize,
    text: String,
}

impl Violation {
    fn new(file: &str, line: usize, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, text: text.into() }
    }
}

/// What a failed test says; `Debug` because that is what the test harness prints.
struct Failure(String);

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text)
    }
}

type Verdict = Result<(), Failure>;

/// The repository, read once for all laws.
struct House {
    checkout: Checkout,
    sources: Vec<Source>,
}

static HOUSE: LazyLock<Result<House, String>> = LazyLock::new(|| {
    let checkout = Checkout::open()?;
    let mut sources = Vec::new();
    for path in checkout.files.iter().filter(|path| is_rust(path)) {
        sources.push(Source::new(path, &checkout.read(path)?));
    }
    modules::mark_test_files(&mut sources);
    Ok(House { checkout, sources })
});

fn house() -> Result<&'static House, Failure> {
    HOUSE.as_ref().map_err(|error| Failure(error.clone()))
}

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs") && ["src/", "tests/", "examples/"].iter().any(|top| path.starts_with(top))
}

fn verdict(mut violations: Vec<Violation>) -> Verdict {
    violations.sort();
    violations.dedup();
    if violations.is_empty() {
        return Ok(());
    }
    let mut text = format!("{} to put right\n", violations.len());
    for Violation { file, line, text: what } in violations {
        text += &format!("{file}:{line}: {what}\n");
    }
    Err(Failure(text))
}

fn each_source(law: impl Fn(&Source) -> Vec<Violation>) -> Verdict {
    verdict(house()?.sources.iter().flat_map(law).collect())
}

#[test]
fn the_top_level_holds_only_what_was_asked_for() -> Verdict {
    verdict(checkout::strangers_at_the_top(&house()?.checkout.tracked))
}

#[test]
fn no_file_holds_a_path_of_this_machine() -> Verdict {
    verdict(house()?.checkout.own_paths()?)
}

#[test]
fn every_planted_bug_still_applies() -> Verdict {
    verdict(house()?.checkout.stale_patches()?)
}

#[test]
fn every_file_opens_with_what_it_is_for() -> Verdict {
    each_source(shape::opening)
}

#[test]
fn no_file_is_too_long() -> Verdict {
    each_source(shape::file_length)
}

#[test]
fn no_function_is_too_long() -> Verdict {
    each_source(shape::function_length)
}

#[test]
fn no_line_is_too_long() -> Verdict {
    each_source(shape::line_length)
}

#[test]
fn nobody_imports_whom_they_may_not() -> Verdict {
    verdict(imports::check(&house()?.sources))
}

#[test]
fn nobody_does_what_only_one_place_may() -> Verdict {
    each_source(words::sole_owners)
}

#[test]
fn nothing_is_left_undone_or_switched_off() -> Verdict {
    each_source(words::left_undone)
}

#[test]
fn every_lint_exception_is_expected_and_has_a_reason() -> Verdict {
    each_source(words::lint_exceptions)
}

#[test]
fn no_other_file_notes_work_left_undone() -> Verdict {
    let checkout = &house()?.checkout;
    let mut violations = Vec::new();
    for path in checkout.files.iter().filter(|path| !is_rust(path)) {
        violations.extend(words::notes_in_text(path, &checkout.read(path)?));
    }
    verdict(violations)
}

#[test]
fn no_file_lies_where_nothing_imports_it() -> Verdict {
    verdict(modules::orphans(&house()?.sources))
}

#[test]
fn every_dependency_is_used() -> Verdict {
    let house = house()?;
    let metadata = crates::metadata(&house.checkout)?;
    let manifest = house.checkout.read("Cargo.toml")?;
    verdict(crates::unused(&crates::direct(&metadata)?, &manifest, &house.sources))
}

#[test]
fn every_licence_is_permissive() -> Verdict {
    let house = house()?;
    let metadata = crates::metadata(&house.checkout)?;
    verdict(crates::refused_licences(&metadata, &house.checkout.read("Cargo.lock")?)?)
}
