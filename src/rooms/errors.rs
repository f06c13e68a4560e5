//! What a client is told when the store of the tasks does not do what was asked.

use axum::http::StatusCode;

use crate::store::StoreError;
use crate::web::HttpError;

/// When a client that found the store busy may come again, in seconds.
const BUSY_RETRY_SECONDS: u32 = 1;
/// When a client that found no room may come again, in seconds.
const ROOM_RETRY_SECONDS: u32 = 5;

impl From<StoreError> for HttpError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(detail) => {
                let text = "the store of the tasks cannot be reached now; whether anything was \
                            changed is unknown: repeat the request, with the same \
                            Idempotency-Key if it had one";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
                    .internal(detail)
                    .retry_after(BUSY_RETRY_SECONDS)
            }
            StoreError::Full(detail) => {
                let text = "no room for tasks; nothing was changed, try again later";
                Self::new(StatusCode::INSUFFICIENT_STORAGE, text)
                    .internal_told(detail)
                    .retry_after(ROOM_RETRY_SECONDS)
            }
            StoreError::Broken(detail) => {
                let text = "the store of the tasks is damaged or not ours; see the log";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, text).internal(detail)
            }
        }
    }
}
