//! Does the database answer, and does it keep what it has said?

use super::finding::Finding;
use crate::store::postgres::address::Address;
use crate::store::postgres::error::DatabaseError;
use crate::store::postgres::inspect::{Inspection, advice, inspect};

const CHECK: &str = "database";
/// Connections of one process.
const CONNECTIONS_NEEDED: i64 = 4;

/// What is found, and whether the server answered, be it with a refusal.
pub(super) async fn check(address: &Address) -> (Vec<Finding>, bool) {
    match inspect(address).await {
        Ok(inspection) => (judge(address, &inspection), true),
        Err(error) => refused(address, &error),
    }
}

fn refused(address: &Address, error: &DatabaseError) -> (Vec<Finding>, bool) {
    let found = format!("{address}: {error}");
    let finding = Finding::problem(CHECK, found).means("No task is taken or run.");
    match advice(address, error) {
        Some(advice) => (vec![finding.advise(advice)], true),
        None => (vec![finding.advise("start it, or mend DATABASE_URL and the way there")], false),
    }
}

fn judge(address: &Address, found: &Inspection) -> Vec<Finding> {
    let mut findings = vec![version(address, found), transport(address, found), tables(found)];
    if found.is_read_only {
        let text = "it takes no changes: a standby, or default_transaction_read_only is on";
        findings.push(
            Finding::problem("writable", text)
                .means("No task is taken or run.")
                .advise("name the primary in DATABASE_URL, or all of them: host1,host2"),
        );
    }
    findings.push(durability(found));
    findings.push(connections(found));
    findings
}

fn version(address: &Address, found: &Inspection) -> Finding {
    let text = format!("{address} is PostgreSQL {}", found.version);
    match found.version_number {
        ..130_000 => Finding::problem(CHECK, text)
            .means("Tasks cannot be kept in it.")
            .advise("update it to 13 or later"),
        _ => Finding::ok(CHECK, text),
    }
}

fn transport(address: &Address, found: &Inspection) -> Finding {
    const CHECK: &str = "database way";
    match (found.is_encrypted, address.is_verified(), address.is_local()) {
        (_, _, true) => Finding::ok(CHECK, "it stays on this machine"),
        (true, true, _) => Finding::ok(CHECK, "encrypted, and the certificate verified"),
        (true, false, _) => {
            Finding::warning(CHECK, "encrypted, but nobody looks at whose end it is")
                .means("Whoever is on the way can pretend to be the database.")
                .advise("say sslmode=verify-full in DATABASE_URL, with DATABASE_CA")
        }
        (false, _, _) => Finding::warning(CHECK, "not encrypted")
            .means("Whoever is on the way can read and change the tasks.")
            .advise("turn on TLS in the server, and say sslmode=verify-full in DATABASE_URL"),
    }
}

fn tables(found: &Inspection) -> Finding {
    const CHECK: &str = "tables";
    let Inspection { schema, schema_known, .. } = found;
    let text = match schema {
        0 => "there are none yet".to_owned(),
        _ => format!("version {schema}, and this program knows {schema_known}"),
    };
    match schema.cmp(schema_known) {
        std::cmp::Ordering::Equal => Finding::ok(CHECK, text),
        std::cmp::Ordering::Greater => Finding::problem(CHECK, text)
            .means("This program leaves them alone, and does not start.")
            .advise("update this program"),
        std::cmp::Ordering::Less if found.may_migrate => {
            Finding::note(CHECK, text).means("The first start brings them up to date.")
        }
        std::cmp::Ordering::Less => Finding::problem(CHECK, text)
            .means("The user may not bring them up to date.")
            .advise("GRANT CREATE ON DATABASE to the user, or let it own async_data_processor"),
    }
}

fn durability(found: &Inspection) -> Finding {
    const CHECK: &str = "durability";
    let off: Vec<&str> = [(found.fsync, "fsync"), (found.full_page_writes, "full_page_writes")]
        .into_iter()
        .filter_map(|(is_on, name)| (!is_on).then_some(name))
        .collect();
    if !off.is_empty() {
        return Finding::problem(CHECK, format!("{} is off", off.join(" and ")))
            .means("A power cut loses tasks that were accepted, or damages all of them.")
            .advise("turn it on in postgresql.conf");
    }
    let commit = &found.synchronous_commit;
    match ["on", "remote_apply"].contains(&commit.as_str()) {
        true => Finding::ok(CHECK, format!("fsync is on, synchronous_commit is {commit}")),
        false => Finding::note(CHECK, format!("synchronous_commit is {commit} for others"))
            .means("This program turns it on for itself."),
    }
}

fn connections(found: &Inspection) -> Finding {
    let (most, used) = found.connections;
    let text = format!("{used} of {most} connections are used; each process of ours needs 4");
    match most - used < CONNECTIONS_NEEDED {
        false => Finding::ok("connections", text),
        true => Finding::warning("connections", text)
            .means("The next process may find none left.")
            .advise("raise max_connections, or close what is not needed"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn well() -> Inspection {
        Inspection {
            version_number: 150_004,
            version: "15.4".to_owned(),
            is_encrypted: false,
            is_read_only: false,
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".to_owned(),
            connections: (97, 10),
            schema: 1,
            schema_known: 1,
            may_migrate: true,
        }
    }

    fn worst(url: &str, found: &Inspection) -> (Level, &'static str) {
        let address = Address::new(url, None).unwrap();
        let found = judge(&address, found);
        assert!(!format!("{found:?}").contains("s3cret"), "{found:?}");
        let worst = found.iter().max_by_key(|finding| finding.level).unwrap();
        (worst.level, worst.check)
    }

    #[test]
    fn what_weakens_a_promise_is_found() {
        let here = "postgres://ann:s3cret@localhost/jobs";
        assert_eq!(worst(here, &well()).0, Level::Ok);
        let away = "postgres://ann:s3cret@db/jobs";
        assert_eq!(worst(away, &well()), (Level::Warning, "database way"));
        let encrypted = Inspection { is_encrypted: true, ..well() };
        assert_eq!(worst(away, &encrypted), (Level::Warning, "database way"));
        for (found, expected) in [
            (Inspection { version_number: 120_009, ..well() }, (Level::Problem, "database")),
            (Inspection { is_read_only: true, ..well() }, (Level::Problem, "writable")),
            (Inspection { fsync: false, ..well() }, (Level::Problem, "durability")),
            (Inspection { full_page_writes: false, ..well() }, (Level::Problem, "durability")),
            (Inspection { schema: 2, ..well() }, (Level::Problem, "tables")),
            (Inspection { schema: 0, ..well() }, (Level::Note, "tables")),
            (Inspection { schema: 0, may_migrate: false, ..well() }, (Level::Problem, "tables")),
            (Inspection { connections: (97, 95), ..well() }, (Level::Warning, "connections")),
            (
                Inspection { synchronous_commit: "off".to_owned(), ..well() },
                (Level::Note, "durability"),
            ),
        ] {
            assert_eq!(worst(here, &found), expected, "{found:?}");
        }
    }
}
