//! Licence expressions, as SPDX 2.3 annex D has them, and in the older form `MIT/Apache-2.0`.
//!
//! ```text
//! any  = all { ("OR" | "/") all }
//! all  = one { "AND" one }
//! one  = "(" any ")" | name [ "WITH" exception ]
//! ```

/// Under these the binary may be handed on with no more than its notices.
const PERMISSIVE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OLDAP-2.8", // LMDB
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Can the terms be met with permissive licences alone? An error says what cannot be read.
pub(crate) fn is_permissive(expression: &str) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " / ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words };
    let verdict = reader.any()?;
    match reader.words.first() {
        None => Ok(verdict),
        Some(word) => Err(format!("`{word}` stands where the expression should end")),
    }
}

struct Reader<'a> {
    words: &'a [&'a str],
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn takes(&mut self, words: &[&str]) -> bool {
        let found = self.words.first().is_some_and(|word| words.contains(word));
        if found {
            self.next();
        }
        found
    }

    fn any(&mut self) -> Result<bool, String> {
        let mut verdict = self.all()?;
        while self.takes(&["OR", "/"]) {
            verdict |= self.all()?;
        }
        Ok(verdict)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut verdict = self.one()?;
        while self.takes(&["AND"]) {
            verdict &= self.one()?;
        }
        Ok(verdict)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.takes(&["("]) {
            let verdict = self.any()?;
            return if self.takes(&[")"]) { Ok(verdict) } else { Err("a `)` is missing".into()) };
        }
        let mut licence = self.name()?.to_owned();
        if self.takes(&["WITH"]) {
            licence = format!("{licence} WITH {}", self.name()?);
        }
        Ok(PERMISSIVE.contains(&licence.as_str()))
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let word = self.next().ok_or("a licence is missing at the end")?;
        if ["OR", "AND", "WITH", "(", ")", "/"].contains(&word) {
            return Err(format!("`{word}` stands where a licence should"));
        }
        Ok(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_that_asks_for_more_is_refused() {
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT OR GPL-3.0-only", true),
            ("MIT AND GPL-3.0-only", false),
            ("MPL-2.0/MIT", true),
            ("LGPL-2.1/MPL-2.0", false),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0-only WITH Classpath-exception-2.0", false),
            ("MIT WITH LLVM-exception", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(MIT OR Apache-2.0) AND MPL-2.0", false),
            // AND binds closer than OR.
            ("MIT OR ISC AND MPL-2.0", true),
            ("(MIT OR ISC) AND MPL-2.0", false),
            ("MPL-2.0 AND MIT OR MPL-2.0 AND ISC", false),
        ] {
            assert_eq!(is_permissive(expression), Ok(expected), "{expression}");
        }
    }

    #[test]
    fn an_expression_that_cannot_be_read_is_an_error() {
        for expression in ["", "MIT OR", "OR MIT", "(MIT", "MIT)", "MIT ISC", "MIT WITH", "()"] {
            assert!(is_permissive(expression).is_err(), "{expression}");
        }
    }
}
