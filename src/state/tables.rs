//! The tables of the environment, made on first use.

use std::ops::RangeInclusive;

use heed::types::Bytes;
use heed::{Database, Env, WithoutTls};

/// The layout of everything stored; another number is refused, but for those before: their
/// tables are all here, and the new ones empty.
pub(super) const FORMAT: u32 = 4;
const FORMATS_BEFORE: RangeInclusive<u32> = 1..=3;
/// A bytes-to-bytes table.
pub type Table = Database<Bytes, Bytes>;

/// The tables of the environment.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "named and described in the table of module `state`")]
pub struct Tables {
    pub frames: Table,
    pub ends: Table,
    pub progress: Table,
    pub prepared: Table,
    pub journal: Table,
    pub workers: Table,
    pub retries: Table,
    pub dead: Table,
    pub sessions: Table,
    pub keyed: Table,
    pub keyed_order: Table,
    pub packets: Table,
    pub idempotency: Table,
    pub idempotency_order: Table,
    pub ships: Table,
    pub ship_seconds: Table,
    pub ship_minutes: Table,
    pub ship_batches: Table,
    pub meta: Table,
}

/// The tables and the identity of the environment; or its format, if that is another: then nothing
/// was changed.
pub(super) fn create(env: &Env<WithoutTls>) -> heed::Result<Result<(Tables, String), u32>> {
    let mut txn = env.write_txn()?;
    let mut table = |name| env.create_database::<Bytes, Bytes>(&mut txn, Some(name));
    let meta = table("meta")?;
    let tables = Tables {
        frames: table("frames")?,
        ends: table("ends")?,
        progress: table("progress")?,
        prepared: table("prepared")?,
        journal: table("journal")?,
        workers: table("workers")?,
        retries: table("retries")?,
        dead: table("dead")?,
        sessions: table("sessions")?,
        keyed: table("keyed")?,
        keyed_order: table("keyed_order")?,
        packets: table("packets")?,
        idempotency: table("idempotency")?,
        idempotency_order: table("idempotency_order")?,
        ships: table("ships")?,
        ship_seconds: table("ship_seconds")?,
        ship_minutes: table("ship_minutes")?,
        ship_batches: table("ship_batches")?,
        meta,
    };
    match meta.get(&txn, b"format")?.map(|bytes| bytes.try_into().map_or(0, u32::from_be_bytes)) {
        Some(FORMAT) => {}
        None => meta.put(&mut txn, b"format", &FORMAT.to_be_bytes())?,
        Some(before) if FORMATS_BEFORE.contains(&before) => {
            meta.put(&mut txn, b"format", &FORMAT.to_be_bytes())?;
        }
        Some(found) => return Ok(Err(found)),
    }
    let identity = match meta.get(&txn, b"identity")? {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => {
            let identity = super::random_identity()?;
            meta.put(&mut txn, b"identity", identity.as_bytes())?;
            identity
        }
    };
    txn.commit()?;
    Ok(Ok((tables, identity)))
}
