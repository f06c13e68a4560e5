//! New tasks: most are inserted as they are; those with a key lead, or follow who leads already.

use std::collections::{HashMap, HashSet};

use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::changes::place;
use super::error::DatabaseError;
use super::row::{stored, task_id, uuid};
use super::writer::Txn;
use crate::store::{LOOKED_EVERY_MS, Millis, NewTask, Submitted};

/// How often a leader may vanish between the look at it and following it.
const ROUNDS_MAX: usize = 10;

const INSERT: &str = "INSERT INTO tasks (id, kind, endpoint, payload, state, failures_max, \
     created_at_ms, run_at_ms, expires_at_ms, follows, key_hash, is_watched, place, \
     is_told, changed_in) \
     SELECT s.id, s.kind, s.endpoint, s.payload, CASE WHEN s.follows IS NULL THEN 0 END, \
         s.failures_max, s.created_at_ms, s.run_at_ms, s.expires_at_ms, s.follows, s.key_hash, \
         s.is_watched, s.place, s.is_watched, CASE WHEN s.is_watched THEN pg_current_xact_id() END \
     FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::bigint[], $6::bigint[], \
         $7::bigint[], $8::bigint[], $9::uuid[], $10::bytea[], $11::boolean[], $12::int[]) \
         WITH ORDINALITY \
     AS s (id, kind, endpoint, payload, failures_max, created_at_ms, run_at_ms, expires_at_ms, \
         follows, key_hash, is_watched, place, number) \
     ORDER BY s.number ON CONFLICT DO NOTHING RETURNING id";
const KNOWN: &str = "SELECT id, kind, endpoint, payload, follows FROM tasks WHERE id = ANY($1)";
/// Locked, so that none is cancelled or removed before who follows it is there.
const LEADERS: &str = "SELECT id, key_hash FROM tasks \
     WHERE key_hash = ANY($1) AND state IN (0, 1, 2, 3) ORDER BY id FOR SHARE";
const TELL: &str = "UPDATE tasks SET is_told = true WHERE id = ANY($1) AND NOT is_told";

type Hash = Vec<u8>;

/// A task to insert, in its place among all.
struct Entry<'a> {
    task: &'a NewTask,
    now_ms: Millis,
    hash: Option<Hash>,
    follows: Option<Uuid>,
}

/// What came of each, in their order.
pub(super) fn submit<'a>(
    txn: &'a Txn,
    tasks: &'a [(NewTask, Millis)],
) -> BoxFuture<'a, Result<Vec<Submitted>, DatabaseError>> {
    Box::pin(async move {
        let hash = |key: &String| Sha256::digest(key.as_bytes()).to_vec();
        let mut entries: Vec<Entry<'_>> = tasks
            .iter()
            .map(|(task, now_ms)| {
                let hash = task.key.as_ref().map(hash);
                Entry { task, now_ms: *now_ms, hash, follows: None }
            })
            .collect();
        let mut answers: Vec<Option<Submitted>> = vec![None; entries.len()];
        for _ in 0..ROUNDS_MAX {
            insert(txn, &entries, &mut answers).await?;
            let open = |answers: &[Option<Submitted>]| answers.iter().any(Option::is_none);
            if open(&answers) {
                look_up(txn, &entries, &mut answers).await?;
            }
            if !open(&answers) {
                break;
            }
            find_leaders(txn, &mut entries, &answers).await?;
        }
        let soon = |now_ms: Millis| now_ms.saturating_add(LOOKED_EVERY_MS);
        if tasks.iter().any(|(task, now_ms)| task.run_at_ms <= soon(*now_ms)) {
            txn.ring_work();
        }
        if tasks.iter().any(|(task, _)| task.is_watched) {
            txn.ring_news();
        }
        let lost = || DatabaseError::Damaged("a key is taken and has no leader".to_owned());
        answers.into_iter().map(|answer| answer.ok_or_else(lost)).collect()
    })
}

