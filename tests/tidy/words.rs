//! What only one place may do, and what nobody may: read by tokens, so a word in a text or a
//! comment is no deed.

use crate::Violation;
use crate::lexer::{Kind, Token};
use crate::paths::paths;
use crate::source::Source;

/// What marks work left undone, in comments and in other files; taken apart so that this file
/// holds neither.
const NOTES: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

/// The environment, wall time, file names of batches and `unsafe` have one owner each.
pub(crate) fn sole_owners(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut add = |line: usize, text: String| {
        violations.push(Violation::new(&source.path, line, text));
    };
    for token in &source.tokens {
        if token.is("unsafe") && source.path != "src/state/mod.rs" {
            add(token.line, "`unsafe` is for src/state/mod.rs only; do without".to_owned());
        }
    }
    if !source.path.starts_with("src/") {
        return violations;
    }
    for path in paths(source.tokens.iter()) {
        if reads_environment(&path.words) && !source.path.starts_with("src/cli/settings") {
            let text = "the environment is read in src/cli/settings only; pass the setting in";
            add(path.line, text.to_owned());
        }
        let owners = ["SystemTime", "Utc", "Local"];
        if let Some(owner) = owners.iter().find(|owner| path.holds(&[owner, "now"]))
            && source.path != "src/clock.rs"
        {
            add(path.line, format!("`{owner}::now` is for src/clock.rs only; take a `Clock`"));
        }
    }
    for token in source.code().filter(|token| token.kind == Kind::Text) {
        let names = [".jsonl", ".staging"];
        if let Some(name) = names.iter().find(|name| token.text.contains(**name))
            && source.path != "src/batch/name.rs"
        {
            let text = format!("`{name}` is known to src/batch/name.rs only; ask that module");
            add(token.line, text);
        }
    }
    violations
}

fn reads_environment(words: &[String]) -> bool {
    let readers = ["var", "vars", "var_os", "vars_os"];
    let is = |word: &String, names: &[&str]| names.contains(&word.as_str());
    words.iter().any(|word| is(word, &["var_os", "vars_os"]))
        || words.windows(2).any(|pair| match pair {
            [module, reader] => module == "env" && is(reader, &readers),
            _ => false,
        })
}

/// No work left undone, no test switched off.
pub(crate) fn left_undone(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut add = |line: usize, text: String| {
        violations.push(Violation::new(&source.path, line, text));
    };
    for pair in source.tokens.windows(3) {
        let [name, mark, next] = pair else { continue };
        let names = ["todo", "unimplemented", "dbg"];
        if names.iter().any(|undone| name.is(undone)) && mark.is("!") && !next.is("=") {
            add(name.line, format!("`{}!` is left here; finish or remove it", name.text));
        }
    }
    for attribute in source.attributes() {
        if let Some(first) = attribute.first().filter(|first| first.is("ignore")) {
            let text = "the test is switched off; make it pass or remove it";
            add(first.line, text.to_owned());
        }
    }
    for comment in &source.comments {
        for (index, line) in comment.text.lines().enumerate() {
            if let Some(note) = note_in(line) {
                add(comment.line + index, left_note(note));
            }
        }
    }
    violations
}

/// Notes of work left undone in a file that is no Rust source.
pub(crate) fn notes_in_text(path: &str, text: &str) -> Vec<Violation> {
    let lines = text.lines().enumerate();
    let notes = lines.filter_map(|(index, line)| note_in(line).map(|note| (index + 1, note)));
    notes.map(|(line, note)| Violation::new(path, line, left_note(note))).collect()
}

fn left_note(note: &str) -> String {
    format!("a {note} is left here; do it, or say why it is so")
}

fn note_in(line: &str) -> Option<&'static str> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let mut words = line.split(|character| !is_word(character));
    words.find_map(|word| NOTES.into_iter().find(|note| *note == word))
}

