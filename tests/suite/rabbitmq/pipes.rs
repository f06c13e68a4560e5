//! The pipes of tasks and results: the test cases of R3, and what goes wrong on the way.

use std::collections::HashSet;
use std::time::Instant;

use async_data_processor::broker::pipes::{
    Heard, PipeError, Said, ServerPipes, Taken, TaskMessage, WorkerPipes,
};
use async_data_processor::broker::rabbitmq::address::{Address, TlsFiles};
use async_data_processor::broker::rabbitmq::pipes::{RabbitServerPipes, RabbitWorkerPipes};
use async_data_processor::service::Lifecycle;
use async_data_processor::task::{Name, Outcome, PART_BYTES, ResultHead, TaskId};
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

use super::broker::{Depth, PrivateBroker, shared};
use super::proxy::{Direction, Proxy};
use crate::harness::{PATIENCE, pause_after};

/// Awaits, but not for ever.
pub(crate) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    let come = tokio::time::timeout(PATIENCE, event).await;
    come.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Waits until `event` has come.
pub(crate) async fn until<T>(what: &str, mut event: impl AsyncFnMut() -> Option<T>) -> T {
    let poll = async {
        loop {
            let began = Instant::now();
            if let Some(come) = event().await {
                return come;
            }
            tokio::time::sleep(pause_after(began.elapsed())).await;
        }
    };
    soon(what, poll).await
}