/// Inserts those without an answer: of an id, and of a key that nobody leads, the first one only.
async fn insert(
    txn: &Txn,
    entries: &[Entry<'_>],
    answers: &mut [Option<Submitted>],
) -> Result<(), DatabaseError> {
    fn each<'a, T>(new: &[&'a Entry<'a>], value: impl Fn(&'a Entry<'a>) -> T) -> Vec<T> {
        new.iter().map(|entry| value(entry)).collect()
    }
    let (mut ids, mut leads) = (HashSet::new(), HashSet::new());
    let new: Vec<(usize, &Entry<'_>)> = entries
        .iter()
        .enumerate()
        .zip(answers.iter())
        .filter_map(|(entry, answer)| answer.is_none().then_some(entry))
        .filter(|(_, entry)| {
            let is_first = match (&entry.hash, entry.follows) {
                (Some(hash), None) => leads.insert(hash.clone()),
                _ => true,
            };
            ids.insert(entry.task.id) && is_first
        })
        .collect();
    let places: HashMap<Uuid, usize> =
        new.iter().map(|(index, entry)| (uuid(entry.task.id), *index)).collect();
    let new: Vec<&Entry<'_>> = new.into_iter().map(|(_, entry)| entry).collect();
    let endpoint = |entry: &'_ Entry<'_>| {
        entry.task.endpoint.as_ref().map_or(String::new(), |name| name.as_str().to_owned())
    };
    let values: &super::link::Values<'_> = &[
        &each(&new, |entry| uuid(entry.task.id)),
        &each(&new, |entry| entry.task.kind.as_str()),
        &each(&new, endpoint),
        &each(&new, |entry| entry.task.payload.as_slice()),
        &each(&new, |entry| stored(entry.task.failures_max.max(1))),
        &each(&new, |entry| entry.now_ms),
        &each(&new, |entry| entry.task.run_at_ms),
        &each(&new, |entry| entry.task.expires_at_ms),
        &each(&new, |entry| entry.follows),
        &each(&new, |entry| entry.hash.as_deref()),
        &each(&new, |entry| entry.task.is_watched),
        &each(&new, |entry| place(entry.task.id)),
    ];
    for row in txn.rows(INSERT, values).await? {
        let index = places.get(&row.try_get(0)?).copied();
        if let Some(index) = index
            && let (Some(entry), Some(answer)) = (entries.get(index), answers.get_mut(index))
        {
            let follows = entry.follows.map(|leader| Submitted::Follows(task_id(leader)));
            *answer = Some(follows.unwrap_or(Submitted::New));
        }
    }
    Ok(())
}

/// Those that were not inserted may be there already.
async fn look_up(
    txn: &Txn,
    entries: &[Entry<'_>],
    answers: &mut [Option<Submitted>],
) -> Result<(), DatabaseError> {
    let ids = open(entries, answers).map(|entry| uuid(entry.task.id));
    let ids: Vec<Uuid> = ids.collect();
    let known = txn.rows(KNOWN, &[&ids]).await?;
    let known: HashMap<Uuid, &tokio_postgres::Row> =
        known.iter().map(|row| Ok((row.try_get(0)?, row))).collect::<Result<_, DatabaseError>>()?;
    for (entry, answer) in entries.iter().zip(answers.iter_mut()) {
        if answer.is_some() {
            continue;
        }
        let task = entry.task;
        let Some(row) = known.get(&uuid(task.id)) else { continue };
        let endpoint = task.endpoint.as_ref().map(|name| name.as_str()).unwrap_or_default();
        let is_same = row.try_get::<_, &str>(1)? == task.kind.as_str()
            && row.try_get::<_, &str>(2)? == endpoint
            && row.try_get::<_, &[u8]>(3)? == task.payload;
        *answer = Some(if is_same { Submitted::Known } else { Submitted::Conflict });
    }
    Ok(())
}

/// Whom the rest is to follow.
async fn find_leaders(
    txn: &Txn,
    entries: &mut [Entry<'_>],
    answers: &[Option<Submitted>],
) -> Result<(), DatabaseError> {
    let hashes: Vec<Hash> = open(entries, answers).filter_map(|entry| entry.hash.clone()).collect();
    let mut leaders: HashMap<Hash, Uuid> = HashMap::new();
    for row in txn.rows(LEADERS, &[&hashes]).await? {
        leaders.insert(row.try_get(1)?, row.try_get(0)?);
    }
    let mut told = Vec::new();
    for (entry, answer) in entries.iter_mut().zip(answers) {
        if answer.is_none() {
            entry.follows = entry.hash.as_ref().and_then(|hash| leaders.get(hash)).copied();
            told.extend(entry.follows.filter(|_| entry.task.is_watched));
        }
    }
    if !told.is_empty() {
        txn.execute(TELL, &[&told]).await?;
    }
    Ok(())
}

/// Those without an answer.
fn open<'a, 'b>(
    entries: &'a [Entry<'b>],
    answers: &'a [Option<Submitted>],
) -> impl Iterator<Item = &'a Entry<'b>> {
    entries.iter().zip(answers).filter_map(|(entry, answer)| answer.is_none().then_some(entry))
}
