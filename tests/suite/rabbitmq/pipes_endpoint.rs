//! Of one endpoint, one worker takes at a time: who stands by, and when it gets its turn.

use std::time::Duration;

use async_data_processor::broker::pipes::WorkerPipes;
use async_data_processor::store::TaskState;
use async_data_processor::task::TaskId;
use async_data_processor::tasks::supply::Supply;

use super::broker::shared;
use super::pipes::{soon, until};
use super::pipes_world::{Worker, World};
use super::proxy::{Direction, Proxy};

/// How many stand in the line of an endpoint.
fn consumers(vhost: &str, queue: &str) -> String {
    shared().eval(&format!(
        r#"{{ok, Queue}} = rabbit_amqqueue:lookup(
            rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)),
        length(rabbit_amqqueue:consumers(Queue))"#
    ))
}

/// Waits until it is so many.
async fn wait_consumers(vhost: &str, queue: &str, count: usize) {
    until("the consumers", async || (consumers(vhost, queue) == count.to_string()).then_some(()))
        .await;
}

/// A server that has sent a task to the endpoint `lab`.
async fn with_a_task(vhost: &str) -> (World, TaskId) {
    let world = World::start(&shared().vhost(vhost));
    let id = world.submit(Some("lab"), "1").await;
    world.wait(id, TaskState::Queued).await;
    (world, id)
}

/// Which queues may be declared: those whose names match.
fn permit(vhost: &str, names: &str) {
    shared().eval(&format!(
        r#"rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{vhost}">>,
            <<"{names}">>, <<".*">>, <<".*">>, <<"tests">>)"#
    ));
}

/// All but those that a worker hears orders by.
const NONE_FOR_ORDERS: &str = "^(?!amq.gen)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_over_gets_what_is_not_begun_and_the_former_ends_what_it_has() {
    let world = World::start(&shared().vhost("end-over"));
    let (holder, first) = (world.worker(Some("lab")), world.submit(Some("lab"), "1").await);
    let begun = holder.job().await;
    let second = world.submit(Some("lab"), "2").await;
    world.wait(second, TaskState::Queued).await;
    let newcomer = world.worker(Some("lab"));
    wait_consumers("end-over", "lab.tasks", 2).await;
    soon("the order", newcomer.pipes.take_over()).await.unwrap();
    let job = newcomer.job().await;
    assert_eq!(job.id, second);
    holder.finish(&begun, b"1").await;
    newcomer.finish(&job, b"2").await;
    assert_eq!(world.result(first).await, b"1");
    assert_eq!(world.result(second).await, b"2");
    // The former stands by behind it.
    wait_consumers("end-over", "lab.tasks", 2).await;
    let third = world.submit(Some("lab"), "3").await;
    assert_eq!(newcomer.job().await.id, third);
    newcomer.supply.close().await;
    assert_eq!(holder.job().await.id, third);
    holder.supply.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_an_endpoint_hears_who_wants_it() {
    let (world, id) = with_a_task("end-hears").await;
    permit("end-hears", NONE_FOR_ORDERS);
    let holder = world.worker(Some("lab"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    permit("end-hears", ".*");
    wait_consumers("end-hears", "lab.tasks", 1).await;
    let listeners = shared().eval(
        r#"length(rabbit_binding:list_for_source(
            rabbit_misc:r(<<"end-hears">>, exchange, <<"async-data-processor.control">>)))"#,
    );
    assert_eq!(listeners, "1");
    assert_eq!(holder.job().await.id, id);
    holder.supply.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_hear_orders_works_all_the_same() {
    let (world, id) = with_a_task("end-deaf").await;
    permit("end-deaf", NONE_FOR_ORDERS);
    let holder = world.worker(Some("lab"));
    let job = holder.job().await;
    holder.finish(&job, b"1").await;
    assert_eq!(world.result(id).await, b"1");
    holder.supply.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_by_takes_over_from_one_that_is_cut_off_or_says_nothing_any_more() {
    let world = World::start(&shared().vhost("end-dead"));
    let proxy = Proxy::to(shared().port());
    let url = format!("{}?heartbeat=1", proxy.url(&world.url));
    let holder = Worker::start(&url, Some("lab"));
    let id = world.submit(Some("lab"), "1").await;
    assert_eq!(holder.job().await.id, id);
    let newcomer = world.worker(Some("lab"));
    wait_consumers("end-dead", "lab.tasks", 2).await;
    // A zombie: its connection stays open, and nothing comes of it.
    proxy.swallow(Direction::ToBroker);
    let job = newcomer.job().await;
    assert_eq!(job.id, id);
    newcomer.finish(&job, b"1").await;
    assert_eq!(world.result(id).await, b"1");
    proxy.heal();
    tokio::join!(newcomer.supply.close(), holder.supply.close());
}
