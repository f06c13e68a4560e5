//! A RabbitMQ of the tests' own, the ways in which it and the network fail, and the tests of both.

pub(crate) mod broker;
pub(crate) mod certificates;
mod command_line;
mod doctor;
mod doubles;
mod faults_alarm;
mod faults_broker;
mod faults_consumers;
mod faults_kills;
mod faults_network;
mod faults_pair;
mod faults_queues;
mod interop;
pub(crate) mod node;
mod pipes;
mod pipes_endpoint;
mod pipes_work;
mod pipes_world;
pub(crate) mod ports;
pub(crate) mod proxy;
mod rig;
mod silence;
mod tls;
pub(crate) mod wait;
