//! From the store through the pipes to workers and back, and what goes wrong on the way.

use std::time::Duration;

use async_data_processor::broker::pipes::{Said, WorkerPipes};
use async_data_processor::store::{Store, TaskState};
use async_data_processor::task::{Beat, Outcome, ResultHead, TaskId, WorkerId};
use async_data_processor::tasks::handler::Job;
use async_data_processor::tasks::supply::{Body, Done, Supply};
use futures_util::StreamExt;
use lapin::options::QueueBindOptions;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::broker::{Depth, PrivateBroker, shared};
use super::pipes::{bytes_of, soon, until, worker};
use super::pipes_world::{Worker, World, finished};
use super::proxy::Proxy;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_of_any_size_are_in_the_store_whole() {
    let world = World::start(&shared().vhost("work-sizes"));
    for endpoint in [None, Some("lab")] {
        let worker = world.worker(endpoint);
        for bytes in [0, 10, 1 << 10, 1 << 20, (10 << 20) + 1] {
            let id = world.submit(endpoint, "go").await;
            let job = worker.job().await;
            assert_eq!((job.id, job.attempt, &job.payload[..]), (id, 1, &b"go"[..]));
            let result = bytes_of(bytes);
            let mut done = finished(&job, &result);
            let file = tempfile::NamedTempFile::new().unwrap();
            if bytes > 1 << 20 {
                std::fs::write(file.path(), &result).unwrap();
                done.body = Some(Body::File(file.path().to_owned()));
            }
            worker.deliver(&done).await;
            assert!(world.result(id).await == result, "{bytes} bytes");
        }
        worker.supply.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_during_work_costs_nothing_and_the_task_is_not_run_twice() {
    let world = World::start(&shared().vhost("work-cut"));
    let proxy = Proxy::to(shared().port());
    let worker = Worker::start(&proxy.url(&world.url), None);
    let id = world.submit(None, "go").await;
    let job = worker.job().await;
    proxy.cut();
    let next = worker.supply.next(1);
    let other = world.submit(None, "other").await;
    // The first comes again before the other one, and is known.
    let jobs = soon("the other job", next).await.unwrap();
    assert_eq!(jobs[0].id, other);
    proxy.refuse();
    proxy.cut();
    let error = worker.supply.deliver(&[finished(&job, b"42")]).await.unwrap_err();
    println!("while the link is down: {error}");
    proxy.heal();
    worker.finish(&job, b"42").await;
    worker.finish(&jobs[0], b"43").await;
    assert_eq!(world.result(id).await, b"42");
    assert_eq!(world.result(other).await, b"43");
    assert_eq!(world.task(id).await.attempt, 1);
    let none = Depth { ready: 0, unacknowledged: 0 };
    until("the tasks to be acknowledged", async || {
        // What came again after the second cut is over.
        let _nothing = tokio::time::timeout(Duration::from_millis(50), worker.supply.next(1)).await;
        (shared().depth("work-cut", "async-data-processor.tasks") == none).then_some(())
    })
    .await;
    worker.supply.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_runs_for_long_is_told_of_and_can_be_stopped() {
    let world = World::start(&shared().vhost("work-stop"));
    let worker = world.worker(None);
    let id = world.submit(None, "go").await;
    let job = worker.job().await;
    let beat = Beat { id, attempt: 1, progress: 500 };
    let queue = "async-data-processor.tasks";
    until("the task to be acknowledged", async || {
        worker.supply.beat(vec![beat]).await.unwrap();
        (shared().depth("work-stop", queue).unacknowledged == 0).then_some(())
    })
    .await;
    let task = world.wait(id, TaskState::Running).await;
    assert_eq!(task.progress, 500);
    assert!(world.collector.hearing().hearing_since().is_some());
    world.store.cancel(id, 0).await.unwrap();
    worker.sign_until_lost(&job).await;
    worker.supply.close().await;
    until("the worker to sign off", async || {
        world
            .store
            .workers()
            .await
            .unwrap()
            .iter()
            .all(|one| Some(one.worker) != task.owner)
            .then_some(())
    })
    .await;
}

/// A task that runs, as the store knows it, and by which worker.
async fn begun(world: &World, worker: &Worker) -> (Job, WorkerId) {
    let id = world.submit(None, "go").await;
    let job = worker.job().await;
    let beat = Beat { id, attempt: 1, progress: 1 };
    let owner = until("the task to run", async || {
        worker.supply.beat(vec![beat]).await.unwrap();
        // Before it runs, its owner may be the dispatcher.
        let task = world.task(id).await;
        task.owner.filter(|_| task.state == TaskState::Running)
    });
    (job, owner.await)
}

/// Takes a worker for dead, whose last signs may still be on their way.
async fn bury(world: &World, worker: WorkerId, now_ms: i64) {
    until("it to be buried", async || {
        let signed = world.store.workers().await.unwrap();
        let signed = signed.into_iter().find(|one| one.worker == worker)?;
        (world.store.bury(signed, now_ms).await.unwrap() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_lost_that_was_taken_for_dead_is_stopped() {
    let world = World::start(&shared().vhost("work-buried"));
    let worker = world.worker(None);
    let (job, owner) = begun(&world, &worker).await;
    // The next attempt is far off.
    bury(&world, owner, i64::from(u32::MAX) * 1000).await;
    worker.sign_until_lost(&job).await;
    worker.supply.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_attempt_of_what_still_runs_is_adopted() {
    let vhost = "work-adopted";
    let world = World::start(&shared().vhost(vhost));
    let worker = world.worker(None);
    let (job, owner) = begun(&world, &worker).await;
    let queue = "async-data-processor.tasks";
    until("the first attempt to be acknowledged", async || {
        let beat = Beat { id: job.id, attempt: 1, progress: 1 };
        worker.supply.beat(vec![beat]).await.unwrap();
        (shared().depth(vhost, queue).unacknowledged == 0).then_some(())
    })
    .await;
    bury(&world, owner, 0).await;
    until("the next attempt to come here", async || {
        let next = worker.supply.next(1);
        let none = tokio::time::timeout(Duration::from_millis(200), next).await;
        assert!(none.is_err(), "it is not to be run: it runs");
        let depth = shared().depth(vhost, queue);
        (world.task(job.id).await.attempt == 2 && depth.unacknowledged == 1).then_some(())
    })
    .await;
    worker.finish(&job, b"1").await;
    assert_eq!(world.result(job.id).await, b"1");
    assert_eq!(world.task(job.id).await.attempt, 2);
    worker.supply.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_settles_nothing_but_its_own() {
    let world = World::start(&shared().vhost("work-own"));
    let (owner, thief) = (world.worker(Some("owner")), worker(&world.url, Some("thief")));
    let id = world.submit(Some("owner"), "go").await;
    let job = owner.job().await;
    let outcome = Outcome::Finished(ResultHead { bytes: 5, head: b"false".to_vec() });
    let part = Said::Part { id, attempt: 1, index: 0, bytes: vec![7; 2000] };
    let ended = Said::Ended { id, attempt: 1, outcome, began_at_ms: None, at_ms: 0 };
    let nobodys = Said::Foreign { id: TaskId::new(), body: b"what?".to_vec() };
    let said = vec![part, ended, nobodys, Said::Unclear { reason: String::new() }];
    soon("confirms", thief.say(said)).await.unwrap();
    until("it to be refused", async || (world.collector.unclear() == 4).then_some(())).await;
    owner.finish(&job, b"true").await;
    assert_eq!(world.result(id).await, b"true");
    tokio::join!(owner.supply.close(), thief.close());
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connecting = Connection::connect(url, ConnectionProperties::default());
    let connection = soon("a connection", connecting).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn publish(channel: &Channel, exchange: &str, key: &str, of: BasicProperties, body: &[u8]) {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let sent = channel.basic_publish(exchange.into(), key.into(), options, body, of);
    soon("a frame to be sent", sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_program_can_send_tasks_and_results() {
    let url = shared().vhost("work-foreign");
    let worker = Worker::start(&url, Some("lab"));
    let (connection, channel) = channel(&url).await;
    soon("the worker to stand by", worker.pipes.take_over()).await.unwrap();
    let answers = channel.queue_declare(
        "".into(),
        QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() },
        FieldTable::default(),
    );
    let answers = answers.await.unwrap().name().clone();
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    let bound =
        channel.queue_bind(answers.clone(), "results".into(), "lab.results".into(), options, none);
    bound.await.unwrap();
    let own = BasicProperties::default().with_correlation_id("job 7".into());
    publish(&channel, "tasks", "lab.tasks", own, b"do it").await;
    let job = worker.job().await;
    assert_eq!((job.attempt, job.kind.as_str(), &job.payload[..]), (0, "task", &b"do it"[..]));
    worker.finish(&job, &vec![b'r'; 3000]).await;
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(answers, "".into(), options, FieldTable::default());
    let answer = soon("the answer", consumer.await.unwrap().next()).await.unwrap().unwrap();
    assert_eq!(answer.data, vec![b'r'; 3000]);
    assert_eq!(answer.properties.correlation_id().as_ref().unwrap().as_str(), "job 7");
    assert_eq!(answer.properties.kind(), &None);
    worker.supply.close().await;
    // And as a worker of ours: whole results of up to 10 MiB, attributed by what they carry.
    let world = World::start(&url);
    for bytes in [10, 1 << 10, 1 << 20, 10 << 20] {
        let id = world.submit(Some("lab"), "go").await;
        let result = bytes_of(bytes);
        world.wait(id, TaskState::Queued).await;
        let own = BasicProperties::default().with_correlation_id(id.to_string().into());
        publish(&channel, "results", "lab.results", own, &result).await;
        assert!(world.result(id).await == result, "{bytes} bytes");
    }
    // Nothing that anybody says blocks the pipe.
    let id = world.submit(Some("lab"), "go").await;
    world.wait(id, TaskState::Queued).await;
    let before = world.collector.unclear();
    for kind in ["part", "result", "beat", "retired", "probe", "unheard of"] {
        let own = BasicProperties::default().with_type(kind.into());
        publish(&channel, "results", "lab.results", own, b"{").await;
    }
    publish(&channel, "results", "a b.results", BasicProperties::default(), b"").await;
    let own = BasicProperties::default().with_message_id(id.to_string().into());
    publish(&channel, "results", "lab.results", own, b"3").await;
    assert_eq!(world.result(id).await, b"3");
    until("all to be counted", async || (world.collector.unclear() == before + 7).then_some(()))
        .await;
    connection.close(200, "OK".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_and_results_survive_the_broker() {
    let broker = PrivateBroker::start();
    let world = World::start(&broker.url());
    let worker = world.worker(None);
    let mut ids = vec![world.submit(None, "first").await];
    let job = worker.job().await;
    for _ in 0..20 {
        ids.push(world.submit(None, "go").await);
    }
    world.wait(ids[20], TaskState::Queued).await;
    broker.sync_declared();
    broker.kill();
    ids.push(world.submit(None, "while it was away").await);
    let error = worker.supply.deliver(&[finished(&job, b"1")]).await.unwrap_err();
    println!("while the broker is away: {error}");
    broker.start_again();
    worker.finish(&job, b"1").await;
    let mut left = ids.len() - 1;
    while left > 0 {
        for job in soon("jobs", worker.supply.next(8)).await.unwrap() {
            left -= 1;
            worker.finish(&job, b"1").await;
        }
    }
    for id in ids {
        assert_eq!(world.result(id).await, b"1");
    }
    worker.supply.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_has_forgotten_is_sent_again() {
    let world = World::start(&shared().vhost("work-lost"));
    let id = world.submit(None, "go").await;
    world.wait(id, TaskState::Queued).await;
    shared().delete_queue("work-lost", "async-data-processor.tasks");
    until("the next attempt", async || (world.task(id).await.attempt == 2).then_some(())).await;
    let worker = world.worker(None);
    let job = worker.job().await;
    assert_eq!((job.id, job.attempt), (id, 2));
    worker.finish(&job, b"1").await;
    assert_eq!(world.result(id).await, b"1");
    worker.supply.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_back_is_run_by_another_one() {
    let world = World::start(&shared().vhost("work-back"));
    let (first, id) = (world.worker(None), world.submit(None, "go").await);
    let job = first.job().await;
    let done = Done { outcome: Outcome::Released, body: None, ..finished(&job, b"") };
    first.deliver(&done).await;
    first.supply.close().await;
    let second = world.worker(None);
    let job = second.job().await;
    assert_eq!((job.id, job.attempt), (id, 1), "the broker has given it to another one");
    let beat = Beat { id, attempt: 1, progress: 1 };
    until("it to be told of", async || {
        second.supply.beat(vec![beat]).await.unwrap();
        (world.task(id).await.state == TaskState::Running).then_some(())
    })
    .await;
    let done = Done { outcome: Outcome::Released, body: None, ..finished(&job, b"") };
    second.deliver(&done).await;
    let job = second.job().await;
    assert_eq!((job.id, job.attempt), (id, 2), "the store has given it to another one");
    second.finish(&job, b"1").await;
    assert_eq!(world.result(id).await, b"1");
    second.supply.close().await;
}
