//! A result on its way to a reader: part by part, so that no more than one is in memory.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::store::{Store, StoreError};
use crate::task::{ResultHead, TaskId};

/// The bytes of the result of a finished task, in order. A part is fetched when it is asked for.
///
/// The stream ends with an error where a part is missing or the store cannot be read: what came
/// before it is then not the whole.
pub fn stream(
    store: Arc<dyn Store>,
    id: TaskId,
    head: ResultHead,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    if head.is_whole() {
        return stream::once(async { Ok(Bytes::from(head.head)) }).boxed();
    }
    let parts = head.parts();
    let next = move |index: u32| {
        let store = Arc::clone(&store);
        async move {
            if u64::from(index) >= parts {
                return Ok(None);
            }
            let missing = || StoreError::Broken(format!("part {index} of the result of {id}"));
            let part = store.part(id, index).await?.ok_or_else(missing)?;
            Ok(Some((Bytes::from(part), index + 1)))
        }
    };
    stream::try_unfold(0, next).boxed()
}
