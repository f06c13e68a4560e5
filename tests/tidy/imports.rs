//! Who may import whom. A module that is not in the table has not been thought about: add it.

use crate::Violation;
use crate::paths::{NamedPath, own_paths};
use crate::source::Source;

/// What a module may name.
enum Reach {
    Everything,
    Only(&'static [&'static str]),
}

/// Everything behind the network: what the rooms build on.
const STATIONS: &[&str] = &[
    "web", "batch", "broker", "clock", "message", "pool", "service", "shard", "state", "store",
    "task", "tasks",
];

/// What the page shows: the rooms, and what they build on.
const ROOMS_AND_STATIONS: &[&str] = &[
    "rooms", "web", "batch", "broker", "clock", "message", "pool", "service", "shard", "state",
    "store", "task", "tasks",
];

/// Each module of `src`, and the modules it may name beside itself. No room names another one.
const TABLE: &[(&str, Reach)] = &[
    ("main", Reach::Everything),
    ("lib", Reach::Only(&[])),
    ("cli", Reach::Everything),
    ("page", Reach::Only(ROOMS_AND_STATIONS)),
    ("rooms", Reach::Only(STATIONS)),
    ("web", Reach::Only(&["service", "clock"])),
    ("batch", Reach::Only(&["broker", "state", "message", "service", "clock"])),
    ("consumer", Reach::Only(&["batch", "pool", "broker", "state", "message", "service", "clock"])),
    ("pool", Reach::Only(&["broker", "message", "shard", "service", "clock"])),
    ("broker", Reach::Only(&["state", "message", "shard", "task", "service", "clock"])),
    ("tasks", Reach::Only(&["store", "broker", "task", "service", "clock"])),
    ("store", Reach::Only(&["task", "service", "clock"])),
    ("service", Reach::Only(&["clock"])),
    ("shard", Reach::Only(&["message"])),
    ("state", Reach::Only(&[])),
    ("message", Reach::Only(&[])),
    ("task", Reach::Only(&[])),
    ("clock", Reach::Only(&[])),
];

/// What stands behind a trait: only `cli` chooses it, and everyone else names the trait.
const BACKENDS: &[[&str; 2]] =
    &[["broker", "embedded"], ["broker", "rabbitmq"], ["store", "sqlite"], ["store", "postgres"]];

/// Checks every file of `src`.
pub(crate) fn check(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut unknown = Vec::new();
    for source in sources {
        let Some(station) = source.station() else { continue };
        let Some((_, reach)) = TABLE.iter().find(|(name, _)| *name == station) else {
            if !unknown.contains(&station) {
                let text = format!(
                    "`{station}` is not in the table of tests/tidy/imports.rs; decide whom it may \
                     import and who may import it, and add it there",
                );
                violations.push(Violation::new(&source.path, 1, text));
                unknown.push(station);
            }
            continue;
        };
        for path in own_paths(source) {
            if let Some(text) = refuse(source, station, reach, &path) {
                violations.push(Violation::new(&source.path, path.line, text));
            }
        }
    }
    violations
}

/// Why this file may not name this path.
fn refuse(source: &Source, station: &str, reach: &Reach, path: &NamedPath) -> Option<String> {
    let mut words = path.words.iter().map(String::as_str);
    let (target, child) = (words.next()?, words.next());
    let named = path.words.join("::");
    let is_named = |[module, backend]: &&[&str; 2]| target == *module && child == Some(*backend);
    if let Some(backend) = BACKENDS.iter().find(is_named)
        && station != "cli"
        && !within(source, *backend)
    {
        return Some(format!("`{named}` is chosen in cli only; name what `{target}` offers"));
    }
    if target == station {
        return other_room(source, child).map(|room| {
            format!("the room `{room}` is another one; move what both need to where it belongs")
        });
    }
    if !TABLE.iter().any(|(name, _)| *name == target) {
        return Some(format!(
            "`{target}` is no module in the table of tests/tidy/imports.rs; name the module that \
             holds it, or add the module there",
        ));
    }
    match reach {
        Reach::Everything => None,
        Reach::Only(allowed) if allowed.contains(&target) => None,
        Reach::Only(_) => Some(format!(
            "`{station}` may not import `{target}` (`{named}`); move it to a module that may, \
             or pass in what it needs",
        )),
    }
}

