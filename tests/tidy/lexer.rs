//! Rust source to tokens: enough of the language that words in texts and comments are not taken
//! for code, and that braces pair.

use std::iter::Peekable;
use std::str::CharIndices;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A name or a keyword; `r#` is left off.
    Word,
    /// One character, or `::`.
    Mark,
    /// A text literal of any sort, as written.
    Text,
    /// A character or byte literal.
    Char,
    /// `'a`.
    Lifetime,
    /// A number.
    Number,
    /// A comment of any sort, as written.
    Comment,
}

/// A token and where it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// What it is.
    pub(crate) kind: Kind,
    /// As written.
    pub(crate) text: String,
    /// From 1.
    pub(crate) line: usize,
    /// In characters, from 0.
    pub(crate) column: usize,
}

impl Token {
    /// Is it this word or mark?
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Mark) && self.text == text
    }
}

/// All tokens of a source, comments among them.
pub(crate) fn lex(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { source, rest: source.char_indices().peekable(), line: 1, column: 0 };
    let mut tokens = Vec::new();
    while let Some(start) = lexer.position() {
        let (line, column) = (lexer.line, lexer.column);
        if let Some(kind) = lexer.token() {
            let end = lexer.position().unwrap_or(source.len());
            let written = source.get(start..end).unwrap_or_default();
            let text = match kind {
                Kind::Word => written.trim_start_matches("r#"),
                _ => written,
            };
            tokens.push(Token { kind, text: text.to_owned(), line, column });
        }
    }
    tokens
}

struct Lexer<'a> {
    source: &'a str,
    rest: Peekable<CharIndices<'a>>,
    line: usize,
    column: usize,
}

