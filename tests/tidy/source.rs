//! One source file: its tokens without comments, its comments, its tests, its attributes.

use std::ops::RangeInclusive;

use crate::lexer::{Kind, Token, lex};

/// A source file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Below the top of the repository, as `src/batch/name.rs`.
    pub(crate) path: String,
    /// As written.
    pub(crate) text: String,
    /// Without comments.
    pub(crate) tokens: Vec<Token>,
    /// The comments.
    pub(crate) comments: Vec<Token>,
    /// Is the whole file compiled for tests only, as `#[cfg(test)] mod tests;` makes it?
    pub(crate) is_test_file: bool,
    tests: Vec<RangeInclusive<usize>>,
}

impl Source {
    /// Reads one file's text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (comments, tokens): (Vec<_>, Vec<_>) =
            lex(text).into_iter().partition(|token| token.kind == Kind::Comment);
        let tests = test_items(&tokens);
        let (path, text) = (path.to_owned(), text.to_owned());
        Self { path, text, tokens, comments, is_test_file: false, tests }
    }

    /// Does this line belong to an item under `#[cfg(test)]` at column 0?
    pub(crate) fn in_tests(&self, line: usize) -> bool {
        self.is_test_file || self.tests.iter().any(|lines| lines.contains(&line))
    }

    /// The tokens outside tests.
    pub(crate) fn code(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter().filter(|token| !self.in_tests(token.line))
    }

    /// The folder or file below `src` it belongs to; `None` outside `src`.
    pub(crate) fn station(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        Some(below.split_once('/').map_or(below.trim_end_matches(".rs"), |(top, _)| top))
    }

    /// The tokens of each attribute, from behind `#[` or `#![` to before its `]`.
    pub(crate) fn attributes(&self) -> Vec<&[Token]> {
        let starts = self.tokens.iter().enumerate().filter(|(_, token)| token.is("#"));
        starts.filter_map(|(start, _)| attribute(&self.tokens, start)).collect()
    }
}

/// The content of the attribute whose `#` has this index.
pub(crate) fn attribute(tokens: &[Token], start: usize) -> Option<&[Token]> {
    let mut open = start + 1;
    if tokens.get(open)?.is("!") {
        open += 1;
    }
    let close = if tokens.get(open)?.is("[") { closing(tokens, open)? } else { return None };
    tokens.get(open + 1..close)
}

/// The index of the bracket that closes the one with this index.
pub(crate) fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        if opens(token) {
            depth += 1;
        } else if closes(token) {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some(index);
            }
        }
    }
    None
}

/// Is it an opening bracket of any sort?
pub(crate) fn opens(token: &Token) -> bool {
    token.is("(") || token.is("[") || token.is("{")
}

/// Is it a closing bracket of any sort?
pub(crate) fn closes(token: &Token) -> bool {
    token.is(")") || token.is("]") || token.is("}")
}

/// Does this attribute's content make its item one of the tests?
pub(crate) fn is_cfg_test(content: &[Token]) -> bool {
    content.first().is_some_and(|token| token.is("cfg"))
        && content.iter().any(|token| token.is("test"))
        && !content.iter().any(|token| token.is("not"))
}

/// The lines of every item under `#[cfg(test)]` at column 0.
fn test_items(tokens: &[Token]) -> Vec<RangeInclusive<usize>> {
    let mut items = Vec::new();
    for (start, token) in tokens.iter().enumerate() {
        let at_column_0 = token.is("#") && token.column == 0;
        if at_column_0 && attribute(tokens, start).is_some_and(is_cfg_test) {
            let end = item_end(tokens, start).and_then(|end| tokens.get(end).or(tokens.last()));
            items.push(token.line..=end.map_or(usize::MAX, |end| end.line));
        }
    }
    items
}

/// The index of the `;` or `}` that ends the item whose first attribute has this index.
fn item_end(tokens: &[Token], start: usize) -> Option<usize> {
    let mut index = start;
    loop {
        let token = tokens.get(index)?;
        if token.is(";") {
            return Some(index);
        }
        if opens(token) {
            let close = closing(tokens, index)?;
            if token.is("{") {
                return Some(close);
            }
            index = close;
        }
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_the_items_marked_so_and_nothing_behind_them() {
        let text = "//! x\n#[cfg(test)]\nmod tests;\nfn a() {}\n#[cfg(test)]\n#[expect(x)]\nmod t \
                    {\n    fn b() {}\n}\n#[cfg(not(test))]\nfn c() {}\n";
        let source = Source::new("src/a.rs", text);
        let lines: Vec<usize> = (1..=11).filter(|line| source.in_tests(*line)).collect();
        assert_eq!(lines, [2, 3, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_mark_inside_a_text_marks_nothing() {
        let source = Source::new("src/a.rs", "const A: &str = \"\n#[cfg(test)]\nmod b {}\n\";\n");
        assert!((1..5).all(|line| !source.in_tests(line)));
    }

    #[test]
    fn a_station_is_a_folder_or_a_file_below_src() {
        let station = |path| Source::new(path, "").station().map(str::to_owned);
        assert_eq!(station("src/rooms/messages/mod.rs").as_deref(), Some("rooms"));
        assert_eq!(station("src/clock.rs").as_deref(), Some("clock"));
        assert_eq!(station("tests/suite/main.rs"), None);
    }

    #[test]
    fn attributes_of_items_and_of_the_file_are_found() {
        let text = "#![a(b[1])]\n#[c]\nfn d() { let e = [f]; x #y }";
        let source = Source::new("src/a.rs", text);
        let found: Vec<String> = source
            .attributes()
            .iter()
            .map(|content| content.iter().map(|token| token.text.as_str()).collect())
            .collect();
        assert_eq!(found, ["a(b[1])", "c"]);
    }
}
