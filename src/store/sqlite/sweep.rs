//! What time does to tasks, a bounded piece at a time.

use rusqlite::Result;

use super::schedules;
use super::workers::forget_buried;
use super::write::Write;
use crate::store::{BACK_OFF_MS_MAX, BEGUN_IS_HEARD_MS, Millis, Sweep, Swept, TOO_LATE, TaskState};

/// How many tasks of each sort at most.
const TASKS_MAX: i64 = 1000;
/// How many parts of results at most, unless one result has more.
const PARTS_MAX: i64 = 256;

/// A piece of it; remembers the latest time that was told, for when the clock goes back.
pub(super) fn sweep(write: &mut Write<'_>, sweep: Sweep, seen_ms: Millis) -> Result<Swept> {
    let now_ms = sweep.now_ms;
    write.statement("UPDATE clock SET seen = ?1 WHERE seen < ?1")?.execute([seen_ms])?;
    forget_buried(write, now_ms)?;
    Ok(Swept {
        missed: miss(write, sweep)?,
        overdue: overdue(write, now_ms)?,
        pruned: match sweep.ended_before_ms {
            Some(before_ms) => prune(write, before_ms)? + schedules::prune(write, before_ms)?,
            None => 0,
        },
    })
}

fn miss(write: &mut Write<'_>, sweep: Sweep) -> Result<u64> {
    let pending = "SELECT seq FROM task INDEXED BY expiring
                   WHERE state = 0 AND follows IS NULL AND expires_at < ?1 AND started_at IS NULL
                   ORDER BY expires_at LIMIT ?2";
    let queued = "SELECT seq FROM task INDEXED BY expiring_in_queue
                  WHERE state = 1 AND follows IS NULL AND expires_at < ?1 AND started_at IS NULL
                  AND owner IS NULL ORDER BY expires_at LIMIT ?2";
    let now_ms = sweep.now_ms;
    let mut rows = write.rows(pending, [now_ms, TASKS_MAX])?;
    if sweep.is_all_heard {
        let before_ms = now_ms.saturating_sub(BEGUN_IS_HEARD_MS);
        rows.extend(write.rows(queued, [before_ms, TASKS_MAX])?);
    }
    let missed = rows.len() as u64;
    for row in rows {
        write.change(row, |row| row.miss(now_ms, TOO_LATE.to_owned()))?;
    }
    Ok(missed)
}

fn overdue(write: &mut Write<'_>, now_ms: Millis) -> Result<u64> {
    let sql = "SELECT seq FROM task INDEXED BY deadline WHERE deadline_at < ?1
               ORDER BY deadline_at LIMIT ?2";
    let rows = write.rows(sql, [now_ms, TASKS_MAX])?;
    let overdue = rows.len() as u64;
    for row in rows {
        let reason = "its outside worker did not deliver in time";
        // Due again at once, since it has waited already.
        write.change(row, |row| {
            row.fail(reason.to_owned(), now_ms, Some(row.run_at_ms.min(now_ms)));
        })?;
        write.ring_news();
    }
    Ok(overdue)
}

fn prune(write: &mut Write<'_>, before_ms: Millis) -> Result<u64> {
    let sql = "SELECT seq FROM task t INDEXED BY ended WHERE finished_at < ?1
               AND NOT EXISTS (SELECT 1 FROM task f INDEXED BY follower WHERE f.follows = t.seq)
               ORDER BY finished_at LIMIT ?2";
    let mut parts = 0;
    let mut pruned = 0;
    for row in write.rows(sql, [before_ms, TASKS_MAX])? {
        parts += write
            .statement("SELECT count(*) FROM part WHERE task = ?1")?
            .query_row([row.seq], |row| row.get::<_, i64>(0))?;
        if parts > PARTS_MAX && pruned > 0 {
            break;
        }
        write.remove(&row)?;
        pruned += 1;
    }
    Ok(pruned)
}

/// The clock may have gone back to `now_ms`, from `seen_ms` or later. Whether that was the last
/// piece.
pub(super) fn turn_back(write: &mut Write<'_>, now_ms: Millis, seen_ms: Millis) -> Result<bool> {
    let known_ms = write.statement("SELECT seen FROM clock")?.query_row([], |row| row.get(0))?;
    let seen_ms = seen_ms.max(known_ms);
    if seen_ms <= now_ms {
        return Ok(true);
    }
    let is_last = [revive(write, now_ms)?, bring_forward(write, now_ms, seen_ms)?];
    let is_last = is_last.into_iter().all(|rows| rows < TASKS_MAX.unsigned_abs());
    if is_last {
        write.statement("UPDATE clock SET seen = ?1")?.execute([now_ms])?;
    }
    Ok(is_last)
}

/// What nobody has begun was missed in the future, and is not too late now. Not of a key: another
/// may do its work by now.
fn revive(write: &mut Write<'_>, now_ms: Millis) -> Result<u64> {
    let sql = "SELECT seq FROM task INDEXED BY ended
               WHERE finished_at > ?1 AND state = 6 AND expires_at >= ?1 AND started_at IS NULL
               AND key IS NULL LIMIT ?2";
    let rows = write.rows(sql, [now_ms, TASKS_MAX])?;
    let revived = rows.len() as u64;
    for row in rows {
        write.change(row, |row| {
            row.state = TaskState::Pending;
            (row.finished_at_ms, row.error) = (None, None);
        })?;
    }
    Ok(revived)
}

/// Due now is what was to run at once, what had been given out, and what pauses after a failure for
/// longer than any does; none of that is due much later than the latest time that was told.
fn bring_forward(write: &mut Write<'_>, now_ms: Millis, seen_ms: Millis) -> Result<u64> {
    let sql = "SELECT seq FROM task INDEXED BY pending
               WHERE state = 0 AND follows IS NULL AND run_at > ?1 AND run_at <= ?2
               AND (run_at <= created_at OR (attempt > 0 AND (failures = 0 OR run_at > ?3)))
               LIMIT ?4";
    let until_ms = seen_ms.saturating_add(BACK_OFF_MS_MAX);
    let too_far_ms = now_ms.saturating_add(BACK_OFF_MS_MAX);
    let rows = write.rows(sql, [now_ms, until_ms, too_far_ms, TASKS_MAX])?;
    let forward = rows.len() as u64;
    for row in rows {
        write.change(row, |row| row.run_at_ms = now_ms)?;
    }
    Ok(forward)
}
