//! The examples with a broker.

use super::Example;
use crate::rabbitmq::broker::shared;

#[test]
fn of_two_hosts_the_other_goes_on_when_one_is_lost() {
    let url = shared().vhost("two-hosts");
    let printed = Example::new("two_hosts.sh").env("RABBITMQ_URL", url).succeed();
    let lines: Vec<_> = printed.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(lines, ["host a has 50, host b has 0", "host a has 50, host b has 50"]);
}

#[test]
fn two_hosts_need_a_broker() {
    let (code, said) = Example::new("two_hosts.sh").fail();
    assert!(code == 1 && said.contains("RABBITMQ_URL"), "{said}");
}

#[test]
fn the_pipes_are_measured_and_leave_no_queues_of_their_own() {
    let url = shared().vhost("pipes-example");
    let printed = Example::new("pipes").arg(url).arg("300").succeed();
    assert!(printed.contains("ratio") && printed.contains("latency"), "{printed}");
    let left = shared().all_queues("pipes-example");
    assert_eq!(left, ["async-data-processor.tasks", "results"]);
}
