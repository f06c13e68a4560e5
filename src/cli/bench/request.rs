//! The request: built once, of which only the marks change from one to the next.

use super::marks::Marks;
use super::target::Target;
use super::tasks_marks::TaskMarks;

/// What stands in a request.
#[derive(Debug, Clone)]
enum Entries {
    Messages(Marks),
    Tasks(TaskMarks),
}

impl Entries {
    fn blank(&self) -> Vec<u8> {
        match self {
            Self::Messages(marks) => marks.blank(),
            Self::Tasks(marks) => marks.blank(),
        }
    }

    fn write(&self, entry: &mut [u8], number: u64) {
        match self {
            Self::Messages(marks) => marks.write(entry, number),
            Self::Tasks(marks) => marks.write(entry, number),
        }
    }
}

/// A request of a fixed length, head and body.
#[derive(Debug, Clone)]
pub(super) struct Request {
    bytes: Vec<u8>,
    body_at: usize,
    entry_bytes: usize,
    count: u64,
    entries: Entries,
}

impl Request {
    /// A request of `count` messages.
    pub(super) fn new(target: &Target, marks: Marks, count: u64) -> Self {
        Self::of(target, "/message", Entries::Messages(marks), count)
    }

    /// A request of `count` tasks.
    pub(super) fn of_tasks(target: &Target, marks: TaskMarks, count: u64) -> Self {
        Self::of(target, "/tasks", Entries::Tasks(marks), count)
    }

    fn of(target: &Target, path: &str, entries: Entries, count: u64) -> Self {
        let blank = entries.blank();
        let entry_bytes = blank.len();
        let blanks = vec![blank; usize::try_from(count).unwrap_or(1)];
        let body = [b"[", blanks.join(&b','.to_owned()).as_slice(), b"]"].concat();
        let mut bytes = target.head("POST", path, body.len());
        let body_at = bytes.len();
        bytes.extend_from_slice(&body);
        Self { bytes, body_at, entry_bytes, count, entries }
    }

    /// Makes it request number `number`, whose entries are the next `count` of the run.
    pub(super) fn set_number(&mut self, number: u64) {
        let Self { bytes, body_at, entry_bytes, count, entries } = self;
        let first = number * *count;
        let body = bytes.get_mut(*body_at + 1..).unwrap_or_default();
        // Behind each entry stands a comma, behind the last the end of the array.
        for (entry, number) in body.chunks_mut(*entry_bytes + 1).zip(first..) {
            entries.write(entry, number);
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
