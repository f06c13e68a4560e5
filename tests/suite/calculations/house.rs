//! The rooms of tasks and calculations in this process: a store in a directory, a listener, and
//! nobody who runs anything unless the test does.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_data_processor::clock::SystemClock;
use async_data_processor::rooms::calculations::api::{
    self as calculations, Calculations, CalculationsSettings, upload_settings,
};
use async_data_processor::rooms::calculations::hub::{Hub, HubSettings};
use async_data_processor::rooms::tasks::api::{self as tasks, Tasks};
use async_data_processor::service::Lifecycle;
use async_data_processor::store::sqlite::SqliteStore;
use async_data_processor::store::{Claim, Settled, Settlement, Store, Task, TaskState};
use async_data_processor::task::{Outcome, ResultHead, WorkerId};
use async_data_processor::web::{
    AppParts, Auth, BodyReader, BodySettings, Budget, CorsOrigins, HttpMetrics, Readiness, Room,
    Seats, ServeSettings, Tokens, app, serve,
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::harness::{Answer, request};

/// The largest input that is taken here.
pub(super) const INPUT_MAX: u64 = 20_000_000;
/// WebSockets at once.
pub(super) const LISTENERS_MAX: usize = 8;

pub(crate) struct House {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<SqliteStore>,
    pub(super) dir: TempDir,
    pub(super) life: Lifecycle,
    pub(super) seats: Seats,
    served: Option<JoinHandle<()>>,
    runtime: Runtime,
}

fn hub(store: Arc<dyn Store>, seats: &Seats, life: &Lifecycle) -> Hub {
    let settings = HubSettings { kind: "factorial".parse().unwrap(), output_length_max: 20 };
    Hub::start(store, settings, seats.clone(), life.clone())
}

fn rooms(
    store: &Arc<SqliteStore>,
    hub: &Hub,
    http_metrics: &HttpMetrics,
    scratch: &Path,
    auth: &Auth,
) -> Vec<Room> {
    let budget = Budget::new(Budget::DEFAULT_BYTES, http_metrics);
    let reader = |settings| BodyReader::new(settings, Arc::clone(&budget));
    let calculations = Calculations {
        store: store.clone(),
        bodies: reader(BodySettings::default()),
        uploads: reader(upload_settings()),
        clock: Arc::new(SystemClock),
        hub: hub.clone(),
        settings: CalculationsSettings {
            kind: "factorial".parse().unwrap(),
            input_max: INPUT_MAX,
            output_length_max: 20,
            outside_timeout: Duration::from_secs(3600),
            scratch: scratch.to_owned(),
        },
    };
    let settings = BodySettings { max_bytes: tasks::BODY_BYTES_MAX, ..Default::default() };
    let tasks =
        Tasks { store: store.clone(), bodies: reader(settings), clock: Arc::new(SystemClock) };
    vec![calculations::room(calculations, auth), tasks::room(tasks, auth)]
}

struct Ready;

impl Readiness for Ready {
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

impl House {
    /// Open to all.
    pub(crate) fn new() -> Self {
        Self::guarded(None, &[])
    }

    /// With a list of tokens, or with sites that may call.
    pub(crate) fn guarded(tokens: Option<&str>, origins: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(dir.path()).unwrap());
        let auth = tokens.map_or_else(Auth::open, |list| {
            Auth::with_tokens(Tokens::parse(list).unwrap(), 0, Arc::new(SystemClock))
        });
        let life = Lifecycle::new();
        let inside = runtime.enter();
        let mut registry = Registry::default();
        let http_metrics = HttpMetrics::register(&mut registry);
        let seats = Seats::new(LISTENERS_MAX);
        seats.register(&mut registry);
        let hub = hub(store.clone(), &seats, &life);
        let rooms = rooms(&store, &hub, &http_metrics, dir.path(), &auth);
        let parts = AppParts {
            title: "test",
            version: "0",
            auth,
            check_host: true,
            cors: CorsOrigins::parse(origins).unwrap(),
            debug_errors: true,
            http_metrics: Arc::clone(&http_metrics),
            registry: Arc::new(registry),
            readiness: Arc::new(Ready),
            life: life.clone(),
        };
        let router = app(rooms, parts);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let life_of_server = life.clone();
        let served = Some(runtime.spawn(async move {
            // A machine with much to do is no reason to cut off who is read from too slowly.
            let write_timeout = std::time::Duration::from_secs(600);
            let settings = Arc::new(ServeSettings { write_timeout, ..ServeSettings::default() });
            serve(listener, router, settings, None, http_metrics, &life_of_server).await;
        }));
        drop(inside);
        Self { address, store, dir, life, seats, served, runtime }
    }

    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A request without a body, or with one of JSON.
    pub(crate) fn ask(&self, line: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(line, &[], body.as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &[], b"")
    }

    pub(crate) fn send(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let (method, path) = line.split_once(' ').unwrap();
        request(self.address, method, path, headers, body)
    }

    /// Orders a factorial; its id.
    pub(crate) fn order(&self, input: u64) -> String {
        let answer = self.ask("POST /factorial", &json!({ "input": input }));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Claims the next due task for a worker of ours.
    pub(crate) fn claim(&self, kind: &str, worker: WorkerId) -> Option<Task> {
        let claim = Claim {
            worker,
            endpoint: None,
            kinds: vec![kind.parse().unwrap()],
            tasks_max: 1,
            // In the year 2109: everything is due.
            now_ms: 1 << 42,
        };
        self.wait(self.store.claim(claim)).unwrap().tasks.pop()
    }

    /// Ends a task that a worker of ours runs.
    pub(crate) fn settle(&self, task: &Task, outcome: Outcome) -> Settled {
        let settlement = Settlement {
            id: task.id,
            attempt: Some(task.attempt),
            endpoint: None,
            outcome,
            began_at_ms: None,
            at_ms: task.created_at_ms,
        };
        self.wait(self.store.settle(vec![settlement])).unwrap()[0]
    }

    /// Runs the next due task: its result is `result`.
    pub(crate) fn run(&self, kind: &str, result: &[u8]) {
        let task = self.claim(kind, WorkerId::new()).unwrap();
        let head = ResultHead { bytes: result.len() as u64, head: result.to_vec() };
        assert!(head.parts() == 0 && task.state == TaskState::Running);
        assert_eq!(self.settle(&task, Outcome::Finished(head)), Settled::Applied);
    }

    /// Stops the server, and waits until it has ended.
    pub(super) fn stop(&mut self) {
        self.life.stop();
        if let Some(served) = self.served.take() {
            self.runtime.block_on(served).unwrap();
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.life.stop();
    }
}
