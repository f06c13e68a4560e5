//! Openings, and the lengths of files, functions and lines.

use crate::Violation;
use crate::lexer::Kind;
use crate::source::{Source, closes, closing, opens};

/// Of a file, without its tests.
const FILE_LINES_MAX: usize = 400;
/// Of a function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 60;
/// Of a line, in characters.
const LINE_COLUMNS_MAX: usize = 100;

/// A file's first line says what it is for.
pub(crate) fn opening(source: &Source) -> Vec<Violation> {
    if source.text.starts_with("//!") {
        return Vec::new();
    }
    let text = "the file does not open with `//!`; say there what it is for";
    vec![Violation::new(&source.path, 1, text)]
}

/// A file is short enough to be read in one go.
pub(crate) fn file_length(source: &Source) -> Vec<Violation> {
    let count = source.text.lines().count();
    let outside: Vec<usize> = (1..=count).filter(|line| !source.in_tests(*line)).collect();
    let Some(first_over) = outside.get(FILE_LINES_MAX) else { return Vec::new() };
    let text = format!(
        "the file has {} lines without its tests, at most {FILE_LINES_MAX} are allowed; split it",
        outside.len(),
    );
    vec![Violation::new(&source.path, *first_over, text)]
}

/// A function fits on a screen.
pub(crate) fn function_length(source: &Source) -> Vec<Violation> {
    let tokens = &source.tokens;
    let mut violations = Vec::new();
    for (index, token) in tokens.iter().enumerate().filter(|(_, token)| token.is("fn")) {
        let Some(name) = tokens.get(index + 1).filter(|name| name.kind == Kind::Word) else {
            continue;
        };
        let close = body(source, index).and_then(|open| closing(tokens, open));
        let Some(close) = close.and_then(|close| tokens.get(close)) else { continue };
        let lines = close.line - token.line + 1;
        if lines > FUNCTION_LINES_MAX {
            let text = format!(
                "`{}` has {lines} lines, at most {FUNCTION_LINES_MAX} are allowed; take a step out",
                name.text,
            );
            violations.push(Violation::new(&source.path, token.line, text));
        }
    }
    violations
}

/// The index of the brace that opens the body of the function whose `fn` has this index.
fn body(source: &Source, start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in source.tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            ";" if depth == 0 => return None,
            "{" if depth == 0 => return Some(index),
            _ if opens(token) => depth += 1,
            _ if closes(token) => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// A line fits beside another one.
pub(crate) fn line_length(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > LINE_COLUMNS_MAX {
            let text = format!(
                "the line has {columns} columns, at most {LINE_COLUMNS_MAX} are allowed; wrap it",
            );
            violations.push(Violation::new(&source.path, index + 1, text));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(violations: &[Violation]) -> Vec<usize> {
        violations.iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn a_file_without_an_opening_is_found() {
        assert_eq!(opening(&Source::new("src/a.rs", "//! What for.\n")), []);
        assert_eq!(lines(&opening(&Source::new("src/a.rs", "// What for.\n"))), [1]);
        assert_eq!(lines(&opening(&Source::new("src/a.rs", ""))), [1]);
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_are_not_counted() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(500));
        let at_most = format!("{tests}{}", "a();\n".repeat(400));
        assert_eq!(file_length(&Source::new("src/a.rs", &at_most)), []);
        let over = format!("{}{tests}", "a();\n".repeat(401));
        assert_eq!(lines(&file_length(&Source::new("src/a.rs", &over))), [401]);
    }

    #[test]
    fn a_long_function_is_found_also_inside_another_item_and_in_tests() {
        let function = |lines: usize| {
            let signature = "async fn f<'a>(x: [u8; 3], y: fn(A) -> B) -> Result<(), C>\nwhere\n";
            format!("{signature}D: E {{\n{}}}\n", "g(\"}\"); // }\n".repeat(lines - 4))
        };
        let text = format!("mod a {{ fn b(); impl C {{\n{}}} }}", function(60));
        assert_eq!(function_length(&Source::new("src/a.rs", &text)), []);
        let text = format!("#[cfg(test)]\nmod a {{\n{}}}", function(61));
        assert_eq!(lines(&function_length(&Source::new("src/a.rs", &text))), [3]);
    }

    #[test]
    fn a_long_line_is_found_and_counted_in_characters() {
        let text = format!("{}\n{}\n", "é".repeat(100), "é".repeat(101));
        assert_eq!(lines(&line_length(&Source::new("src/a.rs", &text))), [2]);
    }
}
