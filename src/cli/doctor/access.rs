//! What the URL of the broker gives away: to whoever listens, and to whoever knows the default.

use std::net::IpAddr;

use super::finding::Finding;
use crate::broker::rabbitmq::address::Address;

/// What is found without asking anybody.
pub(super) fn check(address: &Address) -> Vec<Finding> {
    vec![transport(address), login(address)]
}

fn is_loopback(host: &str) -> bool {
    let is_name = host == "localhost" || host.ends_with(".localhost");
    is_name || host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

fn transport(address: &Address) -> Finding {
    const CHECK: &str = "transport";
    match (address.is_encrypted(), is_loopback(address.host())) {
        (true, _) => Finding::ok(CHECK, format!("{address} is encrypted, and its name checked")),
        (false, true) => Finding::ok(CHECK, format!("{address} stays on this machine")),
        (false, false) => Finding::warning(CHECK, format!("{address} is not encrypted"))
            .means("Whoever is on the way can read the password and the messages, and change them.")
            .advise("use amqps:// in RABBITMQ_URL, with RABBITMQ_CA if the authority is your own"),
    }
}

fn login(address: &Address) -> Finding {
    const CHECK: &str = "login";
    let user = address.user();
    if user != "guest" {
        return Finding::ok(CHECK, format!("as the user {user}"));
    }
    let password = match address.is_default_login() {
        true => "with the password that every new broker has",
        false => "who may come from the broker's own machine only, unless that was changed",
    };
    let who = match is_loopback(address.host()) {
        true => "Every user of this machine",
        false => "Whoever reaches the broker",
    };
    let finding = Finding::warning(CHECK, format!("as the user guest, {password}"));
    let finding = match address.is_default_login() {
        true => finding.means(format!("{who} can read and delete what waits in it.")),
        false => finding.means("A broker on another host refuses the login."),
    };
    finding.advise(
        "make a user of its own (rabbitmqctl add_user, set_permissions), put it into RABBITMQ_URL, \
         and delete guest",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::broker::rabbitmq::address::TlsFiles;

    #[test]
    fn plain_text_to_elsewhere_and_guest_are_warned_of() {
        for (url, transport, login) in [
            ("amqp://ann:s3cret@127.0.0.1/", Level::Ok, Level::Ok),
            ("amqp://ann:s3cret@[::1]/", Level::Ok, Level::Ok),
            ("amqp://ann:s3cret@localhost/", Level::Ok, Level::Ok),
            ("amqp://ann:s3cret@broker/", Level::Warning, Level::Ok),
            ("amqp://ann:s3cret@localhost.example.org/", Level::Warning, Level::Ok),
            ("amqp://guest:guest@localhost/", Level::Ok, Level::Warning),
            ("amqp://guest:s3cret@10.0.0.1/", Level::Warning, Level::Warning),
        ] {
            let found = check(&Address::new(url, &TlsFiles::default()).unwrap());
            let levels: Vec<_> = found.iter().map(|finding| finding.level).collect();
            assert_eq!(levels, [transport, login], "{url}");
            assert!(!format!("{found:?}").contains("s3cret"), "{found:?}");
        }
    }
}
