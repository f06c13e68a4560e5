//! RabbitMQ's management API (the plugin `rabbitmq_management`): read, never written.

use std::fmt;
use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use lapin::tcp::RustlsConnector;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;

use super::address::{AddressError, TlsFiles, connector};
use super::dial::{dial, in_time};
use super::topology::CALL_TIMEOUT;

/// The ports of the plugin, without and with TLS.
const PORTS: [u16; 2] = [15672, 15671];
/// Some thousand queues.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where the API is; printing it shows no password.
#[derive(Clone)]
pub struct Management {
    url: ManagementUrl,
    tls: Option<RustlsConnector>,
}

/// The parts of a URL.
#[derive(Clone)]
struct ManagementUrl {
    is_encrypted: bool,
    user: String,
    password: String,
    host: String,
    port: u16,
    /// What stands before `/api`.
    prefix: String,
}

/// Why the API does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// The URL is none. It is not repeated, since it may hold a password.
    #[error("not a URL such as http://user:password@host:15672/")]
    Url,
    /// A file for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] AddressError),
    /// It cannot be reached, or breaks off.
    #[error("{0}")]
    Io(io::Error),
    /// It refuses.
    #[error("it answers {}", .0)]
    Status(StatusCode),
    /// The answer is not what the API of RabbitMQ gives.
    #[error("the answer is not JSON of RabbitMQ's management API: {0}")]
    Answer(serde_json::Error),
}

impl Management {
    /// The API at `url`; `https://` trusts and shows what `files` say.
    ///
    /// # Errors
    /// The URL is none, or a file cannot be used.
    pub fn new(url: &str, files: &TlsFiles) -> Result<Self, ManagementError> {
        let url = ManagementUrl::parse(url).ok_or(ManagementError::Url)?;
        let tls = if url.is_encrypted { Some(connector(files)?) } else { None };
        Ok(Self { url, tls })
    }

    /// `url` as it may be shown: without password.
    #[must_use]
    pub fn redact(url: &str) -> String {
        ManagementUrl::parse(url).map_or_else(|| "not a URL".to_owned(), |url| url.to_string())
    }

    /// What `path`, below `/api/`, holds.
    ///
    /// # Errors
    /// It cannot be reached, refuses, or answers nonsense.
    pub async fn get(&self, path: &str) -> Result<Value, ManagementError> {
        let got = in_time(CALL_TIMEOUT, self.ask(path)).await;
        let (status, body) = got.map_err(ManagementError::Io)?;
        if status != StatusCode::OK {
            return Err(ManagementError::Status(status));
        }
        serde_json::from_slice(&body).map_err(ManagementError::Answer)
    }

    async fn ask(&self, path: &str) -> io::Result<(StatusCode, Bytes)> {
        let ManagementUrl { user, password, host, port, prefix, .. } = &self.url;
        let stream = TokioIo::new(dial(host, *port, self.tls.as_ref()).await?);
        let login = BASE64_STANDARD.encode(format!("{user}:{password}"));
        let request = Request::get(format!("{prefix}/api/{path}"))
            .header(HOST, format!("{}:{port}", bracketed(host)))
            .header(AUTHORIZATION, format!("Basic {login}"))
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let handshake = hyper::client::conn::http1::handshake(stream).await;
        let (mut sender, connection) = handshake.map_err(io::Error::other)?;
        // It ends with the answer, or when the sender is dropped.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(io::Error::other)?.to_bytes()))
    }
}

impl ManagementUrl {
    fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let is_encrypted = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        let login = authority.as_str().rsplit_once('@').map_or("guest:guest", |(login, _)| login);
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let plain = |text| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let [plain_port, tls_port] = PORTS;
        let default = if is_encrypted { tls_port } else { plain_port };
        Some(Self {
            is_encrypted,
            user: plain(user)?,
            password: plain(password)?,
            port: authority.port_u16().unwrap_or(default),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            host: (!host.is_empty()).then_some(host)?,
        })
    }
}

/// A name as it may stand in a path of the API.
#[must_use]
pub fn encoded(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

impl fmt::Display for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        let Self { user, host, port, prefix, .. } = self;
        write!(f, "{scheme}://{user}@{}:{port}{prefix}/", bracketed(host))
    }
}

impl fmt::Display for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Management({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("http://ann:s3cret@broker:8080/", "http://ann@broker:8080/"),
            ("http://ann:s3%40cret@broker/rabbit/", "http://ann@broker:15672/rabbit/"),
            ("https://ann:s3cret@[::1]", "https://ann@[::1]:15671/"),
            ("http://broker", "http://guest@broker:15672/"),
            ("amqp://ann:s3cret@broker/", "not a URL"),
            ("ann:s3cret@broker", "not a URL"),
            ("", "not a URL"),
        ] {
            assert_eq!(Management::redact(url), shown);
        }
        let management = Management::new("http://a:s3%40cret@b", &TlsFiles::default()).unwrap();
        assert_eq!(management.url.password, "s3@cret");
        assert_eq!(format!("{management:?}"), "Management(http://a@b:15672/)");
        assert_eq!(encoded("/a b"), "%2Fa%20b");
    }
}
