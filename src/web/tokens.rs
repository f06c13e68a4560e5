//! The list of bearer tokens: one a line, kept as SHA-256, compared in constant time.
//!
//! ```text
//! # name : scope[,scope...] : sha256=<64 hex digits>  or the token itself
//! ci:write:sha256=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//! ann:read,write:8b1e6c0f2a774be5
//! root:admin:sha256=...
//! ```
//!
//! A token is made of the characters that RFC 6750, section 2.1, allows. Plain ones are hashed when
//! they are read and not kept.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::service::printable;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Publish, schedule, order work.
    Write,
    /// Read results, listings, metrics.
    Read,
    /// Everything.
    Admin,
}

impl Scope {
    /// The name in a token list and in RFC 6750's `scope`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Write => 1,
            Self::Read => 2,
            Self::Admin => 4,
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Write, Self::Read, Self::Admin].into_iter().find(|scope| scope.name() == name)
    }
}

/// A token list that cannot be used: every problem in it, none of its tokens.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{}", problems.join("; "))]
pub struct TokensError {
    /// One sentence per problem, with its line's number.
    pub problems: Vec<String>,
}

/// One token: everything about it but the token.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) name: Arc<str>,
    scopes: u8,
    hash: [u8; 32],
}

impl Token {
    /// Whether the token has `scope`; `admin` has all.
    pub(super) fn allows(&self, scope: Scope) -> bool {
        self.scopes & (scope.bit() | Scope::Admin.bit()) != 0
    }
}

/// A checked list of tokens; at least one.
#[derive(Clone)]
pub struct Tokens {
    entries: Vec<Token>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.entries.iter().map(|entry| &entry.name)).finish()
    }
}

impl Tokens {
    /// Reads a list. Empty lines and lines that start with `#` say nothing.
    ///
    /// # Errors
    /// Every problem at once; an empty list is one, since it would lock nobody out by mistake.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let mut entries: Vec<Token> = Vec::new();
        let mut problems = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line) {
                Ok(token) if entries.iter().any(|entry| entry.name == token.name) => {
                    let name = printable(&token.name);
                    problems.push(format!("token list, line {}: {name} is there twice", index + 1));
                }
                Ok(token) => entries.push(token),
                Err(problem) => {
                    problems.push(format!("token list, line {}: {problem}", index + 1));
                }
            }
        }
        if entries.is_empty() && problems.is_empty() {
            problems.push(
                "token list: there is no token in it; write a line name:scopes:token".to_owned(),
            );
        }
        if problems.is_empty() { Ok(Self { entries }) } else { Err(TokensError { problems }) }
    }

    /// The tokens, in the order of the list.
    pub(super) fn entries(&self) -> &[Token] {
        &self.entries
    }

    /// The place of the entry that `presented` belongs to. Looks at every entry, whatever matches.
    pub(super) fn find(&self, presented: &[u8]) -> Option<usize> {
        let hash: [u8; 32] = Sha256::digest(presented).into();
        let mut found = Choice::from(0);
        let mut place = 0_u64;
        for (index, entry) in (0_u64..).zip(&self.entries) {
            let same = entry.hash.ct_eq(&hash);
            place.conditional_assign(&index, same);
            found |= same;
        }
        if bool::from(found) { usize::try_from(place).ok() } else { None }
    }
}

fn parse_line(line: &str) -> Result<Token, String> {
    let mut parts = line.splitn(3, ':');
    let (Some(name), Some(scopes), Some(secret)) = (parts.next(), parts.next(), parts.next())
    else {
        // The line is not repeated: it may be a token.
        return Err("it is not name:scopes:token".to_owned());
    };
    let name = name.trim();
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err("a name is 1 to 64 letters, digits, '-', '_' or '.'".to_owned());
    }
    let mut bits = 0;
    for word in scopes.split(',').map(str::trim) {
        let Some(scope) = Scope::named(word) else {
            return Err(format!("{name}: a scope is write, read or admin"));
        };
        bits |= scope.bit();
    }
    let hash = hash_of(secret.trim()).map_err(|problem| format!("{name}: {problem}"))?;
    Ok(Token { name: name.into(), scopes: bits, hash })
}

fn hash_of(secret: &str) -> Result<[u8; 32], &'static str> {
    if let Some(digits) = secret.strip_prefix("sha256=") {
        return from_hex(digits).ok_or("after sha256= there must be 64 hex digits");
    }
    if is_bearer_token(secret) {
        return Ok(Sha256::digest(secret).into());
    }
    Err("a token is letters, digits and -._~+/, then = signs if any")
}

/// `b64token` of RFC 6750, section 2.1.
fn is_bearer_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !body.is_empty() && body.bytes().all(allowed)
}

fn from_hex(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST_HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn plain_and_hashed_tokens_are_found_and_admin_has_every_scope() {
        let list = format!("# staff\n\nci : write :sha256={TEST_HASH}\n\nroot:admin:pa:ss\n");
        assert!(Tokens::parse(&list).is_err(), "':' is no character of a token");
        let list = format!("# staff\n\nci : write :sha256={TEST_HASH}\nroot:admin:p4ss==\n");
        let tokens = Tokens::parse(&list).unwrap();
        assert_eq!(tokens.find(b"test"), Some(0));
        assert_eq!(tokens.find(b"p4ss=="), Some(1));
        assert_eq!(tokens.find(b"p4ss="), None);
        assert_eq!(tokens.find(b""), None);
        let [ci, root] = tokens.entries() else { panic!("two") };
        assert!(ci.allows(Scope::Write) && !ci.allows(Scope::Read) && !ci.allows(Scope::Admin));
        assert!([Scope::Write, Scope::Read, Scope::Admin].iter().all(|scope| root.allows(*scope)));
    }

    #[test]
    fn every_problem_is_named_at_once_and_no_secret_with_it() {
        let list = "s3cret\na:write:\nb:fly:s3cret\nc:read:s3cret!\nd:read:sha256=s3cret\n\
                    e:read:ok\ne:read:ok\n:read:s3cret\n";
        let error = Tokens::parse(list).unwrap_err();
        assert_eq!(error.problems.len(), 7, "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
        assert!(error.problems[5].contains("line 7"), "{error}");
    }

    #[test]
    fn an_empty_list_does_not_mean_open() {
        assert!(Tokens::parse("\n# later\n").is_err());
    }

    #[test]
    fn a_debug_print_shows_names_only() {
        let tokens = Tokens::parse("a:read:s3cret").unwrap();
        assert_eq!(format!("{tokens:?}"), r#"["a"]"#);
    }
}