impl Lexer<'_> {
    fn position(&mut self) -> Option<usize> {
        self.rest.peek().map(|(position, _)| *position)
    }

    fn ahead(&mut self) -> &str {
        let position = self.position().unwrap_or(self.source.len());
        self.source.get(position..).unwrap_or_default()
    }

    fn next(&mut self) -> Option<char> {
        let (_, character) = self.rest.next()?;
        if character == '\n' {
            self.line += 1;
            self.column = 0;
        } else {
            self.column += 1;
        }
        Some(character)
    }

    fn skip(&mut self, characters: usize) {
        for _ in 0..characters {
            self.next();
        }
    }

    fn skip_while(&mut self, holds: impl Fn(char) -> bool) {
        while self.rest.peek().is_some_and(|(_, character)| holds(*character)) {
            self.next();
        }
    }

    /// Moves over one token; `None` for white space.
    fn token(&mut self) -> Option<Kind> {
        if self.ahead().starts_with("//") {
            self.skip_while(|character| character != '\n');
            return Some(Kind::Comment);
        }
        if self.ahead().starts_with("/*") {
            self.block_comment();
            return Some(Kind::Comment);
        }
        if let Some(kind) = self.literal() {
            return Some(kind);
        }
        let first = self.next()?;
        if first.is_whitespace() {
            return None;
        }
        if first.is_ascii_digit() {
            self.number();
            return Some(Kind::Number);
        }
        if is_word(first) {
            if first == 'r' && self.ahead().starts_with('#') {
                self.next();
            }
            self.skip_while(is_word);
            return Some(Kind::Word);
        }
        if first == '\'' {
            self.skip_while(is_word);
            return Some(Kind::Lifetime);
        }
        if first == ':' && self.ahead().starts_with(':') {
            self.next();
        }
        Some(Kind::Mark)
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            if self.ahead().starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.ahead().starts_with("*/") {
                depth -= 1;
                self.skip(2);
            } else if self.next().is_none() {
                return;
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// A text or character literal, with its prefix.
    fn literal(&mut self) -> Option<Kind> {
        let ahead = self.ahead();
        let (raw, prefix) = match ahead {
            _ if starts_raw(ahead, "r") => (true, 1),
            _ if starts_raw(ahead, "br") || starts_raw(ahead, "cr") => (true, 2),
            _ if ahead.starts_with('"') => (false, 0),
            _ if ahead.starts_with("b\"") || ahead.starts_with("c\"") => (false, 1),
            _ => return self.char_literal(),
        };
        self.skip(prefix);
        if raw {
            self.raw_text();
        } else {
            self.escaped('"');
        }
        Some(Kind::Text)
    }

    fn char_literal(&mut self) -> Option<Kind> {
        let ahead = self.ahead();
        let prefix = usize::from(ahead.starts_with("b'"));
        let mut characters = ahead.chars().skip(prefix);
        if characters.next() != Some('\'') {
            return None;
        }
        // `'a'` and `'\n'` are characters, `'a` is a lifetime.
        if characters.next() != Some('\\') && characters.next() != Some('\'') {
            return None;
        }
        self.skip(prefix);
        self.escaped('\'');
        Some(Kind::Char)
    }

    /// From the opening quote to behind the closing one.
    fn escaped(&mut self, quote: char) {
        self.next();
        while let Some(character) = self.next() {
            if character == '\\' {
                self.next();
            } else if character == quote {
                return;
            }
        }
    }

    /// From the first `#` or the quote to behind the last `#`.
    fn raw_text(&mut self) {
        let hashes = self.ahead().chars().take_while(|character| *character == '#').count();
        self.skip(hashes + 1);
        let end = format!("\"{}", "#".repeat(hashes));
        while !self.ahead().starts_with(&end) {
            if self.next().is_none() {
                return;
            }
        }
        self.skip(hashes + 1);
    }

    fn number(&mut self) {
        self.skip_while(is_word);
        let mut ahead = self.ahead().chars();
        if ahead.next() == Some('.') && ahead.next().is_some_and(|digit| digit.is_ascii_digit()) {
            self.next();
            self.skip_while(is_word);
        }
    }
}

fn starts_raw(ahead: &str, prefix: &str) -> bool {
    ahead.strip_prefix(prefix).is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(source: &str) -> Vec<(Kind, String)> {
        lex(source).into_iter().map(|token| (token.kind, token.text)).collect()
    }

    fn of_kind(source: &str, kind: Kind) -> Vec<String> {
        let tokens = lex(source).into_iter().filter(|token| token.kind == kind);
        tokens.map(|token| token.text).collect()
    }

    #[test]
    fn braces_and_quotes_in_texts_and_comments_are_not_code() {
        let source = r####"
            let a = "} \" { // no comment"; // "no text {
            let b = r#"raw " } "#; /* outer /* inner } */ still " */
            let c = [b'{', '"', '\'', '\\', '\u{7d}']; let d = br##"x"# }"##; let e = c"{";
        "####;
        assert_eq!(of_kind(source, Kind::Mark).concat(), "=;=;=[,,,,];=;=;");
        assert_eq!(of_kind(source, Kind::Comment).len(), 2);
        assert_eq!(of_kind(source, Kind::Text).len(), 4);
        assert_eq!(of_kind(source, Kind::Char).len(), 5);
    }

    #[test]
    fn lifetimes_are_not_characters() {
        let source = "fn f<'a>(x: &'a str, y: &'static T) { 'outer: loop { break 'outer; } }";
        assert_eq!(of_kind(source, Kind::Lifetime).len(), 5);
        assert!(of_kind(source, Kind::Char).is_empty());
    }

    #[test]
    fn raw_words_ranges_and_paths() {
        let expected = [
            (Kind::Word, "type"),
            (Kind::Mark, "::"),
            (Kind::Word, "r"),
            (Kind::Number, "1.5_f64"),
            (Kind::Number, "0"),
            (Kind::Mark, "."),
            (Kind::Mark, "."),
            (Kind::Number, "0x1F"),
        ];
        let expected: Vec<_> =
            expected.into_iter().map(|(kind, text)| (kind, text.to_owned())).collect();
        assert_eq!(written("r#type::r 1.5_f64 0..0x1F"), expected);
    }

    #[test]
    fn lines_are_counted_through_texts_and_comments() {
        let tokens = lex("/*\n\n*/ a \"\n\\\n\" b\n  c");
        let places: Vec<_> = tokens.iter().map(|token| (token.line, token.column)).collect();
        assert_eq!(places, [(1, 0), (3, 3), (3, 5), (5, 2), (6, 2)]);
    }

    #[test]
    fn an_unfinished_source_ends() {
        for source in ["\"", "r#\"", "/*", "'", "'\\", "b'", "r#", "1."] {
            assert!(lex(source).len() <= 2, "{source}");
        }
    }
}