pub(crate) fn address(url: &str) -> Address {
    Address::new(url, &TlsFiles::default()).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// So many bytes, of which any two parts differ.
pub(crate) fn bytes_of(count: usize) -> Vec<u8> {
    (0..=250).cycle().take(count).collect()
}

fn server(url: &str) -> RabbitServerPipes {
    RabbitServerPipes::start(&address(url), &[], &Lifecycle::new())
}

pub(crate) fn worker(url: &str, endpoint: Option<&str>) -> RabbitWorkerPipes {
    RabbitWorkerPipes::start(&address(url), endpoint.map(name), &Lifecycle::new())
}

fn tasks(endpoint: Option<&str>, numbers: std::ops::Range<usize>) -> Vec<TaskMessage> {
    let task = |number| TaskMessage {
        id: TaskId::new(),
        attempt: 1,
        kind: name("echo"),
        endpoint: endpoint.map(name),
        expires_at_ms: None,
        payload: format!("task {number}").into_bytes(),
    };
    numbers.map(task).collect()
}

/// Sends until all of them are: a queue that is only just being made refuses them.
async fn send(server: &RabbitServerPipes, tasks: &[TaskMessage]) {
    let mut left = tasks.to_vec();
    while !left.is_empty() {
        let sent = soon("confirms", server.send(left.clone())).await;
        let mut sent = sent.into_iter();
        left.retain(|_| match sent.next().unwrap() {
            Ok(()) => false,
            Err(PipeError::Unsent(_)) => true,
            Err(error) => panic!("{error}"),
        });
    }
}

/// Takes so many, and acknowledges them.
async fn take(worker: &RabbitWorkerPipes, count: usize) -> Vec<TaskMessage> {
    let mut all: Vec<Taken> = Vec::new();
    while all.len() < count {
        let left = count - all.len();
        all.extend(soon("tasks", worker.take(left)).await.unwrap());
    }
    worker.acknowledge(all.iter().map(|taken| taken.tag).collect()).await;
    all.into_iter().map(|taken| taken.task).collect()
}

async fn hear(server: &RabbitServerPipes, count: usize) -> Vec<Heard> {
    let mut all: Vec<Heard> = Vec::new();
    while all.len() < count {
        all.extend(soon("what is said", server.hear(count)).await.unwrap());
    }
    server.acknowledge(all.iter().map(|heard| heard.tag).collect()).await;
    all
}

async fn empty(vhost: &str, queue: &str) {
    until("the queue to be empty", async || {
        (shared().depth(vhost, queue) == Depth { ready: 0, unacknowledged: 0 }).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_tasks_arrive_in_order_and_as_they_were_sent() {
    let url = shared().vhost("pipe-order");
    for endpoint in [None, Some("lab")] {
        let (server, worker) = (server(&url), worker(&url, endpoint));
        let sent = tasks(endpoint, 0..10);
        send(&server, &sent).await;
        assert_eq!(take(&worker, 10).await, sent);
        tokio::join!(server.close(), worker.close());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_subscriber_gets_exactly_what_came_after_the_old_one_stopped() {
    let url = shared().vhost("pipe-stops");
    for endpoint in [None, Some("lab")] {
        let (server, first) = (server(&url), worker(&url, endpoint));
        send(&server, &tasks(endpoint, 0..10)).await;
        take(&first, 10).await;
        first.close().await;
        let later = tasks(endpoint, 10..20);
        send(&server, &later).await;
        let second = worker(&url, endpoint);
        assert_eq!(take(&second, 10).await, later);
        let queue = endpoint.unwrap_or("async-data-processor");
        empty("pipe-stops", &format!("{queue}.tasks")).await;
        tokio::join!(server.close(), second.close());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_subscribers_of_an_endpoint_the_first_gets_everything() {
    let url = shared().vhost("pipe-two");
    let (server, first) = (server(&url), worker(&url, Some("lab")));
    send(&server, &tasks(Some("lab"), 0..1)).await;
    take(&first, 1).await;
    let second = worker(&url, Some("lab"));
    let stands_by = second.take(1);
    let sent = tasks(Some("lab"), 1..11);
    send(&server, &sent).await;
    let taken = tokio::select! {
        taken = take(&first, 10) => taken,
        _ = stands_by => panic!("the second got one"),
    };
    assert_eq!(taken, sent);
    first.close().await;
    let sent = tasks(Some("lab"), 11..12);
    send(&server, &sent).await;
    assert_eq!(take(&second, 1).await, sent, "the first is gone");
    tokio::join!(server.close(), second.close());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_arrive_whole_in_order_and_attributed() {
    let url = shared().vhost("pipe-results");
    let (server, lab, shared_one) = (server(&url), worker(&url, Some("lab")), worker(&url, None));
    for bytes in [10, 1 << 10, 1 << 20, 10 << 20] {
        for (worker, endpoint) in [(&lab, Some(name("lab"))), (&shared_one, None)] {
            let id = TaskId::new();
            let whole = bytes_of(bytes);
            let part = |(index, part): (u32, &[u8])| Said::Part {
                id,
                attempt: 3,
                index,
                bytes: part.to_vec(),
            };
            let mut said: Vec<Said> = (0..).zip(whole.chunks(PART_BYTES)).map(part).collect();
            let head = whole[..bytes.min(1024)].to_vec();
            let outcome = Outcome::Finished(ResultHead { bytes: bytes as u64, head });
            said.push(Said::Ended { id, attempt: 3, outcome, began_at_ms: None, at_ms: 77 });
            soon("confirms", worker.say(said.clone())).await.unwrap();
            let heard = hear(&server, said.len()).await;
            assert!(heard.iter().all(|heard| heard.endpoint == endpoint));
            let heard: Vec<Said> = heard.into_iter().map(|heard| heard.said).collect();
            assert!(heard == said, "{bytes} bytes");
        }
    }
    tokio::join!(server.close(), lab.close(), shared_one.close());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_end_everything_is_an_error() {
    let url = shared().vhost("pipe-closed");
    let (server, worker) = (server(&url), worker(&url, None));
    send(&server, &tasks(None, 0..1)).await;
    take(&worker, 1).await;
    tokio::join!(server.close(), worker.close());
    assert_eq!(server.send(tasks(None, 1..2)).await, [Err(PipeError::Closed)]);
    let retired = vec![Said::Retired { worker: Default::default() }];
    assert_eq!(worker.say(retired).await, Err(PipeError::Closed));
    assert_eq!(worker.take(1).await, Err(PipeError::Closed));
    assert_eq!(server.hear(1).await, Err(PipeError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_pipes_live_by_their_heartbeats() {
    let url = format!("{}?heartbeat=1", shared().vhost("pipe-idle"));
    let proxy = Proxy::to(shared().port());
    let (server, worker) = (server(&url), worker(&proxy.url(&url), None));
    send(&server, &tasks(None, 0..1)).await;
    take(&worker, 1).await;
    let before = Direction::ToBroker;
    let (idle, connections) = (proxy.bytes(before), proxy.connections());
    // A heartbeat is 8 bytes: so many that whoever missed them would have been cut off.
    until("heartbeats", async || (proxy.bytes(before) >= idle + 2 * 8 * 6).then_some(())).await;
    send(&server, &tasks(None, 1..2)).await;
    take(&worker, 1).await;
    assert_eq!(proxy.connections(), connections);
    tokio::join!(server.close(), worker.close());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_worker_does_not_wait_for_is_for_others() {
    let url = shared().vhost("pipe-fair");
    let (server, busy, idle) = (server(&url), worker(&url, None), worker(&url, None));
    let sent = tasks(None, 0..8);
    send(&server, &sent).await;
    let first = soon("a task", busy.take(2)).await.unwrap();
    assert!(first.len() <= 2);
    let others = take(&idle, sent.len() - first.len()).await;
    let all: HashSet<TaskId> =
        first.iter().map(|taken| taken.task.id).chain(others.iter().map(|task| task.id)).collect();
    assert_eq!(all.len(), sent.len());
    let depth = Depth { ready: 0, unacknowledged: first.len() as u64 };
    let queue = "async-data-processor.tasks";
    until("the rest to be settled", async || {
        (shared().depth("pipe-fair", queue) == depth).then_some(())
    })
    .await;
    tokio::join!(server.close(), busy.close(), idle.close());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_nobody_acknowledged_comes_again_after_a_cut_and_its_old_tag_means_nothing() {
    let url = shared().vhost("pipe-cut");
    let proxy = Proxy::to(shared().port());
    let (server, worker) = (server(&url), worker(&proxy.url(&url), None));
    let sent = tasks(None, 0..2);
    send(&server, &sent).await;
    let mut first: Vec<Taken> = Vec::new();
    while first.len() < 2 {
        first.extend(soon("tasks", worker.take(2)).await.unwrap());
    }
    proxy.cut();
    let again = soon("the tasks again", worker.take(1)).await.unwrap();
    assert!(again[0].is_again);
    worker.acknowledge(first.iter().map(|taken| taken.tag).collect()).await;
    worker.acknowledge(again.iter().map(|taken| taken.tag).collect()).await;
    assert_eq!(take(&worker, 1).await.len(), 1, "the other one, which was not acknowledged");
    empty("pipe-cut", "async-data-processor.tasks").await;
    tokio::join!(server.close(), worker.close());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_wait_for_an_endpoint_that_was_never_there_and_survive_the_broker() {
    let broker = PrivateBroker::start();
    let server = server(&broker.url());
    let sent = tasks(Some("later"), 0..10);
    send(&server, &sent).await;
    broker.sync_declared();
    broker.kill();
    let refused = soon("an answer", server.send(tasks(None, 0..1))).await;
    assert!(matches!(refused[..], [Err(_)]), "{refused:?}");
    broker.start_again();
    let worker = worker(&broker.url(), Some("later"));
    assert_eq!(take(&worker, 10).await, sent);
    send(&server, &tasks(Some("later"), 10..11)).await;
    take(&worker, 1).await;
    tokio::join!(server.close(), worker.close());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_gone_is_declared_again_and_what_came_back_is_not_said_to_be_sent() {
    let url = shared().vhost("pipe-gone");
    let (server, worker) = (server(&url), worker(&url, None));
    send(&server, &tasks(None, 0..1)).await;
    take(&worker, 1).await;
    worker.close().await;
    shared().delete_queue("pipe-gone", "async-data-processor.tasks");
    let sent = soon("an answer", server.send(tasks(None, 1..3))).await;
    assert!(sent.iter().all(|sent| matches!(sent, Err(PipeError::Unsent(_)))), "{sent:?}");
    let again = tasks(None, 3..5);
    send(&server, &again).await;
    let worker = self::worker(&url, None);
    assert_eq!(take(&worker, 2).await, again);
    tokio::join!(server.close(), worker.close());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_classic_queue_of_somebody_else_is_used_as_it_is_and_by_one() {
    let url = shared().vhost("pipe-classic");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    for queue in ["lab.tasks", "results"] {
        let (durable, none) = (QueueDeclareOptions::durable(), FieldTable::default());
        channel.queue_declare(queue.into(), durable, none).await.unwrap();
    }
    let (server, worker) = (server(&url), worker(&url, Some("lab")));
    let sent = tasks(Some("lab"), 0..10);
    send(&server, &sent).await;
    assert_eq!(take(&worker, 10).await, sent);
    assert_eq!(server.waiting(Some(name("lab"))).await, Ok(None));
    assert_eq!(server.waiting(None).await, Ok(Some(0)));
    let said = Said::Retired { worker: Default::default() };
    soon("a confirm", worker.say(vec![said.clone()])).await.unwrap();
    assert_eq!(hear(&server, 1).await[0].said, said);
    let options = BasicConsumeOptions::default();
    let asked =
        channel.basic_consume("lab.tasks".into(), "".into(), options, FieldTable::default());
    let refused = asked.await.unwrap_err().to_string();
    assert!(refused.contains("exclusive use"), "{refused}");
    tokio::join!(server.close(), worker.close());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_kind_apart_go_to_those_who_know_it_and_wait_with_the_others() {
    let (url, life, apart) = (shared().vhost("pipe-apart"), Lifecycle::new(), name("capture"));
    let kinds = std::slice::from_ref(&apart);
    let server = RabbitServerPipes::start(&address(&url), kinds, &life);
    let mut sent = tasks(None, 0..10);
    for task in sent.iter_mut().skip(5) {
        task.kind = apart.clone();
    }
    send(&server, &sent).await;
    until("what waits to be counted", async || {
        (server.waiting(None).await == Ok(Some(10))).then_some(())
    })
    .await;
    let (others, captures) =
        (worker(&url, None), RabbitWorkerPipes::of_kind(&address(&url), &apart, &life));
    assert_eq!(take(&others, 5).await, sent[..5]);
    assert_eq!(server.waiting(None).await, Ok(Some(5)));
    assert_eq!(take(&captures, 5).await, sent[5..]);
    let said = Said::Retired { worker: Default::default() };
    soon("a confirm", captures.say(vec![said.clone()])).await.unwrap();
    let heard = hear(&server, 1).await.remove(0);
    assert_eq!((heard.endpoint, heard.said), (None, said));
    tokio::join!(server.close(), others.close(), captures.close());
}
