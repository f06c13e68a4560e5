//! Keeps one connection to the database open, for ever: what is lost is connected anew.
//!
//! A login that is refused, a database that is not there and tables of a later version are final;
//! everything else may pass, and is tried again after a pause.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Row, Statement};

use super::address::{Address, Wire};
use super::error::DatabaseError;
use super::schema;
use crate::service::{Lifecycle, held, jittered};

/// How long connecting may take, logging in and looking at the tables included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long bringing the tables up to date may take on top.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(600);
/// The pause before the next attempt, at first and at most; it doubles, and is jittered so that
/// many clients do not come back at one instant.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// The channels on which bells are rung.
pub(super) const WORK: &str = "async_data_processor_work";
pub(super) const NEWS: &str = "async_data_processor_news";
pub(super) const PLANS: &str = "async_data_processor_plans";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Changes.
    Changes,
    /// Short questions.
    Reads,
    /// Questions about many tasks.
    Lists,
    /// Hearing the bells.
    Bells,
}

/// Rung when the database says so.
#[derive(Debug, Default)]
pub(super) struct Ropes {
    pub(super) work: watch::Sender<u64>,
    pub(super) news: watch::Sender<u64>,
    pub(super) plans: watch::Sender<u64>,
}

/// A link to the database, kept by a task of its own until it is closed.
#[derive(Debug, Clone)]
pub(super) struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    role: Role,
    address: Address,
    life: Lifecycle,
    ropes: Arc<Ropes>,
    up: watch::Sender<Option<Arc<Session>>>,
    /// The last connection that a user of it has found to be no good.
    broken: watch::Sender<u64>,
    closing: watch::Sender<bool>,
    trouble: Mutex<Option<String>>,
}

/// A connection that is open, as far as is known.
pub(super) struct Session {
    client: Client,
    generation: u64,
    /// By their text; each is parsed by the database once a connection.
    statements: Mutex<HashMap<&'static str, Statement>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.generation)
    }
}

/// The values of a statement.
pub(super) type Values<'a> = [&'a (dyn ToSql + Sync)];

impl Session {
    async fn statement(&self, sql: &'static str) -> Result<Statement, DatabaseError> {
        if let Some(statement) = held(&self.statements).get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        held(&self.statements).insert(sql, statement.clone());
        Ok(statement)
    }

    /// Asks for rows.
    pub(super) async fn rows(
        &self,
        sql: &'static str,
        values: &Values<'_>,
    ) -> Result<Vec<Row>, DatabaseError> {
        let statement = self.statement(sql).await?;
        Ok(self.client.query(&statement, values).await?)
    }

    /// Changes rows; how many.
    pub(super) async fn execute(
        &self,
        sql: &'static str,
        values: &Values<'_>,
    ) -> Result<u64, DatabaseError> {
        let statement = self.statement(sql).await?;
        Ok(self.client.execute(&statement, values).await?)
    }

    /// Says commands that have no values.
    pub(super) async fn say(&self, commands: &str) -> Result<(), DatabaseError> {
        Ok(self.client.batch_execute(commands).await?)
    }
}

impl Link {
    /// Starts to connect. Must be called within a tokio runtime.
    pub(super) fn start(
        address: Address,
        role: Role,
        life: Lifecycle,
        ropes: Arc<Ropes>,
        closing: watch::Sender<bool>,
    ) -> Self {
        let shared = Arc::new(Shared {
            role,
            address,
            life,
            ropes,
            up: watch::Sender::new(None),
            broken: watch::Sender::new(0),
            closing,
            trouble: Mutex::new(Some("not connected to the database yet".to_owned())),
        });
        tokio::spawn(supervise(Arc::clone(&shared)));
        Self { shared }
    }

    /// Waits for an open connection.
    ///
    /// # Errors
    /// There was none until the deadline: why.
    pub(super) async fn session(&self, deadline: Instant) -> Result<Arc<Session>, String> {
        let mut up = self.shared.up.subscribe();
        let mut closing = self.shared.closing.subscribe();
        loop {
            if let Some(session) = up.borrow_and_update().clone() {
                return Ok(session);
            }
            let is_over = tokio::select! {
                changed = tokio::time::timeout_at(deadline, up.changed()) => {
                    !matches!(changed, Ok(Ok(())))
                }
                _ = closing.wait_for(|closing| *closing) => true,
            };
            if is_over {
                let trouble = held(&self.shared.trouble).clone();
                return Err(trouble.unwrap_or_else(|| "the database is not reached".to_owned()));
            }
        }
    }

    /// The connection does not answer: another one is made, and this one lent out no more.
    pub(super) fn give_up(&self, session: &Session) {
        self.shared.up.send_if_modified(|up| {
            let is_same = up.as_ref().is_some_and(|up| up.generation == session.generation);
            if is_same {
                *up = None;
            }
            is_same
        });
        self.shared.broken.send_if_modified(|broken| {
            let news = *broken < session.generation;
            *broken = session.generation.max(*broken);
            news
        });
    }
}

