//! A bare HTTP server, for comparison: the server's own hyper, its runtime and its limits on
//! buffers, and a handler that reads the body and answers a fixed 201.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::cli::exit::{Exit, Failure, OrExit};

/// As in `web::serve`.
const BUFFER_BYTES: usize = 64 << 10;

/// `bench bare`.
#[derive(Debug, Args)]
pub(super) struct BareCommand {
    /// How many messages each answer says were accepted.
    #[arg(long, value_name = "N")]
    accepted: u64,
}

/// Serves until stdin ends; prints its address first.
pub(super) fn run(command: &BareCommand) -> Result<Exit, Failure> {
    // Of a length that answers of the server have: with a receipt of five shards.
    let receipt = "00000000_0-1000000-20_1-1000000-20_2-1000000-20_3-1000000-20_4-1000000-20";
    let body = format!("{{\"accepted\":{},\"receipt\":\"{receipt}\"}}", command.accepted);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
        .or_exit(Exit::Unavailable)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = runtime.block_on(TcpListener::bind(address));
    let listener = listener.context("listening").or_exit(Exit::Unavailable)?;
    let address = listener.local_addr().context("listening").or_exit(Exit::Unavailable)?;
    runtime.spawn(accept(listener, Bytes::from(body)));
    let mut out = std::io::stdout().lock();
    let told = writeln!(out, "{address}").and_then(|()| out.flush());
    told.context("writing to stdout").or_exit(Exit::Io)?;
    let waited = std::io::stdin().lock().read_to_end(&mut Vec::new());
    waited.context("reading stdin").or_exit(Exit::Io)?;
    runtime.shutdown_background();
    Ok(Exit::Done)
}

async fn accept(listener: TcpListener, body: Bytes) {
    // A failed accept ends it; the client then says that the server is gone.
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, body.clone()));
    }
}

async fn converse(stream: TcpStream, body: Bytes) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(|request| answer(request, body.clone()));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).max_buf_size(BUFFER_BYTES);
    // The client closes when it has enough.
    let _closed = http.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    body: Bytes,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let read = request.into_body().collect().await;
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = match read {
        Ok(_) => StatusCode::CREATED,
        Err(_) => StatusCode::BAD_REQUEST,
    };
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}
