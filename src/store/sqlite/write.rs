//! A transaction that writes: rows, those that follow them, how many there are, what has changed,
//! and which bells are to be rung when it is synced.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Result, params};

use super::bells::Rings;
use super::row::{PAYLOAD, Row, columns, endpoint_text};
use crate::store::{LOOKED_EVERY_MS, NewTask, TaskState};
use crate::task::{Name, TaskId, WorkerId};

/// A payload that is longer has a row of its own.
const PAYLOAD_BYTES_IN_ROW: usize = 1024;

const UPDATE: &str = "UPDATE task SET state = ?2, follows = ?3, attempt = ?4, failures = ?5,
    run_at = ?6, expires_at = ?7, queued_at = ?8, started_at = ?9, finished_at = ?10,
    deadline_at = ?11, owner = ?12, progress = ?13, error = ?14, result_bytes = ?15,
    result_head = ?16, changed = ?17 WHERE seq = ?1";

const INSERT: &str = "INSERT INTO task (id, kind, endpoint, key, failures_max, created_at, state,
    follows, attempt, failures, run_at, expires_at, finished_at, progress, changed, payload)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, ?9, ?10, ?11, 0, ?12, ?13)";

#[derive(Debug)]
pub(super) struct Write<'a> {
    connection: &'a Connection,
    /// The number of the latest change, once it was asked for.
    revision: Option<i64>,
    counts: BTreeMap<(Name, TaskState), i64>,
    rings: Rings,
}