async fn supervise(shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    let (mut pause, mut generation) = (PAUSE, 0);
    loop {
        generation += 1;
        let opened = tokio::select! {
            opened = shared.open() => opened,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        match opened {
            Ok((client, wire)) => {
                pause = PAUSE;
                let statements = Mutex::default();
                let session = Arc::new(Session { client, generation, statements });
                shared.serve(session, wire).await;
            }
            Err(error) if error.is_final() => {
                let advice = error.advice().map(|advice| format!(": {advice}"));
                let advice = advice.unwrap_or_default();
                let text = format!("{}: {error}{advice}", shared.address);
                shared.note(Some(text.clone()));
                return shared.life.fail_settings(text);
            }
            Err(error) => {
                let advice = shared.address.advice(&error);
                shared.note(Some(format!("{}: {error}{advice}", shared.address)));
            }
        }
        if *closing.borrow() {
            return;
        }
        let _closing = tokio::time::timeout(jittered(pause), closing.wait_for(|c| *c)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Shared {
    async fn open(&self) -> Result<(Client, Wire), DatabaseError> {
        let name = match self.role {
            Role::Changes => "changes",
            Role::Reads => "reads",
            Role::Lists => "lists",
            Role::Bells => "bells",
        };
        let (client, mut wire) = in_time(CONNECT_TIMEOUT, self.address.connect(name)).await?;
        let prepare = async {
            in_time(CONNECT_TIMEOUT, greet(&client)).await?;
            in_time(MIGRATE_TIMEOUT, schema::migrate(&client)).await?;
            in_time(CONNECT_TIMEOUT, set_up(&client, self.role)).await
        };
        tokio::select! {
            prepared = prepare => prepared?,
            lost = wait_lost(&mut wire, &self.ropes) => return Err(lost),
        }
        Ok((client, wire))
    }

    /// Lends the connection out until it is lost or given up, or the link is closed.
    async fn serve(&self, session: Arc<Session>, mut wire: Wire) {
        tracing::info!(database = %self.address, role = ?self.role, "connected to the database");
        let (mut closing, mut broken) = (self.closing.subscribe(), self.broken.subscribe());
        let generation = session.generation;
        self.note(None);
        self.up.send_replace(Some(session));
        if self.role == Role::Bells {
            // They may have been rung while nobody listened.
            let Ropes { work, news, plans } = self.ropes.as_ref();
            for rope in [work, news, plans] {
                rope.send_modify(|rings| *rings += 1);
            }
        }
        let lost = tokio::select! {
            lost = wait_lost(&mut wire, &self.ropes) => Some(lost.to_string()),
            _ = broken.wait_for(|broken| *broken >= generation) => {
                Some("it does not answer".to_owned())
            }
            _ = closing.wait_for(|closing| *closing) => None,
        };
        if let Some(reason) = lost {
            self.note(Some(format!("the connection to {} is lost: {reason}", self.address)));
        }
        self.up.send_replace(None);
    }

    /// Remembers what is wrong and logs it, when that has changed.
    fn note(&self, text: Option<String>) {
        let mut trouble = held(&self.trouble);
        match &text {
            Some(text) if trouble.as_ref() != Some(text) => tracing::warn!("{text}"),
            _ => {}
        }
        *trouble = text;
    }
}

/// Carries bytes and rings bells until the connection is lost.
async fn wait_lost(wire: &mut Wire, ropes: &Ropes) -> DatabaseError {
    loop {
        match poll_fn(|context| wire.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                let rope = match notification.channel() {
                    WORK => &ropes.work,
                    NEWS => &ropes.news,
                    PLANS => &ropes.plans,
                    _ => continue,
                };
                rope.send_modify(|rings| *rings += 1);
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.into(),
            None => return DatabaseError::TimedOut,
        }
    }
}

/// Refuses a server that is too old.
async fn greet(client: &Client) -> Result<(), DatabaseError> {
    let version = "SELECT current_setting('server_version_num')::int, \
         current_setting('server_version')";
    let row = client.query_one(version, &[]).await?;
    let number: i32 = row.try_get(0)?;
    if number < 130_000 { Err(DatabaseError::Old(row.try_get(1)?)) } else { Ok(()) }
}

/// Our settings of a session, whatever those of the server are.
async fn set_up(client: &Client, role: Role) -> Result<(), DatabaseError> {
    let common = "SET search_path = async_data_processor, pg_catalog; \
         SET client_min_messages = warning; SET default_transaction_isolation = 'read committed'; \
         SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = '5s'; \
         SET statement_timeout = '8s'; SET jit = off";
    client.batch_execute(common).await?;
    // What was answered is synced, on a standby too where the server is set up so.
    let synced = "SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')";
    client.batch_execute(synced).await?;
    match role {
        // Each statement there has its index, whatever stale statistics say.
        Role::Changes => {
            let plans = "SET enable_seqscan = off; SET enable_bitmapscan = off; \
                 SET plan_cache_mode = force_generic_plan";
            client.batch_execute(plans).await?;
        }
        Role::Bells => {
            let listen = format!("LISTEN {WORK}; LISTEN {NEWS}; LISTEN {PLANS}");
            client.batch_execute(&listen).await?;
        }
        Role::Reads | Role::Lists => {}
    }
    Ok(())
}

/// Does it, in so long at most.
pub(super) async fn in_time<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(DatabaseError::TimedOut))
}
