//! One HTTP/1.1 connection that is kept open: a request out, an answer in.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Fields of an answer's head; a server that sends more is not ours.
const FIELDS_MAX: usize = 64;
/// Bytes of an answer; ours are small, `/metrics` with 256 shards is not.
const ANSWER_BYTES_MAX: usize = 16 << 20;
const READ_BYTES: usize = 16 << 10;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    /// How long to wait before the next request, if it says so.
    pub(super) retry_after: Option<Duration>,
    /// Whether the connection ends with it.
    pub(super) is_last: bool,
    pub(super) body: &'a [u8],
}

/// What the head of an answer says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    retry_after: Option<Duration>,
    is_last: bool,
    bytes: usize,
    body_bytes: usize,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(READ_BYTES) })
    }

    /// Whether the server has closed it, as it does with idle ones.
    pub(super) fn is_closed(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        !read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request and reads its answer.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.buffer.clear();
        self.stream.write_all(request).await?;
        let head = loop {
            self.read_some().await?;
            if let Some(head) = parse(&self.buffer)? {
                break head;
            }
        };
        let end = head.bytes + head.body_bytes;
        if end > ANSWER_BYTES_MAX {
            return Err(wrong("an answer is too long"));
        }
        while self.buffer.len() < end {
            self.read_some().await?;
        }
        let body = self.buffer.get(head.bytes..end).unwrap_or_default();
        let Head { status, retry_after, is_last, .. } = head;
        Ok(Answer { status, retry_after, is_last, body })
    }

    async fn read_some(&mut self) -> io::Result<()> {
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ if self.buffer.len() > ANSWER_BYTES_MAX => Err(wrong("an answer is too long")),
            _ => Ok(()),
        }
    }
}

fn wrong(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The head of an answer; `None` if it is not all there yet.
fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(bytes).map_err(|error| wrong(&error.to_string()))?;
    let httparse::Status::Complete(head_bytes) = parsed else { return Ok(None) };
    let mut head = Head {
        status: response.code.unwrap_or(0),
        retry_after: None,
        is_last: false,
        bytes: head_bytes,
        body_bytes: 0,
    };
    let mut has_length = false;
    for field in response.headers.iter() {
        let text = || std::str::from_utf8(field.value).unwrap_or_default().trim();
        if field.name.eq_ignore_ascii_case("content-length") {
            head.body_bytes = text().parse().map_err(|_| wrong("a wrong Content-Length"))?;
            has_length = true;
        } else if field.name.eq_ignore_ascii_case("retry-after") {
            head.retry_after = text().parse().ok().map(Duration::from_secs);
        } else if field.name.eq_ignore_ascii_case("connection") {
            head.is_last = text().eq_ignore_ascii_case("close");
        }
    }
    if has_length { Ok(Some(head)) } else { Err(wrong("an answer without a Content-Length")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_in_pieces_is_read_when_it_is_whole() {
        let text = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n\
                     content-length: 5\r\n\r\nhello";
        for cut in 0..text.len() - 5 {
            assert_eq!(parse(&text[..cut]).unwrap(), None, "{cut}");
        }
        let head = parse(text).unwrap().unwrap();
        let expected = Head {
            status: 503,
            retry_after: Some(Duration::from_secs(2)),
            is_last: true,
            bytes: text.len() - 5,
            body_bytes: 5,
        };
        assert_eq!(head, expected);
    }

    #[test]
    fn what_cannot_be_followed_is_an_error() {
        for text in ["HTTP/1.1 200 OK\r\n\r\n", "SSH-2.0-x\r\n\r\n"] {
            parse(text.as_bytes()).unwrap_err();
        }
        parse(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n").unwrap_err();
    }
}
