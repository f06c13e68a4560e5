//! Does the broker answer, and does it let us in? Behind its door, the queues.

use std::time::Duration;

use super::super::settings::Broker;
use super::finding::Finding;
use super::{product, queues};
use crate::broker::rabbitmq::BrokerError;
use crate::broker::rabbitmq::greeting::{Greeting, greet};
use crate::broker::rabbitmq::inspect::{Reached, inspect, reach};

const CHECK: &str = "broker";
/// More than between two cities: a publish waits for two of them, one after the other.
const FAR: Duration = Duration::from_millis(100);

/// What came of asking the broker.
pub(super) struct Met {
    pub(super) findings: Vec<Finding>,
    /// What it says to be, if it said something.
    pub(super) greeting: Option<Greeting>,
    /// Whether it answered, be it with a refusal.
    pub(super) is_reached: bool,
}

pub(super) async fn check(broker: &Broker) -> Met {
    let greeting = match greet(&broker.address).await {
        Ok(greeting) => greeting,
        Err(error) => {
            let findings = unreachable(broker, &error.to_string());
            return Met { findings, greeting: None, is_reached: false };
        }
    };
    let mut findings = product::check(&greeting);
    let is_reached = match reach(&broker.address).await {
        Ok(reached) => {
            findings.insert(0, answers(broker, &reached));
            let inspected = inspect(broker.topology, &reached.connection).await;
            reached.close().await;
            findings.extend(queues::check(broker.topology, &inspected));
            true
        }
        Err(error) => match refused(broker, &error) {
            Some(finding) => {
                findings.insert(0, finding);
                findings.push(unasked("the login was refused"));
                true
            }
            None => {
                findings.splice(0..0, unreachable(broker, &error.to_string()));
                false
            }
        },
    };
    Met { findings, greeting: Some(greeting), is_reached }
}

fn answers(broker: &Broker, reached: &Reached) -> Finding {
    let (login, round_trip) = (reached.login.as_millis(), reached.round_trip);
    let host = broker.address.host();
    let micros = round_trip.as_micros();
    let trip = format!("{}.{} ms", micros / 1000, micros % 1000 / 100);
    let found = format!("{host} lets us in after {login} ms; a round trip takes {trip}");
    match round_trip > FAR {
        false => Finding::ok(CHECK, found),
        true => Finding::warning(CHECK, found)
            .means("Each 201 waits for that, and so does each batch of deliveries.")
            .advise("run servers and consumers near the broker"),
    }
}

fn unreachable(broker: &Broker, said: &str) -> Vec<Finding> {
    let address = &broker.address;
    vec![
        Finding::problem(CHECK, format!("{address} cannot be reached: {said}"))
            .means("Servers answer 503; what the broker has confirmed waits in it.")
            .advise(
                "is it running, are host, port and TLS in RABBITMQ_URL right, does a firewall \
                     stand between?",
            ),
        unasked("the broker cannot be reached"),
    ]
}

fn unasked(why: &str) -> Finding {
    Finding::unknown("queues", format!("they could not be looked at: {why}"))
}

fn refused(broker: &Broker, error: &BrokerError) -> Option<Finding> {
    let (user, vhost) = (broker.address.user(), broker.address.virtual_host());
    let (said, advice) = if error.is_refused_access() {
        (
            format!("it refuses the user {user}: {error}"),
            "check user and password in RABBITMQ_URL (guest may come from the broker's own machine \
             only)",
        )
    } else if error.is_wrong_virtual_host() {
        (
            format!("the virtual host {vhost:?} is not there, or not for {user}: {error}"),
            "check the virtual host in RABBITMQ_URL; rabbitmqctl add_vhost makes one, \
             set_permissions lets a user in",
        )
    } else {
        return None;
    };
    let finding = Finding::problem(CHECK, said).means("Servers and consumers stop with code 78.");
    Some(finding.advise(advice))
}
