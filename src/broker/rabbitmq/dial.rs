//! A bare stream to a host, plain or over TLS, for what the AMQP client does not do.

use std::io;
use std::time::Duration;

use lapin::tcp::RustlsConnector;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

/// A stream of bytes.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects, and speaks TLS if there is `tls`.
pub(super) async fn dial(
    host: &str,
    port: u16,
    tls: Option<&RustlsConnector>,
) -> io::Result<Box<dyn Stream>> {
    let plain = TcpStream::connect((host, port)).await?;
    Ok(match tls {
        Some(tls) => Box::new(tls.connect_async(host, plain.compat()).await?.compat()),
        None => Box::new(plain),
    })
}

/// Does it, in so long at most.
pub(super) async fn in_time<T>(
    timeout: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_late| {
        let text = format!("no answer within {} s", timeout.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}
