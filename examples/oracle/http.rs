//! The little HTTP/1.1 that the load client speaks: one keep-alive connection, one request at a
//! time, raw enough to know exactly whether an answer came.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const MAX_HEAD_BYTES: u64 = 64 * 1024;
const MAX_BODY_BYTES: u64 = 64 * 1024 * 1024;

/// The answer to one request.
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The body; empty when its length is not announced.
    pub(crate) body: String,
    /// The path of the next page, if there is one (RFC 8288).
    pub(crate) next: Option<String>,
    /// Whether the connection takes another request.
    pub(crate) reusable: bool,
}

/// An open connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to `address`.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        // While nobody listens on a port of the ephemeral range, a connection to it can be given
        // that very port as its own and meet itself; it would keep the server from coming back.
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(io::Error::other("connected to itself"));
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends `request` (head and body) and reads the answer. After an error the connection is of
    /// no further use and whether the server acted on the request is unknown.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.get_mut().write_all(request)?;
        loop {
            let answer = self.read_answer()?;
            // 1xx announces the answer, it is none.
            if answer.status >= 200 {
                return Ok(answer);
            }
        }
    }

    fn read_answer(&mut self) -> io::Result<Answer> {
        let status = parse_status(&self.read_line()?)?;
        let mut length = None;
        let (mut reusable, mut next) = (true, None);
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken("header"))?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.parse::<u64>().map_err(|_| broken("length"))?);
            } else if name.eq_ignore_ascii_case("link") {
                let path = value.strip_suffix("; rel=\"next\"").unwrap_or_default();
                let path = path.strip_prefix('<').and_then(|path| path.strip_suffix('>'));
                next = path.map(str::to_owned);
            } else if name.eq_ignore_ascii_case("connection") {
                reusable = !value.eq_ignore_ascii_case("close");
            }
        }
        let bodyless = status < 200 || status == 204 || status == 304;
        if bodyless {
            return Ok(Answer { status, body: String::new(), next, reusable });
        }
        // A body of unannounced length is given up, and the connection with it: the status counts.
        let Some(length) = length else {
            return Ok(Answer { status, body: String::new(), next, reusable: false });
        };
        if length > MAX_BODY_BYTES {
            return Err(broken("length"));
        }
        let mut body = String::new();
        let read = self.stream.by_ref().take(length).read_to_string(&mut body)?;
        if u64::try_from(read).ok() != Some(length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Answer { status, body, next, reusable })
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.by_ref().take(MAX_HEAD_BYTES).read_line(&mut line)?;
        let line = line.strip_suffix('\n').ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
    }
}

fn parse_status(line: &str) -> io::Result<u16> {
    let mut words = line.split(' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|word| word.parse().ok());
    status.filter(|_| version.starts_with("HTTP/1.")).ok_or_else(|| broken("status line"))
}

fn broken(part: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the answer has a broken {part}"))
}

#[cfg(test)]
mod tests {
    use super::Connection;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Serves `answers` one after the other to a single client, each after 4 bytes of request.
    fn answered(answers: &'static [&'static str]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                stream.read_exact(&mut [0; 4]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Connection::open(address).unwrap()
    }

    #[test]
    fn answers_are_told_apart_on_one_connection() {
        let mut connection = answered(&[
            "HTTP/1.1 201 Created\r\nContent-Length: 2\r\nlink: </a?b=c>; rel=\"next\"\r\n\r\nok",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nconnection: close\r\n\
             content-length: 0\r\n\r\n",
        ]);
        let first = connection.exchange(b"one.").unwrap();
        assert_eq!((first.status, first.body.as_str(), first.reusable), (201, "ok", true));
        assert_eq!(first.next.as_deref(), Some("/a?b=c"));
        let second = connection.exchange(b"two.").unwrap();
        assert_eq!((second.status, second.body.as_str(), second.reusable), (503, "", false));
    }

    #[test]
    fn half_an_answer_is_no_answer() {
        for answer in ["", "HTTP/1.1 201 Cr", "HTTP/1.1 201 Created\r\n", "x 201 y\r\n\r\n"] {
            let answers: &'static [&'static str] = Box::leak(Box::new([answer]));
            assert!(answered(answers).exchange(b"one.").is_err(), "{answer:?} was taken");
        }
        let mut cut = answered(&["HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nok"]);
        assert!(cut.exchange(b"one.").is_err());
    }
}
