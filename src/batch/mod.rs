//! From a delivery to a committed file: exactly once.
//!
//! For each batch, in this order:
//!
//! 1. write it to `<output>/.staging/<shard>/…`, sync the file, sync the folder
//! 2. **commit point**: one transaction checks the fencing tokens (the worker's claim, the shard's
//!    epoch), records the batch (*prepared*, with its final name) and its offsets
//! 3. rename it into place, replacing nothing; sync the folder, and its parents where new
//! 4. record it as *done* in a later transaction, which also deletes the frames
//!
//! The record comes before the rename, since a reader may take a file away the moment it appears:
//! recorded afterwards, a crash in between would make recovery write it again.
//!
//! | room | what it holds |
//! |---|---|
//! | [`writer`] | the four steps |
//! | [`Companion`] | what else is committed with a batch |
//! | `content` | what is written into a file: lines as they came, a program's, dead letters |
//! | `folders` | made, synced, and made again when a reader has taken one away |
//! | `record` | the transactions of steps 2 and 4 |
//! | [`lines`] | reading the lines of a committed batch, wherever its file is |
//! | [`recovery`] | what a crash left of them |
//! | [`journal`] | the rows of both, and the workers' totals |
//! | [`latest`] | the latest rows of all shards |
//! | [`dead`] | messages that no worker could do: kept, and shown |
//! | [`unsent`] | how many of them were not sent again |
//! | [`resend`] | dead letters go again, as they are or edited, each file once |
//! | [`output`] | the output directory, bound to this state environment by its marker |
//! | [`disk`] | every call on batch files, behind one trait with a written fault model |
//! | [`name`] | sole owner of file names |
//! | [`verify`] | is everything accepted in files, waiting or dead? |

mod companion;
mod content;
pub mod dead;
pub mod disk;
mod folders;
pub mod journal;
pub mod latest;
pub mod lines;
pub mod name;
pub mod output;
mod record;
pub mod recovery;
pub mod resend;
pub mod unsent;
pub mod verify;
pub mod writer;

pub use companion::{Companion, Tally};
pub use content::Content;
