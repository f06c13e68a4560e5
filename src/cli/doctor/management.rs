//! What only RabbitMQ's management API tells, asked for all who need it.

use serde_json::Value;

use super::super::settings::Broker;
use super::finding::Finding;
use super::{nodes, policies};
use crate::broker::rabbitmq::greeting::Greeting;
use crate::broker::rabbitmq::inspect::parts;
use crate::broker::rabbitmq::management::{Management, ManagementError, encoded};
use crate::broker::rabbitmq::topology::Format;
use crate::message::Topic;

const CHECK: &str = "management";
/// More than the queues of a topic.
const QUEUES_MAX: u32 = 500;

pub(super) async fn check(
    management: Option<&Management>,
    broker: &Broker,
    greeting: Option<&Greeting>,
) -> Vec<Finding> {
    let Some(management) = management else { return vec![not_given()] };
    let (overview, nodes) = match of_cluster(management).await {
        Ok(answers) => answers,
        Err(error) => return vec![silent(management, "cluster and nodes", &error)],
    };
    let mut findings: Vec<_> = other_cluster(&overview, greeting).into_iter().collect();
    findings.extend(nodes::check(&nodes));
    match queues_of(management, broker).await {
        Err(error) => findings.push(silent(management, "the queues", &error)),
        Ok(queues) => {
            let (format, names) = (broker.topology.format, parts(broker.topology));
            findings.extend(policies::check(format, &names, &queues, nodes::count(&nodes)));
        }
    }
    findings
}

async fn of_cluster(management: &Management) -> Result<(Value, Value), ManagementError> {
    Ok((management.get("overview").await?, management.get("nodes").await?))
}

/// The queues of all topics: a page holds those of one.
async fn queues_of(management: &Management, broker: &Broker) -> Result<Value, ManagementError> {
    let vhost = encoded(broker.address.virtual_host());
    let mut all = Vec::new();
    for topic in Topic::ALL {
        let name = match broker.topology.format.of(topic) {
            Format::Packed => format!("async-data-processor.{}.", topic.name()),
            Format::Interop => "task_queue_".to_owned(),
        };
        let path = format!("queues/{vhost}?page=1&page_size={QUEUES_MAX}&name={name}");
        let page = management.get(&path).await?;
        let items = page.get("items").unwrap_or(&page).as_array().cloned();
        all.extend(items.unwrap_or_default());
    }
    Ok(Value::Array(all))
}

fn not_given() -> Finding {
    Finding::unknown(
        CHECK,
        "policies, alarms, limits of disk and memory, members of quorum queues were not checked: \
         only the management API tells them",
    )
    .advise(
        "rabbitmq-plugins enable rabbitmq_management, and set RABBITMQ_MANAGEMENT_URL with a user \
         who has the tag monitoring",
    )
}

fn silent(management: &Management, what: &str, error: &ManagementError) -> Finding {
    Finding::unknown(CHECK, format!("{management} was asked for {what}: {error}"))
        .means("Policies, alarms and members of quorum queues were not checked.")
        .advise(
            "is the plugin on, the URL right, and has the user the tag monitoring and permissions \
             in the virtual host?",
        )
}

/// The API of another broker tells nothing about this one.
fn other_cluster(overview: &Value, greeting: Option<&Greeting>) -> Option<Finding> {
    let theirs = overview.get("cluster_name").and_then(Value::as_str);
    let ours = greeting.and_then(|greeting| greeting.cluster.as_deref());
    let both = theirs.zip(ours).filter(|(theirs, ours)| theirs != ours);
    both.map(|(theirs, ours)| {
        let found = format!("it is of the cluster {theirs:?}, the broker of {ours:?}");
        Finding::warning(CHECK, found)
            .means("What follows may be of another broker.")
            .advise("set RABBITMQ_URL and RABBITMQ_MANAGEMENT_URL to the same cluster")
    })
}