/// An exception to a lint is an `expect`, which ends with its cause, and carries its reason.
pub(crate) fn lint_exceptions(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for attribute in source.attributes() {
        for call in attribute.windows(2) {
            let [name, open] = call else { continue };
            if !open.is("(") {
                continue;
            }
            if name.is("allow") {
                let text = "`allow` outlives its cause; use `expect(…, reason = \"…\")`";
                violations.push(Violation::new(&source.path, name.line, text));
            } else if name.is("expect") && !has_reason(attribute) {
                let text = "the `expect` gives no reason; add `reason = \"…\"`";
                violations.push(Violation::new(&source.path, name.line, text));
            }
        }
    }
    violations
}

fn has_reason(attribute: &[Token]) -> bool {
    attribute.windows(3).any(|words| match words {
        [name, mark, text] => {
            name.is("reason") && mark.is("=") && text.kind == Kind::Text && text.text.len() > 2
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(law: impl Fn(&Source) -> Vec<Violation>, path: &str, text: &str) -> usize {
        law(&Source::new(path, text)).len()
    }

    #[test]
    fn a_deed_of_a_sole_owner_elsewhere_is_found() {
        for (owner, planted) in [
            ("src/cli/settings/mod.rs", "fn f() { std::env::var(\"A\"); }"),
            ("src/cli/settings.rs", "use std::env::{args, vars};"),
            ("src/cli/settings/read.rs", "fn f() { std::env::var_os(\"A\"); }"),
            ("src/clock.rs", "fn f() { std::time::SystemTime::now(); }"),
            ("src/clock.rs", "fn f() { chrono::Utc::now(); }"),
            ("src/clock.rs", "fn f() { Local::now(); }"),
            ("src/batch/name.rs", "fn f() { g(\"a.jsonl\"); }"),
            ("src/batch/name.rs", "const A: &str = r\"/.staging/\";"),
            ("src/state/mod.rs", "fn f() { unsafe { g() } }"),
        ] {
            assert_eq!(count(sole_owners, "src/web/app.rs", planted), 1, "{planted}");
            assert_eq!(count(sole_owners, owner, planted), 0, "{planted}");
        }
        assert_eq!(count(sole_owners, "examples/a.rs", "unsafe fn f() {}"), 1);
        let allowed = "// unsafe, .jsonl, env::var\nfn unsafe_code(var: A) { clock.now(); Instant::\
                       now(); env!(\"A\"); env::args() }\n#[cfg(test)]\nmod t { const A: B = \
                       \".jsonl\"; }";
        assert_eq!(count(sole_owners, "src/web/app.rs", allowed), 0);
        assert_eq!(count(sole_owners, "tests/suite/a.rs", "fn f() { std::env::var(\"A\"); }"), 0);
    }

    #[test]
    fn what_is_left_undone_is_found() {
        for planted in [
            "fn f() { todo!() }".to_owned(),
            "fn f() { unimplemented!(\"a\") }".to_owned(),
            "fn f() { dbg!(a); }".to_owned(),
            "#[test]\n#[ignore]\nfn f() {}".to_owned(),
            "#[ignore = \"slow\"]\nfn f() {}".to_owned(),
            format!("// {}: later", NOTES[0]),
            format!("/* a\n {}(me) */", NOTES[1]),
        ] {
            assert_eq!(count(left_undone, "tests/a.rs", &planted), 1, "{planted}");
        }
        let allowed = "// todo in small letters, METHODOLOGY\nfn f() { a(\"dbg!\"); todo != 1; }";
        assert_eq!(count(left_undone, "tests/a.rs", allowed), 0);
        let noted = format!("a\n# {} b\n", NOTES[0]);
        assert_eq!(notes_in_text("tests/run", &noted).len(), 1);
    }

    #[test]
    fn an_exception_that_may_outlive_its_cause_is_found() {
        for planted in [
            "#[allow(unused)]\nfn f() {}",
            "#![allow(unused, reason = \"a\")]",
            "#[cfg_attr(test, allow(unused))]\nfn f() {}",
            "#[expect(unused)]\nfn f() {}",
            "#![expect(\n    unused,\n    reason = \"\"\n)]",
        ] {
            assert_eq!(count(lint_exceptions, "src/a.rs", planted), 1, "{planted}");
        }
        let allowed = "#[expect(unused, reason = \"a\")]\nfn f() { a.expect(\"b\"); allow(c); }";
        assert_eq!(count(lint_exceptions, "src/a.rs", allowed), 0);
    }
}
