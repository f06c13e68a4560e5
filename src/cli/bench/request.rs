//! The request: built once, of which only the marks change from one to the next.

use super::marks::Marks;
use super::target::Target;

/// A request of a fixed length, head and body.
#[derive(Debug, Clone)]
pub(super) struct Request {
    bytes: Vec<u8>,
    body_at: usize,
    entries: u64,
    marks: Marks,
}

impl Request {
    /// A request of `entries` messages.
    pub(super) fn new(target: &Target, marks: Marks, entries: u64) -> Self {
        let count = usize::try_from(entries).unwrap_or(1);
        let blanks = vec![marks.blank(); count];
        let body = [b"[", blanks.join(&b','.to_owned()).as_slice(), b"]"].concat();
        let mut bytes = target.head("POST", "/message", body.len());
        let body_at = bytes.len();
        bytes.extend_from_slice(&body);
        Self { bytes, body_at, entries, marks }
    }

    /// Makes it request number `number`, whose messages are the next `entries` of the run.
    pub(super) fn set_number(&mut self, number: u64) {
        let Self { bytes, body_at, entries, marks } = self;
        let first = number * *entries;
        let body = bytes.get_mut(*body_at + 1..).unwrap_or_default();
        // Behind each entry stands a comma, behind the last the end of the array.
        for (entry, number) in body.chunks_mut(marks.entry_bytes() + 1).zip(first..) {
            marks.write(entry, number);
        }
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The body.
    pub(super) fn body(&self) -> &[u8] {
        self.bytes.get(self.body_at..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::rooms::messages::entry::read_array;

    #[test]
    fn every_request_is_well_formed_and_holds_its_own_messages() {
        let target = Target::parse("http://127.0.0.1:8080", None).unwrap();
        let marks = Marks::random(60, 60).unwrap();
        let mut request = Request::new(&target, marks.clone(), 70);
        for number in [0, 1, 5000] {
            request.set_number(number);
            let text = String::from_utf8(request.bytes().to_vec()).unwrap();
            let length = format!("Content-Length: {}\r\n", request.body().len());
            assert!(text.contains(&length) && text.ends_with("\"}]"), "{text}");
            let parts = read_array(request.body(), NonZeroU16::MIN).unwrap().into_parts();
            let lines = parts[0].1.bytes.split_inclusive(|byte| *byte == b'\n');
            let read: Vec<_> = lines.map(|line| marks.read(line.trim_ascii_end())).collect();
            let expected: Vec<_> = (number * 70..number * 70 + 70).map(Some).collect();
            assert_eq!(read, expected);
        }
    }
}
