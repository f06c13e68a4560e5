//! How a request reaches a spaceship: over the network, or within the process that runs both.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::Service;

/// The list of as many streams as a spaceship may have.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A way to a spaceship. Printing it shows no token.
#[derive(Clone)]
pub enum Road {
    /// Over HTTP, to another process.
    Network(Network),
    /// To the spaceship of this process, which asks for no token.
    Within(Router),
}

/// Where a spaceship is, and how it wants to be spoken to.
#[derive(Clone)]
pub struct Network {
    url: String,
    authority: String,
    host: String,
    port: u16,
    /// What stands before each path.
    prefix: String,
    token: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

/// A text that is not the URL of a spaceship.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a URL such as http://127.0.0.1:8001, without user and password")]
pub struct NoUrl;

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Road {
    /// Asks for what is at a path, and has the answer. Within a process an error goes along as an
    /// extension, as the room has made it.
    ///
    /// # Errors
    /// There is no answer, or one of more than 8 MiB.
    pub async fn exchange(&self, request: Request<Bytes>) -> io::Result<Response<Bytes>> {
        match self {
            Self::Network(network) => network.exchange(request).await,
            Self::Within(router) => {
                // A router is always ready.
                let Ok(answer) = router.clone().call(request.map(Body::from)).await;
                read(answer).await
            }
        }
    }
}

impl Network {
    /// To the spaceship at `url`. `tls` is for `https://`; `token` goes with every request.
    ///
    /// # Errors
    /// It is no URL of one.
    pub fn new(
        url: &str,
        token: Option<String>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Self, NoUrl> {
        let uri: Uri = url.parse().map_err(|_| NoUrl)?;
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(NoUrl),
        };
        let authority = uri.authority().ok_or(NoUrl)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() || authority.as_str().contains('@') || uri.query().is_some() {
            return Err(NoUrl);
        }
        Ok(Self {
            url: url.to_owned(),
            authority: authority.as_str().to_owned(),
            host,
            port: authority.port_u16().unwrap_or(default_port),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            token,
            tls: tls.filter(|_| default_port == 443),
        })
    }

    /// Asks, on a connection of its own.
    async fn exchange(&self, mut request: Request<Bytes>) -> io::Result<Response<Bytes>> {
        let path = format!("{}{}", self.prefix, request.uri());
        *request.uri_mut() = path.parse().map_err(io::Error::other)?;
        let value = |text: &str| HeaderValue::from_str(text).map_err(io::Error::other);
        let headers = request.headers_mut();
        headers.insert(HOST, value(&self.authority)?);
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, value(&format!("Bearer {token}"))?);
        }
        let request = request.map(Full::new);
        let wire = TokioIo::new(self.connect().await?);
        let handshake = hyper::client::conn::http1::handshake(wire).await;
        let (mut sender, connection) = handshake.map_err(io::Error::other)?;
        // It ends with the answer, or when the sender is dropped.
        tokio::spawn(connection);
        read(sender.send_request(request).await.map_err(io::Error::other)?).await
    }

    async fn connect(&self) -> io::Result<Box<dyn Wire>> {
        let plain = TcpStream::connect((self.host.as_str(), self.port)).await?;
        plain.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(plain)) };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, plain).await?))
    }
}

async fn read<B>(answer: Response<B>) -> io::Result<Response<Bytes>>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    Ok(Response::from_parts(parts, body.map_err(io::Error::other)?.to_bytes()))
}

impl fmt::Display for Road {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network(network) => &network.url,
            Self::Within(_) => "the one of this process",
        })
    }
}

impl fmt::Debug for Road {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Road({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_none_with_a_password_is_taken() {
        let network = |url: &str| Network::new(url, Some("s3cret".to_owned()), None);
        for (url, host, port, prefix) in [
            ("http://127.0.0.1:8001", "127.0.0.1", 8001, ""),
            ("http://ship/", "ship", 80, ""),
            ("https://[::1]/fleet/one/", "::1", 443, "/fleet/one"),
        ] {
            let to = network(url).unwrap();
            assert_eq!((to.host.as_str(), to.port, to.prefix.as_str()), (host, port, prefix));
            assert_eq!(format!("{:?}", Road::Network(to)), format!("Road({url})"));
        }
        for wrong in ["", "ship", "ftp://ship", "http://", "http://ann:s3cret@ship", "http://a/?b"]
        {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }
}
