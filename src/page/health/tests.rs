//! What is shown, as a whole.

use axum::Router;

use super::*;
use crate::clock::SystemClock;
use crate::service::presence::{Part, Presence};
use crate::state::StateOptions;
use crate::store::sqlite::SqliteStore;

struct Planted(Vec<String>);

impl Readiness for Planted {
    fn problems(&self) -> Vec<String> {
        self.0.clone()
    }
}

fn health(dir: &std::path::Path, problems: &[&str], road: Road) -> Health {
    let options = StateOptions {
        dir: dir.to_owned(),
        map_bytes: 64 << 20,
        low_water_bytes: Some(0),
        on_poison: Box::new(|reason| panic!("{reason}")),
    };
    Health {
        state: State::open(options).unwrap(),
        store: Arc::new(SqliteStore::open(dir).unwrap()),
        is_remote: false,
        readiness: Arc::new(Planted(problems.iter().map(|text| (*text).to_owned()).collect())),
        broker: None,
        beyond: Beyond::new(road),
    }
}

async fn draw(health: &Health) -> [String; 3] {
    let fragments = health.draw(&Focus::default()).await;
    let ids: Vec<_> = fragments.iter().map(|fragment| fragment.id).collect();
    assert_eq!(ids, [READY, RUNNING, GROUND]);
    fragments.into_iter().map(|fragment| fragment.html).collect::<Vec<_>>().try_into().unwrap()
}

#[tokio::test]
async fn what_runs_is_shown_with_its_parts_and_what_does_not_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let health = health(dir.path(), &[], Road::Within(Router::new()));
    let server = Presence::announce(dir.path(), "server", "1.2.3", &SystemClock).unwrap();
    let url = Some("http://127.0.0.1:8080".to_owned());
    server.add(Part { service: "server".to_owned(), url, ..Part::default() });
    let [ready, running, ground] = draw(&health).await;
    assert!(ready.contains("The server is ready."), "{ready}");
    assert!(running.contains("http://127.0.0.1:8080"), "{running}");
    assert!(running.contains("version 1.2.3"), "{running}");
    assert!(running.contains("id=\"absent-message-consumer\""), "{running}");
    assert!(!running.contains("process-spaceship"), "{running}");
    assert!(ground.contains("Embedded"), "{ground}");
    assert!(ground.contains("It answers"), "{ground}");
    assert!(ground.contains("Below 0 B free nothing more is taken."), "{ground}");
    server.end();
    let [_, running, _] = draw(&health).await;
    assert!(!running.contains("version 1.2.3"), "{running}");
}

#[tokio::test]
async fn a_problem_is_told_and_stays_text() {
    let dir = tempfile::tempdir().unwrap();
    let problems = ["shard 3: <script>alert(1)</script> waits"];
    let network = crate::rooms::telemetry::road::Network::new("http://127.0.0.1:1", None, None);
    let health = health(dir.path(), &problems, Road::Network(network.unwrap()));
    let [ready, running, _] = draw(&health).await;
    assert!(ready.contains("Not ready.") && !ready.contains("<script"), "{ready}");
    assert!(running.contains("http://127.0.0.1:1"), "{running}");
    assert!(running.contains("Not reached: Connection refused"), "{running}");
}

#[tokio::test]
async fn what_cannot_be_read_is_said_in_place_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let health = health(dir.path(), &[], Road::Within(Router::new()));
    std::fs::write(dir.path().join("running"), "no folder").unwrap();
    let [ready, running, ground] = draw(&health).await;
    assert!(running.contains("cannot be shown now"), "{running}");
    assert!(running.contains("running: "), "it names the folder: {running}");
    assert!(ready.contains("Everything is ready"), "{ready}");
    assert!(ground.contains("health-disk-meter"), "{ground}");
}

#[test]
fn bars_are_full_only_when_all_is_used() {
    assert_eq!(
        [percent(0, 10), percent(1, 1000), percent(10, 10), percent(1, 0)],
        [0, 1, 100, 100]
    );
}
