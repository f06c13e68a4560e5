//! Of one endpoint, one worker takes at a time: who stands by, and when it gets its turn.

use async_data_processor::broker::pipes::WorkerPipes;
use async_data_processor::store::TaskState;
use async_data_processor::tasks::supply::Supply;

use super::broker::shared;
use super::pipes::{soon, until};
use super::pipes_world::{Worker, World};
use super::proxy::{Direction, Proxy};

/// Waits until so many stand in the line of an endpoint.
async fn wait_consumers(vhost: &str, queue: &str, consumers: usize) {
    until("the consumers", async || {
        let counted = shared().eval(&format!(
            r#"{{ok, Queue}} = rabbit_amqqueue:lookup(
                rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)),
            length(rabbit_amqqueue:consumers(Queue))"#
        ));
        (counted == consumers.to_string()).then_some(())
    })
    .await;
}

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
