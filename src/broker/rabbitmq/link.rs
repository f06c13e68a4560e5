//! Keeps one connection to the broker open, for ever: what is lost is connected anew.
//!
//! Publishing and consuming have a link each, so that a broker that holds back publishers (an
//! alarm) goes on delivering. A login that is refused is final; everything else may pass, and is
//! tried again after a pause.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::Event;
use tokio::sync::watch;

use super::address::{Address, Open};
use super::error::{BrokerError, Doing, within};
use super::topology::{Declares, Topology};
use crate::service::{Lifecycle, held, jittered};

/// How long connecting may take, logging in and declaring the queues included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before the next attempt, at first and at most; it doubles, and is jittered so that
/// many clients do not come back at one instant.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// How often the connection is looked at, besides the events it tells.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is looked whether the broker takes messages again.
const USABLE_POLL: Duration = Duration::from_millis(20);
/// How long a close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A link to the broker, kept by a task of its own until it is closed.
#[derive(Debug, Clone)]
pub struct Link<T = Topology> {
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    name: String,
    address: Address,
    topology: T,
    life: Lifecycle,
    up: watch::Sender<Option<Up>>,
    /// The last connection that a user of it has found to be no good.
    broken: watch::Sender<u64>,
    closing: watch::Sender<bool>,
    trouble: Mutex<Option<Trouble>>,
}

/// A connection that is open, as far as is known.
#[derive(Debug, Clone)]
pub struct Up {
    /// The connection.
    pub connection: Arc<Open>,
    /// How many there were before it.
    generation: u64,
}

impl Up {
    /// Whether it is the same connection.
    #[must_use]
    pub const fn is_same(&self, other: &Self) -> bool {
        self.generation == other.generation
    }

    /// What is to be told of an error on it, and remembered as `told`: nothing if the connection is
    /// lost, which is told elsewhere, or if it is what was told last.
    pub fn untold(&self, error: &BrokerError, told: &mut Option<String>) -> Option<String> {
        let text = error.to_string();
        if !self.connection.status().connected() || told.as_ref() == Some(&text) {
            return None;
        }
        *told = Some(text.clone());
        Some(text)
    }

    /// Whether that one came after this.
    #[must_use]
    pub const fn is_before(&self, other: &Self) -> bool {
        self.generation < other.generation
    }
}

/// What is wrong now.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// What, in words for a person.
    pub text: String,
    /// Since when.
    pub since: Instant,
}

impl<T: Declares> Link<T> {
    /// Starts to connect; `role` tells the connections of a process apart in the broker's lists.
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn start(address: Address, role: &str, topology: T, life: Lifecycle) -> Self {
        let link = Self {
            shared: Arc::new(Shared {
                name: format!("{} {role} {}", env!("CARGO_PKG_NAME"), std::process::id()),
                address,
                topology,
                life,
                up: watch::Sender::new(None),
                broken: watch::Sender::new(0),
                closing: watch::Sender::new(false),
                trouble: Mutex::new(Some(Trouble {
                    text: "not connected to the broker yet".to_owned(),
                    since: Instant::now(),
                })),
            }),
        };
        tokio::spawn(supervise(Arc::clone(&link.shared)));
        link
    }

    /// Waits for an open connection; `None` when the link is closed.
    pub async fn up(&self) -> Option<Up> {
        let mut up = self.shared.up.subscribe();
        let mut closing = self.shared.closing.subscribe();
        loop {
            if *closing.borrow_and_update() {
                return None;
            }
            if let Some(up) = up.borrow_and_update().clone() {
                return Some(up);
            }
            tokio::select! {
                changed = up.changed() => changed.ok()?,
                changed = closing.changed() => changed.ok()?,
            }
        }
    }

    /// Declares the queues again: one was found missing.
    ///
    /// # Errors
    /// The broker does not answer, or refuses.
    pub async fn declare(&self, up: &Up) -> Result<(), BrokerError> {
        self.shared.declare(&up.connection).await
    }

    /// The queues.
    #[must_use]
    pub fn topology(&self) -> T {
        self.shared.topology.clone()
    }

    /// The connection does not answer: another one is made.
    pub fn give_up(&self, up: &Up) {
        self.shared.broken.send_if_modified(|broken| {
            let news = *broken < up.generation;
            *broken = up.generation.max(*broken);
            news
        });
    }

