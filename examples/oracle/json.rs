//! Reads one JSON object or array strictly (RFC 8259) and hands out its own members as raw text.
//!
//! Written here and not taken from the program under test, whose idea of JSON is itself checked.

/// What is wrong with a text.
pub(crate) type Fault = &'static str;

/// Deeper nesting is refused: it would overflow the stack of the reader.
const MAX_DEPTH: usize = 64;

/// Calls `member` with the name (without its quotes, escapes as written) and the raw value of
/// every member of the object that `text` is, in order. Members of nested objects are only checked.
pub(crate) fn members<'a>(
    text: &'a str,
    member: &mut dyn FnMut(&'a str, &'a str),
) -> Result<(), Fault> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.skip_space();
    scanner.object(0, member)?;
    scanner.skip_space();
    if scanner.at == text.len() { Ok(()) } else { Err("text after the object") }
}

/// Calls `element` with the raw value of every element of the array that `text` is, in order.
pub(crate) fn elements<'a>(text: &'a str, element: &mut dyn FnMut(&'a str)) -> Result<(), Fault> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.skip_space();
    if scanner.peek() != Some(b'[') {
        return Err("no array");
    }
    scanner.array(0, element)?;
    scanner.skip_space();
    if scanner.at == text.len() { Ok(()) } else { Err("text after the array") }
}

/// `text` as a JSON string.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\0'..='\u{1f}' => quoted += &format!("\\u{:04x}", u32::from(character)),
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn object(
        &mut self,
        depth: usize,
        member: &mut dyn FnMut(&'a str, &'a str),
    ) -> Result<(), Fault> {
        if !self.take(b'{') {
            return Err("no object");
        }
        self.skip_space();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.skip_space();
            let name = self.string()?;
            self.skip_space();
            if !self.take(b':') {
                return Err("a member without a colon");
            }
            let value = self.value(depth + 1)?;
            member(name, value);
            if self.take(b'}') {
                return Ok(());
            }
            if !self.take(b',') {
                return Err("an object that does not end");
            }
        }
    }

    fn array(&mut self, depth: usize, element: &mut dyn FnMut(&'a str)) -> Result<(), Fault> {
        self.at += 1;
        self.skip_space();
        if self.take(b']') {
            return Ok(());
        }
        loop {
            element(self.value(depth + 1)?);
            if self.take(b']') {
                return Ok(());
            }
            if !self.take(b',') {
                return Err("an array that does not end");
            }
        }
    }

    /// Any value with the space around it; returns its raw text without that space.
    fn value(&mut self, depth: usize) -> Result<&'a str, Fault> {
        if depth > MAX_DEPTH {
            return Err("nested too deep");
        }
        self.skip_space();
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.string().map(|_| ())?,
            Some(b'{') => self.object(depth, &mut |_, _| ())?,
            Some(b'[') => self.array(depth, &mut |_| ())?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.word()?,
        }
        let raw = self.since(start);
        self.skip_space();
        Ok(raw)
    }

    fn word(&mut self) -> Result<(), Fault> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let word = ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word));
        self.at += word.ok_or("no value")?.len();
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err("a number without digits") }
    }

    fn number(&mut self) -> Result<(), Fault> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<&'a str, Fault> {
        if !self.take(b'"') {
            return Err("no string");
        }
        let start = self.at;
        loop {
            match self.peek().ok_or("a string that does not end")? {
                b'"' => break,
                b'\\' => self.escape()?,
                0..=0x1F => return Err("a control character in a string"),
                _ => self.at += 1,
            }
        }
        let raw = self.since(start);
        self.at += 1;
        Ok(raw)
    }

    fn escape(&mut self) -> Result<(), Fault> {
        self.at += 1;
        let kind = self.peek();
        self.at += 1;
        match kind {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(()),
            Some(b'u') => {
                let digits = self.text.as_bytes().get(self.at..self.at + 4);
                self.at += 4;
                match digits {
                    Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => Ok(()),
                    _ => Err("a broken \\u escape"),
                }
            }
            _ => Err("an unknown escape"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{elements, members, quote};

    fn read(text: &str) -> Result<Vec<(&str, &str)>, &'static str> {
        let mut found = Vec::new();
        members(text, &mut |name, value| found.push((name, value)))?;
        Ok(found)
    }

    #[test]
    fn only_the_own_members_are_handed_out() {
        let text = r#" {"a" : {"b":[1,{"c":2}]}, "b":"x\"\u00fc}", "n":-1.5e+3,"t":null } "#;
        let expected = [
            ("a", r#"{"b":[1,{"c":2}]}"#),
            ("b", r#""x\"\u00fc}""#),
            ("n", "-1.5e+3"),
            ("t", "null"),
        ];
        assert_eq!(read(text).unwrap(), expected);
        assert_eq!(read("{}").unwrap(), []);
    }

    #[test]
    fn the_elements_of_an_array_are_handed_out_and_nothing_else_is_one() {
        let mut found = Vec::new();
        elements(r#" [1, {"a":[2]} ,"x]"] "#, &mut |raw| found.push(raw)).unwrap();
        assert_eq!(found, ["1", r#"{"a":[2]}"#, r#""x]""#]);
        for text in ["", "{}", "[", "[1,]", "[]x", "[[]"] {
            assert!(elements(text, &mut |_| ()).is_err(), "{text:?} was taken");
        }
        elements("[]", &mut |_| ()).unwrap();
    }

    #[test]
    fn anything_but_one_whole_object_is_a_fault() {
        let broken = [
            "",
            "{",
            "[]",
            "1",
            "{}x",
            "{}{}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1"#,
            r#"{"a":1,}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":"x}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12g4"}"#,
            r#"{"a":"\u12"}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[1}"#,
            r#"{a:1}"#,
            r#"{"a":nul}"#,
            r#"{"a":-}"#,
            r#"{"a":"\"#,
            "{\"a\":\"\u{1}\"}",
        ];
        for text in broken {
            assert!(read(text).is_err(), "{text:?} was taken");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(&deep).is_err());
    }

    #[test]
    fn a_quoted_text_is_valid_whatever_it_holds() {
        assert_eq!(quote("a\"\\\n"), r#""a\"\\\u000a""#);
    }
}
