//! `server`: takes messages over HTTP and stores them durably.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::exit::{Exit, Failure, OrExit};
use super::process::{self, Process};
use super::settings::{CheckedHttp, HttpSettings, ServerSettings, ShardSettings};
use crate::broker::embedded::EmbeddedBroker;
use crate::rooms::messages::api::{self, Api};
use crate::rooms::messages::watch::{PipelineMetrics, Watch};
use crate::service::Lifecycle;
use crate::web::{
    AppParts, Auth, BodyReader, BodySettings, Budget, HttpMetrics, Readiness, app, check_listen,
    serve,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor server
  PORT=8081 SHARDS_COUNT=8 async-data-processor server
  curl -d '[{\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":\"hello\"}]' 127.0.0.1:8080/message";

/// How often the server looks whether its messages get on.
const WATCH_EVERY: Duration = Duration::from_secs(30);

pub(super) fn run(settings: ServerSettings) -> Result<Exit, Failure> {
    let ServerSettings { common, http } = settings;
    let checked = http.check().map_err(Failure::of_settings)?;
    process::run("server", &common, async |process| {
        serve_messages(process, &common.shards, &http, checked).await
    })
}

/// Serves the API until the process stops.
pub(super) async fn serve_messages(
    process: Process,
    shards: &ShardSettings,
    http: &HttpSettings,
    checked: CheckedHttp,
) -> Result<(), Failure> {
    let listener = listen(http, &checked).await?;
    let address = listener.local_addr().context("the listener's address").or_exit(Exit::Io)?;
    let scheme = if checked.tls.is_some() { "https" } else { "http" };
    tracing::info!(url = %format!("{scheme}://{address}"), "listening");
    let watch = Arc::new(Watch::new(process.state.clone(), Arc::clone(&process.clock)));
    let mut registry = Registry::with_prefix("async_data_processor");
    let http_metrics = HttpMetrics::register(&mut registry);
    registry.register_collector(Box::new(PipelineMetrics(Arc::clone(&watch))));
    let budget = Budget::new(Budget::DEFAULT_BYTES, &http_metrics);
    let publisher = EmbeddedBroker::new(
        process.state.clone(),
        Arc::clone(&process.clock),
        http.key_retention(),
    );
    let publisher = publisher.context("wake-up sockets").or_exit(Exit::CannotCreate)?;
    let auth = match checked.tokens {
        Some(tokens) => Auth::with_tokens(tokens, http.rate_limit, Arc::clone(&process.clock)),
        None => Auth::open(),
    };
    let api = Api {
        publisher: Arc::new(publisher),
        bodies: BodyReader::new(BodySettings::default(), budget),
        state: process.state.clone(),
        shards: shards.count(),
    };
    let parts = AppParts {
        title: "async-data-processor",
        version: env!("CARGO_PKG_VERSION"),
        check_host: address.ip().is_loopback(),
        cors: checked.cors,
        debug_errors: http.debug_errors,
        http_metrics: Arc::clone(&http_metrics),
        registry: Arc::new(registry),
        readiness: Arc::clone(&watch) as Arc<dyn Readiness>,
        life: process.life.clone(),
        auth: auth.clone(),
    };
    let router = app(vec![api::room(api, &auth)], parts);
    tokio::spawn(warn_of_problems(watch, process.life.clone()));
    let settings = Arc::new(http.serve_settings(process.shutdown * 4 / 5));
    serve(listener, router, settings, checked.tls, http_metrics, &process.life).await;
    Ok(())
}

/// Binds the address, if it may be listened on.
async fn listen(http: &HttpSettings, checked: &CheckedHttp) -> Result<TcpListener, Failure> {
    let target = format!("{}:{}", http.host, http.port);
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((http.host.trim_matches(['[', ']']), http.port))
            .await
            .with_context(|| format!("HOST {}: the name cannot be resolved", http.host))
            .or_exit(Exit::Config)?
            .collect();
    for address in &addresses {
        let (tokens, tls) = (checked.tokens.is_some(), checked.tls.is_some());
        check_listen(address.ip(), tokens, tls, http.insecure_listen).or_exit(Exit::Config)?;
    }
    TcpListener::bind(addresses.as_slice())
        .await
        .with_context(|| format!("cannot listen on {target} (HOST, PORT)"))
        .or_exit(Exit::Unavailable)
}

/// Says in the log what `/readyz` would, when it changes.
async fn warn_of_problems(watch: Arc<Watch>, life: Lifecycle) {
    let mut told = BTreeSet::new();
    loop {
        tokio::select! {
            () = life.stopping() => return,
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
        let watch = Arc::clone(&watch);
        let Ok(problems) = tokio::task::spawn_blocking(move || watch.problems()).await else {
            return;
        };
        // The figures in a text change all the time; its beginning says which problem it is.
        let kind = |text: &String| text.split(':').next().unwrap_or_default().to_owned();
        for problem in problems.iter().filter(|problem| !told.contains(&kind(problem))) {
            tracing::warn!("{problem}");
        }
        told = problems.iter().map(kind).collect();
    }
}
