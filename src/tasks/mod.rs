//! Runs tasks: whoever supplies them and whatever they do.
//!
//! ```text
//!  supply ─► engine: feed ─► slots (threads) ─► handler of the kind
//!    ▲                                              │ bytes, or a file
//!    └── deliver ◄─ product ◄───────────────────────┘
//!         (grouped; by way of the spool on disk, if the store is elsewhere)
//! ```
//!
//! | room | what it holds |
//! |---|---|
//! | [`handler`] | what a kind of task is to this program: the trait, and how a run ends |
//! | [`supply`] | where jobs come from and results go: the trait |
//! | [`direct`] | the supply that claims rows of the store |
//! | [`piped`] | the supply over the pipes of a broker |
//! | [`dispatch`] | due rows of the store go into the task pipe |
//! | [`collect`] | what comes back through the result pipe goes into the store |
//! | [`engine`], `hand`, `window` | runs jobs: what is in hand, and how much that should be |
//! | `product`, `deliver`, [`spool`] | brings back what came of them |
//! | [`program`], [`echo`] | kinds that a user's program runs; a kind for measuring |
//! | [`endpoint`] | one process of the machine takes an endpoint's tasks |
//! | [`keeper`] | gives the tasks of dead workers to others, and clears away what is over |
//! | [`page`] | tasks in pages, for who lists them |
//! | [`result`] | a result on its way to a reader |

pub mod collect;
mod deliver;
pub mod direct;
pub mod dispatch;
pub mod echo;
pub mod endpoint;
pub mod engine;
mod hand;
pub mod handler;
pub mod keeper;
pub mod page;
mod parts;
pub mod piped;
mod product;
pub mod program;
pub mod result;
pub mod spool;
pub mod supply;
mod window;