/// Does the file lie in the backend's folder, or is it the backend's file?
fn within(source: &Source, [station, backend]: [&str; 2]) -> bool {
    let home = format!("src/{station}/{backend}");
    source.path.strip_prefix(&home).is_some_and(|rest| rest.starts_with(['/', '.']))
}

/// The one edge between rooms: schedules order captures, and know their orders and ships.
const EDGE: (&str, &str) = ("schedules", "telemetry");

/// The room that a file of another room names.
fn other_room<'a>(source: &Source, child: Option<&'a str>) -> Option<&'a str> {
    let below = source.path.strip_prefix("src/rooms/")?;
    let own = below.split_once('/').map_or(below.trim_end_matches(".rs"), |(room, _)| room);
    child.filter(|child| own != "mod" && *child != own && (own, *child) != EDGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&[Source::new(path, text)]).iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn a_planted_import_is_found_however_it_is_written() {
        for planted in [
            "use crate::broker::Delivery;",
            "use crate::{clock::Clock, broker::Delivery};",
            "use crate::{\n    clock::{self, Clock},\n    rooms::messages as m,\n};",
            "use {std::fmt, crate::batch};",
            "fn f() { crate::state::open(); }",
            "use super::super::pool::Pool;",
            "use async_data_processor::cli;",
            "use crate::*;",
        ] {
            assert_eq!(lines("src/web/app.rs", planted).len(), 1, "{planted}");
        }
        let allowed = "use crate::{clock::Clock, service, web::error};\nuse super::auth::Token;\n\
                       // crate::broker\n#[cfg(test)]\nmod tests { use crate::broker::X; }";
        assert_eq!(lines("src/web/app.rs", allowed), [0; 0]);
    }

    #[test]
    fn a_room_may_name_stations_and_web_but_no_other_room() {
        let path = "src/rooms/messages/consume.rs";
        assert_eq!(lines(path, "use crate::{batch::name, store, web};\nuse super::entry;"), [0; 0]);
        assert_eq!(lines(path, "use crate::rooms::messages::entry;"), [0; 0]);
        assert_eq!(lines(path, "\nuse crate::rooms::schedules::X;"), [2]);
        assert_eq!(lines("src/rooms/telemetry/x.rs", "use crate::rooms::schedules::X;"), [1]);
        assert_eq!(lines("src/rooms/schedules/x.rs", "use crate::rooms::telemetry::X;"), [0; 0]);
        assert_eq!(lines(path, "use super::super::schedules::X;"), [1]);
        assert_eq!(lines(path, "use crate::cli::settings::X;"), [1]);
    }

    #[test]
    fn a_backend_is_named_in_cli_and_at_home_only() {
        let text = "use crate::broker::embedded::EmbeddedBroker;";
        assert_eq!(lines("src/cli/up.rs", text), [0; 0]);
        assert_eq!(lines("src/broker/embedded/idempotency.rs", text), [0; 0]);
        assert_eq!(lines("src/broker/embedded.rs", text), [0; 0]);
        for elsewhere in ["src/rooms/messages/consume.rs", "src/broker/take.rs", "src/main.rs"] {
            assert_eq!(lines(elsewhere, text), [1], "{elsewhere}");
        }
        assert_eq!(lines("src/broker/mod.rs", "pub mod embedded;\npub use embedded::X;"), [2]);
    }

    #[test]
    fn a_module_that_nobody_decided_on_is_found_once() {
        let sources = [Source::new("src/new/mod.rs", ""), Source::new("src/new/part.rs", "")];
        assert_eq!(check(&sources).len(), 1);
        assert_eq!(lines("src/cli/up.rs", "use crate::new::X;"), [1]);
    }
}
