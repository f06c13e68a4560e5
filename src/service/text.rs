//! User data in logs and answers.

/// Characters of user data that a message or a log line repeats at most.
pub const PRINTABLE_CHARACTERS: usize = 256;

/// Makes user data safe to repeat in a message or in a log.
///
/// Cut to [`PRINTABLE_CHARACTERS`] (then an ellipsis follows), control characters escaped, and so
/// are the characters that reverse the direction of text: either could forge what a terminal shows.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(PRINTABLE_CHARACTERS));
    for (index, character) in text.chars().enumerate() {
        if index == PRINTABLE_CHARACTERS {
            safe.push('…');
            break;
        }
        match character {
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                safe.extend(character.escape_unicode());
            }
            control if control.is_control() => safe.extend(control.escape_default()),
            other => safe.push(other),
        }
    }
    safe
}
