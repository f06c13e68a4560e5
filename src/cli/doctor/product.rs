//! What the broker says to be: its product, its version, what it says to be able to do.

use super::finding::Finding;
use crate::broker::rabbitmq::greeting::Greeting;

const CHECK: &str = "version";
/// Without these, messages would be lost or stand still.
const NEEDED: [(&str, &str); 4] = [
    ("publisher_confirms", "Nobody knows which messages it has stored."),
    ("basic.nack", "It cannot say that it has not stored a message."),
    ("consumer_cancel_notify", "A consumer whose queue is deleted never learns of it."),
    ("connection.blocked", "A server does not learn that it takes no messages."),
];

/// The version, as far as it can be read.
pub(super) fn version(greeting: &Greeting) -> Option<(u32, u32)> {
    let mut numbers = greeting.version.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

pub(super) fn check(greeting: &Greeting) -> Vec<Finding> {
    let Greeting { product, version: text, capabilities, .. } = greeting;
    if product != "RabbitMQ" {
        return vec![
            Finding::warning(CHECK, format!("the broker is {product:?} {text}, and no RabbitMQ"))
                .means(
                    "It was not tried with this program: quorum queues, single active consumers \
                     and confirms may mean less there, and messages may be lost or doubled.",
                )
                .advise("use RabbitMQ 3.10 or later where the promises must hold"),
        ];
    }
    let missing = NEEDED.iter().filter(|(name, _)| !capabilities.iter().any(|able| able == name));
    let missing = missing.map(|(name, means)| {
        Finding::problem(CHECK, format!("RabbitMQ {text} does not offer {name}"))
            .means(*means)
            .advise("use RabbitMQ 3.10 or later, without a proxy that hides what it can do")
    });
    std::iter::once(age(greeting)).chain(missing).collect()
}

fn age(greeting: &Greeting) -> Finding {
    let found = format!("RabbitMQ {}", greeting.version);
    match version(greeting) {
        None => Finding::unknown(CHECK, format!("{found}: a version that cannot be read")),
        Some(old) if old < (3, 8) => Finding::problem(CHECK, found)
            .means("It has no quorum queues with a single active consumer: nothing starts.")
            .advise("upgrade to RabbitMQ 4"),
        Some(old) if old < (3, 10) => Finding::warning(CHECK, found)
            .means("It is older than what this program is tested with; quorum queues were young.")
            .advise("upgrade to RabbitMQ 4"),
        Some((3, _)) => Finding::note(CHECK, found)
            .means("RabbitMQ 3 is no longer maintained for everybody.")
            .advise("plan the upgrade to RabbitMQ 4"),
        Some(_) => Finding::ok(CHECK, found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn greeting(product: &str, version: &str) -> Greeting {
        Greeting {
            product: product.to_owned(),
            version: version.to_owned(),
            cluster: None,
            capabilities: NEEDED.iter().map(|(name, _)| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_broker_is_judged_by_what_it_says_to_be() {
        for (product, version, level) in [
            ("RabbitMQ", "3.7.28", Level::Problem),
            ("RabbitMQ", "3.8.0", Level::Warning),
            ("RabbitMQ", "3.10.8", Level::Note),
            ("RabbitMQ", "4.0.0-rc.1", Level::Ok),
            ("RabbitMQ", "4.10.0", Level::Ok),
            ("RabbitMQ", "next", Level::Unknown),
            ("LavinMQ", "2.1.0", Level::Warning),
            ("", "", Level::Warning),
        ] {
            let found = check(&greeting(product, version));
            assert_eq!((found.len(), found[0].level), (1, level), "{product} {version}");
        }
    }

    #[test]
    fn each_ability_that_is_missing_is_a_problem() {
        let mut less = greeting("RabbitMQ", "4.1.0");
        less.capabilities.retain(|name| name != "basic.nack" && name != "connection.blocked");
        let found = check(&less);
        let problems: Vec<_> = found.iter().filter(|f| f.level == Level::Problem).collect();
        assert_eq!(problems.len(), 2, "{found:?}");
        assert_eq!(problems[0].found, "RabbitMQ 4.1.0 does not offer basic.nack");
    }
}
