//! The way in over HTTP that the services share: who may come, from where, and how it is served.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::exit::{Exit, Failure, OrExit};
use super::process::Process;
use super::settings::{CheckedHttp, HttpSettings, Port};
use crate::service::presence::{Part, Presence};
use crate::web::{
    AppParts, Auth, CorsOrigins, HttpMetrics, Readiness, Room, app, check_listen, serve,
};

/// The settings of HTTP, ready for use; one for all services of a process.
pub(super) struct Front<'a> {
    http: &'a HttpSettings,
    /// Who may do what.
    pub(super) auth: Auth,
    cors: CorsOrigins,
    tls: Option<Arc<rustls::ServerConfig>>,
    presence: Presence,
}

/// An address that is listened on.
#[derive(Debug)]
pub(super) struct Entrance {
    listener: TcpListener,
    address: SocketAddr,
}

/// What one service answers with.
pub(super) struct Service {
    /// What its description is called.
    pub(super) title: &'static str,
    /// Its applications.
    pub(super) rooms: Vec<Room>,
    /// What `/metrics` shows.
    pub(super) registry: Registry,
    /// Where its HTTP counters go.
    pub(super) http_metrics: Arc<HttpMetrics>,
    /// What `/readyz` asks.
    pub(super) readiness: Arc<dyn Readiness>,
}

impl<'a> Front<'a> {
    pub(super) fn new<S>(
        http: &'a HttpSettings,
        checked: CheckedHttp,
        process: &Process<S>,
    ) -> Self {
        let CheckedHttp { tokens, tls, cors } = checked;
        let auth = match tokens {
            Some(tokens) => Auth::with_tokens(tokens, http.rate_limit, Arc::clone(&process.clock)),
            None => Auth::open(),
        };
        Self { http, auth, cors, tls, presence: process.presence.clone() }
    }

    /// Binds the address of a service, if it may be listened on.
    pub(super) async fn listen(&self, port: Port) -> Result<Entrance, Failure> {
        let (host, Port { service, number, setting }) = (&self.http.host, port);
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((host.trim_matches(['[', ']']), number))
                .await
                .with_context(|| format!("HOST {host}: the name cannot be resolved"))
                .or_exit(Exit::Config)?
                .collect();
        for address in &addresses {
            let (tokens, tls) = (!self.auth.is_open(), self.tls.is_some());
            check_listen(address.ip(), tokens, tls, self.http.insecure_listen)
                .or_exit(Exit::Config)?;
        }
        let listener = TcpListener::bind(addresses.as_slice())
            .await
            .with_context(|| format!("cannot listen on {host}:{number} (HOST, {setting})"))
            .or_exit(Exit::Unavailable)?;
        let address = listener.local_addr().context("the listener's address").or_exit(Exit::Io)?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let (part, at) = (service.to_owned(), Some(url.clone()));
        self.presence.add(Part { service: part, url: at, ..Part::default() });
        tracing::info!(service, %url, "listening");
        Ok(Entrance { listener, address })
    }

    /// Serves until the process stops.
    pub(super) async fn serve<S>(
        &self,
        entrance: Entrance,
        process: &Process<S>,
        service: Service,
    ) {
        let Entrance { listener, address } = entrance;
        let Service { title, rooms, registry, http_metrics, readiness } = service;
        let parts = AppParts {
            title,
            version: env!("CARGO_PKG_VERSION"),
            check_host: address.ip().is_loopback(),
            cors: self.cors.clone(),
            debug_errors: self.http.debug_errors,
            http_metrics: Arc::clone(&http_metrics),
            registry: Arc::new(registry),
            readiness,
            life: process.life.clone(),
            auth: self.auth.clone(),
        };
        let router = app(rooms, parts);
        let settings = Arc::new(self.http.serve_settings(process.shutdown * 4 / 5));
        serve(listener, router, settings, self.tls.clone(), http_metrics, &process.life).await;
    }
}
