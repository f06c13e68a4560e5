//! `bench`: loads a running server, and says how fast it is, what it costs, and whether everything
//! arrived.
//!
//! | room | what it holds |
//! |---|---|
//! | [`marks`] | how messages of a run are told from all others |
//! | [`command`], [`run`] | the command line; one run from start to end |
//! | [`probe`] | is there a server, and is it the right one? |
//! | [`target`], [`request`], [`http`] | what is sent, and over what |
//! | [`schedule`], [`pacer`], [`load`] | when it is sent: closed and open loop |
//! | [`latency`], [`arrival`], [`meter`] | times, files as they come, CPU and memory |
//! | [`drain`], [`files`], [`tally`] | is every accepted message in a file, exactly once? |
//! | [`report`] | the figures, printed |
//! | [`tasks`], [`tasks_marks`], [`tasks_client`], [`tasks_settle`] | the same for tasks |
//! | [`captures`], [`captures_crew`] | how much of what ships stream is stored |
//! | [`calculations`] | from asking for a factorial to its digits |
//! | [`schedules`], [`schedules_load`], [`schedules_due`] | users of a scheduler, and lateness |
//! | [`limit`], [`bare`], [`limit_rabbitmq`] | what the parts alone cost on this machine |

mod arrival;
mod bare;
mod calculations;
mod captures;
mod captures_crew;
mod command;
mod drain;
mod files;
mod http;
mod latency;
mod limit;
mod limit_datagrams;
mod limit_rabbitmq;
mod load;
mod marks;
mod meter;
mod pacer;
mod probe;
mod report;
mod request;
mod run;
mod schedule;
mod schedules;
mod schedules_due;
mod schedules_load;
mod tally;
mod target;
mod tasks;
mod tasks_client;
mod tasks_marks;
mod tasks_settle;

pub(super) use command::{BenchCommand, EXAMPLES, run};
pub(super) use target::read_token;
