//! What is wrong with Redis, kept where every process of the state directory sees it.
//!
//! ```text
//! table meta:  "redis_trouble" -> what, in words for a person; absent while all is well
//! ```

use crate::state::{State, StateError};

const TROUBLE: &[u8] = b"redis_trouble";

/// What is wrong now, if the process that pushes has found something.
///
/// # Errors
/// A read failed.
pub fn look(state: &State) -> Result<Option<String>, StateError> {
    let txn = state.read()?;
    let stored = state.tables().meta.get(&txn, TROUBLE)?;
    Ok(stored.map(|text| String::from_utf8_lossy(text).into_owned()))
}

/// Notes what is wrong, or that nothing is; stores it only where that has changed.
///
/// # Errors
/// It is not stored.
pub fn note(state: &State, text: Option<&str>) -> Result<(), StateError> {
    if look(state)?.as_deref() == text {
        return Ok(());
    }
    let text = text.map(str::to_owned);
    state.commit(move |txn| {
        let meta = txn.tables.meta;
        match &text {
            Some(text) => meta.put(&mut txn.txn, TROUBLE, text.as_bytes())?,
            None => drop(meta.delete(&mut txn.txn, TROUBLE)?),
        }
        Ok(())
    })
}