    /// What is wrong now, if anything.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        held(&self.shared.trouble).clone()
    }

    /// Waits for a connection on which the broker takes messages, as far as is known.
    ///
    /// # Errors
    /// There was none until the deadline: why.
    pub async fn usable(&self, deadline: Instant) -> Result<Up, String> {
        loop {
            let trouble = match self.trouble() {
                Some(trouble) => trouble.text,
                None => match self.shared.up.borrow().clone() {
                    Some(up) => return Ok(up),
                    None => "not connected to the broker".to_owned(),
                },
            };
            if Instant::now() >= deadline || self.is_closed() {
                return Err(trouble);
            }
            tokio::time::sleep(USABLE_POLL).await;
        }
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.shared.closing.borrow()
    }

    /// Closes the connection in order, for good.
    pub async fn close(&self) {
        self.shared.closing.send_replace(true);
        let mut up = self.shared.up.subscribe();
        let closed = up.wait_for(Option::is_none);
        let _late = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
    }
}

async fn supervise<T: Declares>(shared: Arc<Shared<T>>) {
    let mut closing = shared.closing.subscribe();
    let (mut pause, mut generation) = (PAUSE, 0);
    loop {
        let opened = tokio::select! {
            opened = shared.open() => opened,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        match opened {
            Ok(connection) => {
                pause = PAUSE;
                generation += 1;
                let up = Up { connection: Arc::new(connection), generation };
                shared.serve(&up).await;
            }
            Err(error) if error.is_final() => {
                let address = &shared.address;
                return shared.life.fail_settings(format!("{address}: {}", advice(&error)));
            }
            Err(error) => shared.note(Some(format!("{}: {}", shared.address, advice(&error)))),
        }
        if *closing.borrow() {
            return;
        }
        let _closing = tokio::time::timeout(jittered(pause), closing.wait_for(|c| *c)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// An error, and what a person can do about it.
fn advice(error: &BrokerError) -> String {
    if let Some(advice) = error.certificate_advice() {
        return format!("{error}: {advice}");
    }
    match error {
        BrokerError::Failed { .. } if error.is_refused_access() => format!(
            "{error}: check user and password in RABBITMQ_URL (the user guest may come from the \
             broker's own host only)"
        ),
        BrokerError::Failed { .. } if error.is_wrong_virtual_host() => format!(
            "{error}: check the virtual host in RABBITMQ_URL, and the user's permissions in it"
        ),
        _ => error.to_string(),
    }
}

impl<T: Declares> Shared<T> {
    async fn open(&self) -> Result<Open, BrokerError> {
        let connected = self.address.connect(&self.name);
        let connection = within(CONNECT_TIMEOUT, Doing::Connecting, connected).await?;
        self.declare(&connection).await?;
        Ok(connection)
    }

    async fn declare(&self, connection: &Open) -> Result<(), BrokerError> {
        let _one_at_a_time = self.address.declaring().await;
        self.topology.declare(connection).await
    }

    /// Lends the connection out until it is lost or given up, or the link is closed.
    async fn serve(&self, up: &Up) {
        tracing::info!(broker = %self.address, connection = self.name, "connected to the broker");
        let mut events = Box::pin(up.connection.events_listener());
        let (mut closing, mut broken) = (self.closing.subscribe(), self.broken.subscribe());
        let mut look = tokio::time::interval(LOOK_EVERY);
        self.note(None);
        self.up.send_replace(Some(up.clone()));
        let lost = loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => self.note(Some(format!(
                        "the broker takes no messages, because of an alarm ({reason}): free its \
                         memory or disk"
                    ))),
                    Some(Event::ConnectionUnblocked) => self.note(None),
                    // Told of a channel as well, which its user learns and mends.
                    Some(Event::Error(error)) if !up.connection.status().connected() => {
                        break Some(error.to_string());
                    }
                    _ => {}
                },
                _ = look.tick() => if !up.connection.status().connected() {
                    break Some("the connection is closed".to_owned());
                },
                _ = broken.wait_for(|broken| *broken >= up.generation) => {
                    break Some("it does not answer".to_owned());
                }
                _ = closing.wait_for(|closing| *closing) => break None,
            }
        };
        if let Some(reason) = lost {
            self.note(Some(format!("the connection to {} is lost: {reason}", self.address)));
        }
        let close = up.connection.close(200, "OK".into());
        let _late = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
        up.connection.shut();
        self.up.send_replace(None);
    }

    /// Remembers what is wrong and logs it, when that has changed.
    fn note(&self, text: Option<String>) {
        let mut trouble = held(&self.trouble);
        let known = trouble.as_ref().map(|trouble| &trouble.text);
        match &text {
            Some(text) if known != Some(text) => tracing::warn!("{text}"),
            None if known.is_some_and(|known| known.contains("alarm")) => {
                tracing::info!("the broker takes messages again");
            }
            _ => {}
        }
        let since = trouble.as_ref().map_or_else(Instant::now, |trouble| trouble.since);
        *trouble = text.map(|text| Trouble { text, since });
    }
}
