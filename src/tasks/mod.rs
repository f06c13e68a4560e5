//! Runs tasks: whoever supplies them and whatever they do.
//!
//! ```text
//!  supply ─► engine ─► slots (threads) ─► handler of the kind
//!    ▲                                        │ bytes, or a file
//!    └── deliver ◄─ settler ◄─────────────────┘
//!         (grouped; by way of the spool on disk, if the store is elsewhere)
//! ```
//!
//! | room | what it holds |
//! |---|---|
//! | [`handler`] | what a kind of task is to this program: the trait, and how a run ends |
//! | [`supply`] | where jobs come from and results go: the trait |
//! | [`direct`] | the supply that claims rows of the store |

pub mod direct;
pub mod handler;
pub mod supply;
