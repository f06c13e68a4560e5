//! The pipes for tasks over RabbitMQ.
//!
//! | room | what it holds |
//! |---|---|
//! | `topology` | exchanges and queues |
//! | `wire` | what travels, as messages |
//! | `outlet` | publishing groups, mandatory and confirmed |
//! | `inlet`, `hand` | a subscription that is kept, and what of it is in hand |
//! | `control` | orders to all workers |

mod control;
mod hand;
mod inlet;
mod outlet;
mod topology;
mod wire;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use self::control::{HeardOn, Orders};
use self::inlet::{Inlet, Source};
use self::outlet::{Outgoing, Outlet};
use self::topology::{Pipework, RESULTS, TASKS, endpoint_of, kind_queue, result_key, task_queue};
use super::address::Address;
use super::link::Link;
use crate::broker::pipes::{
    Heard, Order, PipeError, Said, ServerPipes, Tag, Taken, TaskMessage, WorkerPipes,
};
use crate::service::Lifecycle;
use crate::task::{Name, WorkerId};

/// Tasks of an endpoint that may be in its worker's hands.
const ENDPOINT_WINDOW: u16 = 32;
/// What workers have said that may be in a server's hands: up to 1 MiB each, if it is ours.
const RESULTS_WINDOW: u16 = 32;
/// How long a newcomer waits for its subscription before it sends the holder away.
const STAND_BY_MAX: Duration = Duration::from_secs(10);

/// A worker's ends of the pipes.
#[derive(Debug)]
pub struct RabbitWorkerPipes {
    /// Who this is, when it takes over.
    own: WorkerId,
    endpoint: Option<Name>,
    publishing: Link<Pipework>,
    consuming: Link<Pipework>,
    outlet: Outlet,
    inlet: Arc<Inlet>,
    orders: Orders,
}

impl RabbitWorkerPipes {
    /// A worker of an endpoint, or of the shared queue. Connects at once, and takes nothing before
    /// it is asked. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(address: &Address, endpoint: Option<Name>, life: &Lifecycle) -> Self {
        let window = endpoint.is_some().then_some(ENDPOINT_WINDOW);
        Self::with_window(address, endpoint, window, life)
    }

    /// The same, with this many tasks in hand at most; `None`: as many as are asked for, and none
    /// while none are.
    #[must_use]
    pub fn with_window(
        address: &Address,
        endpoint: Option<Name>,
        window: Option<u16>,
        life: &Lifecycle,
    ) -> Self {
        let source = Source { queue: task_queue(endpoint.as_ref()), window };
        Self::take_from(address, Pipework::new(endpoint, &[]), source, life)
    }

    /// A worker of any worker's tasks of a kind that has a queue of its own. Must be called within
    /// a tokio runtime.
    #[must_use]
    pub fn of_kind(address: &Address, kind: &Name, life: &Lifecycle) -> Self {
        let pipework = Pipework::new(None, std::slice::from_ref(kind));
        let source = Source { queue: kind_queue(kind), window: None };
        Self::take_from(address, pipework, source, life)
    }

    fn take_from(address: &Address, pipework: Pipework, source: Source, life: &Lifecycle) -> Self {
        let (own, endpoint) = (WorkerId::new(), pipework.endpoint.clone());
        let start = |role| Link::start(address.clone(), role, pipework.clone(), life.clone());
        let (publishing, consuming) = (start("results"), start("tasks"));
        let heard_on = HeardOn::new(None);
        let obeying = Some(heard_on.subscribe());
        let inlet = Arc::new(Inlet::start(consuming.clone(), source, obeying));
        let (taken_from, of) = (Arc::clone(&inlet), endpoint.clone());
        let orders = Orders::listen(consuming.clone(), heard_on, move |order| {
            let Order::TakeOver { endpoint, by } = order else { return false };
            if of.as_ref() == Some(endpoint) && *by != own {
                taken_from.step_back();
            }
            true
        });
        let outlet = Outlet::new(publishing.clone());
        Self { own, endpoint, publishing, consuming, outlet, inlet, orders }
    }

    /// What stands in the way of tasks now, in words for a person.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        problems(&[&self.publishing, &self.consuming])
    }
}

fn problems(links: &[&Link<Pipework>]) -> Vec<String> {
    let mut problems: Vec<String> =
        links.iter().filter_map(|link| link.trouble()).map(|trouble| trouble.text).collect();
    problems.dedup();
    problems
}

/// The first error, if there is one.
fn all(sent: outlet::Sent) -> Result<(), PipeError> {
    sent.into_iter().collect()
}

fn saying(key: &str, said: Said) -> Outgoing {
    let (properties, body) = wire::message(said);
    Outgoing { exchange: RESULTS, key: key.to_owned(), properties, body, mandatory: true }
}

