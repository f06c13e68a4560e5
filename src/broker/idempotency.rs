//! Idempotency keys (IETF draft-ietf-httpapi-idempotency-key-header): the first answer, again.
//!
//! ```text
//! table idempotency:        SHA-256 of principal and key -> JSON of `Row`
//! table idempotency_order:  number u64, big-endian       -> key of table idempotency
//! ```
//!
//! The look-up and the new row are part of the transaction that stores the messages, so a key is
//! known if and only if its messages are. Kept for a number of keys and a time; the smaller wins.

use heed::RoTxn;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::broker::{IdempotencyKey, PublishError, Receipt};
use crate::state::{StateError, Tables, WriteTxn};

/// Old rows dropped per new one, at most: more than one, so that a smaller limit is reached.
const EVICTIONS_PER_KEY: usize = 4;

/// How long keys are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRetention {
    /// The most keys (`IDEMPOTENCY_KEYS`).
    pub keys_max: u64,
    /// The longest time, in milliseconds (`IDEMPOTENCY_SECONDS`).
    pub age_ms_max: u64,
}

impl KeyRetention {
    /// Keys are neither looked up nor remembered: for those who need them on the way only, and are
    /// not to push out the keys of others.
    pub const NONE: Self = Self { keys_max: 0, age_ms_max: 0 };
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    /// SHA-256 of the body.
    fingerprint: [u8; 32],
    receipt: String,
    at_ms: u64,
    /// Its number in table idempotency_order.
    order: u64,
}

/// The stored form of a key: of one length, whatever a client sends.
pub type StoredKey = [u8; 32];

/// The stored form of `key`.
#[must_use]
pub fn stored_key(key: &IdempotencyKey) -> StoredKey {
    let mut hash = Sha256::new();
    // The length keeps principal and key apart.
    hash.update((key.principal.len() as u64).to_be_bytes());
    hash.update(key.principal.as_bytes());
    hash.update(key.key.as_bytes());
    hash.finalize().into()
}

fn damaged(error: impl std::fmt::Display) -> StateError {
    StateError::Damaged(format!("a row of table idempotency: {error}"))
}

fn load(txn: &RoTxn<'_>, tables: Tables, stored: &[u8]) -> Result<Option<Row>, StateError> {
    let row = tables.idempotency.get(txn, stored)?;
    row.map(|row| serde_json::from_slice(row).map_err(damaged)).transpose()
}

/// The first answer to this key, if it is still known.
///
/// # Errors
/// A read failed, or the row is damaged.
pub fn find(
    txn: &RoTxn<'_>,
    tables: Tables,
    stored: &StoredKey,
    fingerprint: [u8; 32],
    retention: KeyRetention,
    now_ms: u64,
) -> Result<Option<Result<Receipt, PublishError>>, StateError> {
    if retention == KeyRetention::NONE {
        return Ok(None);
    }
    let Some(row) = load(txn, tables, stored)? else { return Ok(None) };
    if now_ms.saturating_sub(row.at_ms) > retention.age_ms_max {
        return Ok(None);
    }
    if row.fingerprint != fingerprint {
        return Ok(Some(Err(PublishError::KeyReused)));
    }
    Ok(Some(Ok(row.receipt.parse().map_err(damaged)?)))
}

/// Remembers the first answer to this key, and forgets what is too much or too old.
///
/// # Errors
/// The environment refused; the transaction cannot go on.
pub fn remember(
    txn: &mut WriteTxn<'_>,
    stored: &StoredKey,
    fingerprint: [u8; 32],
    receipt: &Receipt,
    retention: KeyRetention,
    now_ms: u64,
) -> Result<(), StateError> {
    if retention == KeyRetention::NONE {
        return Ok(());
    }
    let tables = txn.tables;
    let newest = tables.idempotency_order.last(&txn.txn)?.map(|(number, _)| read_number(number));
    let order = newest.transpose()?.map_or(0, |number| number + 1);
    let row = Row { fingerprint, receipt: receipt.to_string(), at_ms: now_ms, order };
    let bytes = serde_json::to_vec(&row).map_err(damaged)?;
    tables.idempotency.put(&mut txn.txn, stored, &bytes)?;
    tables.idempotency_order.put(&mut txn.txn, &order.to_be_bytes(), stored)?;
    for _ in 0..EVICTIONS_PER_KEY {
        if !forget_oldest(txn, retention, now_ms, order)? {
            break;
        }
    }
    Ok(())
}

fn forget_oldest(
    txn: &mut WriteTxn<'_>,
    retention: KeyRetention,
    now_ms: u64,
    newest: u64,
) -> Result<bool, StateError> {
    let tables = txn.tables;
    let Some((number, stored)) = tables.idempotency_order.first(&txn.txn)? else {
        return Ok(false);
    };
    let (number, stored) = (read_number(number)?, stored.to_vec());
    let row = load(&txn.txn, tables, &stored)?;
    // A key that was used again after its time has a newer row: this number is only left over.
    let current = row.filter(|row| row.order == number);
    let keep = current.as_ref().is_some_and(|row| {
        newest - number < retention.keys_max
            && now_ms.saturating_sub(row.at_ms) <= retention.age_ms_max
    });
    if keep || number == newest {
        return Ok(false);
    }
    tables.idempotency_order.delete(&mut txn.txn, &number.to_be_bytes())?;
    if current.is_some() {
        tables.idempotency.delete(&mut txn.txn, &stored)?;
    }
    Ok(true)
}

fn read_number(bytes: &[u8]) -> Result<u64, StateError> {
    let bytes = bytes.try_into().map_err(|_| damaged("a number of 8 bytes was expected"))?;
    Ok(u64::from_be_bytes(bytes))
}
