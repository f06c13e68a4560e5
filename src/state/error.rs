//! What can go wrong with a read or a commit.

/// Why a read or a commit did not happen. Nothing of a failed commit is stored, unless it says so.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StateError {
    /// The map is full (`STATE_MAP_BYTES`).
    #[error("the state map is full; it drains by itself, or raise STATE_MAP_BYTES")]
    MapFull,
    /// The file system is full, or nearly.
    #[error("no space left for the state directory: {0}")]
    NoSpace(String),
    /// A sync failed earlier, or LMDB found damage: the outcome of what ran then is unknown.
    #[error("the state environment can no longer be trusted: {0}")]
    Poisoned(String),
    /// The committer has ended, since the process stops.
    #[error("the process is stopping")]
    Stopped,
    /// A stored value has not the shape it was written in.
    #[error("damaged state: {0}")]
    Damaged(String),
    /// A read failed.
    #[error("state environment: {0}")]
    Lmdb(String),
}

impl StateError {
    /// Whether the same work may succeed later, when there is space.
    #[must_use]
    pub const fn is_space(&self) -> bool {
        matches!(self, Self::MapFull | Self::NoSpace(_))
    }
}

impl From<heed::Error> for StateError {
    fn from(error: heed::Error) -> Self {
        const NO_SPACE: [i32; 2] =
            [rustix::io::Errno::NOSPC.raw_os_error(), rustix::io::Errno::DQUOT.raw_os_error()];
        match &error {
            heed::Error::Mdb(heed::MdbError::MapFull) => Self::MapFull,
            heed::Error::Mdb(heed::MdbError::Other(code)) if NO_SPACE.contains(code) => {
                Self::NoSpace(error.to_string())
            }
            heed::Error::Io(io) if io.raw_os_error().is_some_and(|c| NO_SPACE.contains(&c)) => {
                Self::NoSpace(io.to_string())
            }
            _ => Self::Lmdb(error.to_string()),
        }
    }
}