impl WorkerPipes for RabbitWorkerPipes {
    fn take(&self, tasks_max: usize) -> BoxFuture<'_, Result<Vec<Taken>, PipeError>> {
        Box::pin(async move {
            let taken = self.inlet.take(tasks_max).await?;
            let endpoint = self.endpoint.as_ref();
            let read = |(tag, delivery)| wire::taken(tag, delivery, endpoint);
            Ok(taken.into_iter().map(read).collect())
        })
    }

    fn acknowledge(&self, tags: Vec<Tag>) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.inlet.acknowledge(&tags).await })
    }

    fn give_back(&self, tags: Vec<Tag>) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.inlet.give_back(&tags).await })
    }

    fn say(&self, said: Vec<Said>) -> BoxFuture<'_, Result<(), PipeError>> {
        Box::pin(async move {
            let key = result_key(self.endpoint.as_ref());
            let group: Vec<_> = said.into_iter().map(|said| saying(&key, said)).collect();
            all(self.outlet.send(&group).await)
        })
    }

    fn orders(&self) -> Vec<Order> {
        self.orders.take()
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.orders.news()
    }

    fn take_over(&self) -> BoxFuture<'_, Result<(), PipeError>> {
        Box::pin(async move {
            let Some(endpoint) = self.endpoint.clone() else { return Ok(()) };
            // Who steps back before another one stands by has nobody to step back for.
            let standing_by = tokio::time::timeout(STAND_BY_MAX, self.inlet.subscribed()).await;
            standing_by.map_err(|_| {
                PipeError::Unsent(format!("the queue of {endpoint} is not subscribed to yet"))
            })?;
            let order = Order::TakeOver { endpoint, by: self.own };
            all(self.outlet.send(&[control::outgoing(&order)]).await)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.inlet.close().await;
            tokio::join!(self.publishing.close(), self.consuming.close());
        })
    }
}

/// A server's ends of the pipes.
#[derive(Debug)]
pub struct RabbitServerPipes {
    publishing: Link<Pipework>,
    consuming: Link<Pipework>,
    outlet: Outlet,
    results: Inlet,
    pipework: Pipework,
}

impl RabbitServerPipes {
    /// Connects at once. Any worker's tasks of the kinds `apart` go into queues of their own: not
    /// every worker knows them. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(address: &Address, apart: &[Name], life: &Lifecycle) -> Self {
        let pipework = Pipework::new(None, apart);
        let start = |role| Link::start(address.clone(), role, pipework.clone(), life.clone());
        let (publishing, consuming) = (start("task publisher"), start("result collector"));
        let source = Source { queue: RESULTS.to_owned(), window: Some(RESULTS_WINDOW) };
        Self {
            outlet: Outlet::new(publishing.clone()),
            results: Inlet::start(consuming.clone(), source, None),
            publishing,
            consuming,
            pipework,
        }
    }

    /// What stands in the way of tasks now, in words for a person.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        problems(&[&self.publishing, &self.consuming])
    }

    /// An endpoint whose queue cannot be had holds up no other one.
    async fn send_all(&self, tasks: Vec<TaskMessage>) -> outlet::Sent {
        let endpoints: HashSet<Name> =
            tasks.iter().filter_map(|task| task.endpoint.clone()).collect();
        let mut unsent = HashMap::new();
        for endpoint in endpoints {
            if let Err(error) = self.outlet.declare(&endpoint).await {
                unsent.insert(endpoint, error);
            }
        }
        let error = |task: &TaskMessage| unsent.get(task.endpoint.as_ref()?).cloned();
        let errors: Vec<Option<PipeError>> = tasks.iter().map(error).collect();
        let outgoing = |task: TaskMessage| Outgoing {
            exchange: TASKS,
            key: self.pipework.queue_of(task.endpoint.as_ref(), &task.kind),
            properties: wire::task_properties(&task),
            body: task.payload,
            mandatory: true,
        };
        let with_errors = tasks.into_iter().zip(&errors);
        let group: Vec<_> = with_errors
            .filter(|(_, error)| error.is_none())
            .map(|(task, _)| outgoing(task))
            .collect();
        let mut sent = self.outlet.send(&group).await.into_iter();
        let unanswered = || Err(PipeError::Unknown("no answer".to_owned()));
        let each = |error: Option<PipeError>| match error {
            Some(error) => Err(error),
            None => sent.next().unwrap_or_else(unanswered),
        };
        errors.into_iter().map(each).collect()
    }
}

impl ServerPipes for RabbitServerPipes {
    fn is_up(&self) -> bool {
        self.publishing.trouble().is_none()
    }

    fn send(&self, tasks: Vec<TaskMessage>) -> BoxFuture<'_, Vec<Result<(), PipeError>>> {
        Box::pin(self.send_all(tasks))
    }

    fn waiting(&self, endpoint: Option<Name>) -> BoxFuture<'_, Result<Option<u32>, PipeError>> {
        Box::pin(async move { self.outlet.waiting(endpoint.as_ref()).await })
    }

    fn hear(&self, said_max: usize) -> BoxFuture<'_, Result<Vec<Heard>, PipeError>> {
        Box::pin(async move {
            let taken = self.results.take(said_max).await?;
            let read = |(tag, delivery): (Tag, lapin::message::Delivery)| match endpoint_of(
                delivery.routing_key.as_str(),
            ) {
                Some(endpoint) => Heard { tag, endpoint, said: wire::said(delivery) },
                None => {
                    let reason = "its routing key names no endpoint".to_owned();
                    Heard { tag, endpoint: None, said: Said::Unclear { reason } }
                }
            };
            Ok(taken.into_iter().map(read).collect())
        })
    }

    fn acknowledge(&self, tags: Vec<Tag>) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.results.acknowledge(&tags).await })
    }

    fn probe(&self, by: WorkerId, number: u64) -> BoxFuture<'_, Result<(), PipeError>> {
        Box::pin(async move {
            let probe = saying(&result_key(None), Said::Probe { by, number });
            all(self.outlet.send(&[probe]).await)
        })
    }

    fn order(&self, order: Order) -> BoxFuture<'_, Result<(), PipeError>> {
        Box::pin(async move { all(self.outlet.send(&[control::outgoing(&order)]).await) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.results.close().await;
            tokio::join!(self.publishing.close(), self.consuming.close());
        })
    }
}