impl<'a> Write<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self { connection, revision: None, counts: BTreeMap::new(), rings: Rings::default() }
    }

    pub(super) fn connection(&self) -> &'a Connection {
        self.connection
    }

    pub(super) fn statement(&self, sql: &str) -> Result<CachedStatement<'a>> {
        self.connection.prepare_cached(sql)
    }

    /// Somebody may run a task that is not its own any more.
    pub(super) fn ring_news(&mut self) {
        self.rings.news = true;
    }

    /// A schedule was added, cancelled or removed, or went on.
    pub(super) fn ring_plans(&mut self) {
        self.rings.plans = true;
    }

    /// Writes what was gathered; the bells to be rung after the commit.
    pub(super) fn finish(self) -> Result<Rings> {
        if let Some(revision) = self.revision {
            self.statement("UPDATE revision SET latest = ?1")?.execute([revision])?;
        }
        let mut count = self.statement(
            "INSERT INTO count VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET tasks = tasks + excluded.tasks",
        )?;
        for ((kind, state), more) in self.counts.into_iter().filter(|(_, more)| *more != 0) {
            count.execute(params![kind.as_str(), state.number(), more])?;
        }
        Ok(self.rings)
    }

    pub(super) fn find(&self, id: TaskId) -> Result<Option<Row>> {
        let sql = concat!("SELECT ", columns!("t", "t"), " FROM task t WHERE t.id = ?1");
        self.statement(sql)?.query_row([id.bytes()], Row::read).optional()
    }

    pub(super) fn row(&self, seq: i64) -> Result<Row> {
        let sql = concat!("SELECT ", columns!("t", "t"), " FROM task t WHERE t.seq = ?1");
        self.statement(sql)?.query_row([seq], Row::read)
    }

    pub(super) fn row_and_payload(&self, seq: i64) -> Result<(Row, Vec<u8>)> {
        let sql = concat!(
            "SELECT ",
            columns!("t", "t"),
            ", coalesce(t.payload, (SELECT bytes FROM payload WHERE task = t.seq))
             FROM task t WHERE t.seq = ?1",
        );
        let read = |row: &rusqlite::Row<'_>| Ok((Row::read(row)?, row.get(PAYLOAD)?));
        self.statement(sql)?.query_row([seq], read)
    }

    /// The rows that a query finds whose only column is `seq`.
    pub(super) fn rows(&self, sql: &str, bound: impl rusqlite::Params) -> Result<Vec<Row>> {
        let mut statement = self.statement(sql)?;
        let found: Result<Vec<i64>> = statement.query_map(bound, |row| row.get(0))?.collect();
        found?.into_iter().map(|seq| self.row(seq)).collect()
    }

    /// The task that does, or has done, the work of this key.
    pub(super) fn leader(&self, key: &str) -> Result<Option<Row>> {
        let sql = concat!(
            "SELECT ",
            columns!("t", "t"),
            " FROM task t INDEXED BY leader
             WHERE t.key = ?1 AND t.follows IS NULL AND t.state < 4",
        );
        self.statement(sql)?.query_row([key], Row::read).optional()
    }

    fn next_revision(&mut self) -> Result<i64> {
        let latest = match self.revision {
            Some(latest) => latest,
            None => self
                .statement("SELECT latest FROM revision")?
                .query_row([], |row| row.get::<_, i64>(0))?,
        };
        self.revision = Some(latest + 1);
        self.rings.news = true;
        Ok(latest + 1)
    }

    fn count(&mut self, kind: &Name, state: TaskState, more: i64) {
        *self.counts.entry((kind.clone(), state)).or_default() += more;
    }

    /// Adds a task, which follows `leader` if there is one.
    pub(super) fn insert(
        &mut self,
        task: &NewTask,
        leader: Option<&Row>,
        now_ms: i64,
    ) -> Result<()> {
        let state = leader.map_or(TaskState::Pending, |leader| leader.state);
        let ended_at = leader.and_then(|leader| leader.finished_at_ms).map(|at| at.max(now_ms));
        let changed = if task.is_watched { Some(self.next_revision()?) } else { None };
        let in_row = task.payload.len() <= PAYLOAD_BYTES_IN_ROW;
        let seq = self.statement(INSERT)?.insert(params![
            task.id.bytes(),
            task.kind.as_str(),
            endpoint_text(task.endpoint.as_ref()),
            task.key,
            task.failures_max.max(1),
            now_ms,
            state.number(),
            leader.map(|leader| leader.seq),
            task.run_at_ms,
            task.expires_at_ms,
            ended_at,
            changed,
            in_row.then_some(&task.payload),
        ])?;
        if !in_row {
            self.statement("INSERT INTO payload VALUES (?1, ?2)")?
                .execute(params![seq, task.payload])?;
        }
        self.count(&task.kind, state, 1);
        let is_soon = task.run_at_ms <= now_ms.saturating_add(LOOKED_EVERY_MS);
        self.rings.work |= leader.is_none() && is_soon;
        Ok(())
    }

    /// Changes a row, and what follows it.
    pub(super) fn change(&mut self, row: Row, edit: impl FnOnce(&mut Row)) -> Result<Row> {
        let row = self.change_alone(row, edit)?;
        if row.key.is_some() && row.follows.is_none() {
            self.lead(&row)?;
        }
        Ok(row)
    }

    fn change_alone(&mut self, mut row: Row, edit: impl FnOnce(&mut Row)) -> Result<Row> {
        let before = row.state;
        edit(&mut row);
        if row.changed.is_some() {
            row.changed = Some(self.next_revision()?);
        }
        self.statement(UPDATE)?.execute(params![
            row.seq,
            row.state.number(),
            row.follows,
            row.attempt,
            row.failures,
            row.run_at_ms,
            row.expires_at_ms,
            row.queued_at_ms,
            row.started_at_ms,
            row.finished_at_ms,
            row.deadline_at_ms,
            row.owner.map(WorkerId::bytes),
            row.progress,
            row.error,
            row.result.as_ref().map(|result| result.bytes.cast_signed()),
            row.result.as_ref().map(|result| &result.head),
            row.changed,
        ])?;
        if before != row.state {
            self.count(&row.kind, before, -1);
            self.count(&row.kind, row.state, 1);
            self.drop_parts(&row)?;
        }
        self.rings.work |= row.state == TaskState::Pending && row.follows.is_none();
        Ok(row)
    }

    /// Removes parts of a result that nobody will ask for.
    fn drop_parts(&self, row: &Row) -> Result<()> {
        let parts = match (row.state, &row.result) {
            (TaskState::Running | TaskState::Queued, _) => return Ok(()),
            (TaskState::Finished, Some(result)) => result.parts(),
            _ => 0,
        };
        let sql = "DELETE FROM part WHERE task = ?1 AND (attempt <> ?2 OR number >= ?3)";
        self.statement(sql)?.execute(params![row.seq, row.attempt, parts.cast_signed()])?;
        Ok(())
    }

    /// Brings those that follow a leader to where it stands now.
    fn lead(&mut self, leader: &Row) -> Result<()> {
        let sql = "SELECT seq FROM task INDEXED BY follower WHERE follows = ?1 ORDER BY seq";
        let followers = self.rows(sql, [leader.seq])?;
        let mut takes_over = None;
        for follower in followers {
            if follower.state == leader.state && follower.changed.is_none() {
                continue;
            }
            self.change_alone(follower, |follower| match leader.state {
                // The first takes over, and leads the others.
                TaskState::Cancelled => {
                    follower.follows = takes_over;
                    takes_over.get_or_insert(follower.seq);
                    follower.state = TaskState::Pending;
                }
                TaskState::Failed | TaskState::Missed => {
                    follower.follows = None;
                    follower.attempt = leader.attempt;
                    follower.started_at_ms = leader.started_at_ms;
                    follower.progress = leader.progress;
                    follower.error.clone_from(&leader.error);
                    let at_ms = leader.finished_at_ms.unwrap_or(0).max(follower.created_at_ms);
                    follower.end(leader.state, at_ms);
                }
                state => follow(follower, leader, state),
            })?;
        }
        Ok(())
    }

    /// Removes an ended task and all that belongs to it.
    pub(super) fn remove(&mut self, row: &Row) -> Result<()> {
        for sql in [
            "DELETE FROM part WHERE task = ?1",
            "DELETE FROM payload WHERE task = ?1",
            "DELETE FROM task WHERE seq = ?1",
        ] {
            self.statement(sql)?.execute([row.seq])?;
        }
        // What starts once is over with its task.
        self.statement("DELETE FROM schedule WHERE id = ?1 AND state IS NULL")?
            .execute([row.id.bytes()])?;
        self.count(&row.kind, row.state, -1);
        Ok(())
    }
}

/// A follower stands where its leader stands, and ages from when it was submitted.
pub(super) fn follow(follower: &mut Row, leader: &Row, state: TaskState) {
    follower.follows = Some(leader.seq);
    follower.state = state;
    follower.finished_at_ms = leader.finished_at_ms.map(|at| at.max(follower.created_at_ms));
}
