//! What can go wrong with the broker, and whether it may pass.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use rustls::{AlertDescription, CertificateError, Error as TlsError};

/// What was asked of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Connecting and logging in.
    Connecting,
    /// Opening a channel.
    Opening,
    /// Declaring a queue.
    Declaring,
    /// Looking at a queue.
    Looking,
    /// Publishing.
    Publishing,
    /// Waiting for a confirm.
    Confirming,
    /// Subscribing to a queue.
    Subscribing,
    /// Acknowledging.
    Acknowledging,
}

/// Why the broker did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// It said no, or the connection broke.
    #[error("{doing}: {source}")]
    Failed {
        /// What was asked.
        doing: Doing,
        /// What it said.
        source: lapin::Error,
    },
    /// It did not answer.
    #[error("{doing}: no answer within {} s", .after.as_secs())]
    TimedOut {
        /// What was asked.
        doing: Doing,
        /// How long was waited.
        after: Duration,
    },
    /// A packet came back: its queue is not there.
    #[error("the queue {queue} is not there")]
    Returned {
        /// The queue.
        queue: String,
    },
    /// The broker refused a packet (a limit on the queue, or an error of its own).
    #[error("the broker refused a packet for the queue {queue}: does a policy limit its length?")]
    Refused {
        /// The queue.
        queue: String,
    },
    /// The queues were declared for another number of shards.
    #[error(
        "the broker's queues are for {pinned} shards, and SHARDS_COUNT is {asked}: set \
         SHARDS_COUNT={pinned}. To change the number, stop all servers, let the consumers drain \
         the queues, stop them, and delete the queues \
         async-data-processor.messages.* and async-data-processor.telemetry.*"
    )]
    OtherShards {
        /// The number that is pinned.
        pinned: String,
        /// The number asked for.
        asked: u16,
    },
    /// A queue of the name is there, but of another sort.
    #[error("the queue {name} is there with other properties ({said}): drain it, then delete it")]
    OtherQueue {
        /// The queue.
        name: String,
        /// What the broker said.
        said: String,
    },
}

impl BrokerError {
    fn reply(&self) -> Option<&AMQPErrorKind> {
        let Self::Failed { source, .. } = self else { return None };
        match source.kind() {
            ErrorKind::ProtocolError(error) => Some(error.kind()),
            _ => None,
        }
    }

    /// Whether a queue has other properties than asked for.
    #[must_use]
    pub fn is_precondition(&self) -> bool {
        matches!(self.reply(), Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)))
    }

    /// Whether access was refused: to the broker itself, or to a queue that is another's.
    #[must_use]
    pub fn is_refused_access(&self) -> bool {
        matches!(self.reply(), Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)))
    }

    /// Whether a queue is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self.reply(), Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)))
    }

    /// Whether a queue has a consumer that shares it with nobody.
    #[must_use]
    pub fn is_exclusive_use(&self) -> bool {
        self.is_refused_access() && self.to_string().contains("exclusive use")
    }

    /// Whether the virtual host is not there, or not this user's. A limit of connections is told by
    /// the same code, and may pass.
    #[must_use]
    pub fn is_wrong_virtual_host(&self) -> bool {
        let Self::Failed { source, .. } = self else { return false };
        let ErrorKind::ProtocolError(error) = source.kind() else { return false };
        let not_allowed = matches!(error.kind(), AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED));
        not_allowed && !error.get_message().as_str().contains("limit")
    }

    /// What a person can do about it, where it is a matter of certificates. Those of the broker may
    /// be renewed at any time, so it is tried again all the same.
    #[must_use]
    pub fn certificate_advice(&self) -> Option<&'static str> {
        let Self::Failed { source, .. } = self else { return None };
        let ErrorKind::IOError(error) = source.kind() else { return None };
        Some(match error.get_ref()?.downcast_ref::<TlsError>()? {
            TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => "RABBITMQ_URL must call the broker by a name that its certificate holds",
            TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "set RABBITMQ_CA to the authority that has signed the broker's certificate"
            }
            TlsError::InvalidCertificate(_) => "renew the broker's certificate, or RABBITMQ_CA",
            TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
                "set RABBITMQ_CERT and RABBITMQ_KEY to a certificate that the broker accepts"
            }
            TlsError::AlertReceived(_) => "does the broker accept RABBITMQ_CERT?",
            _ => return None,
        })
    }

    /// Whether trying again cannot help until a person has changed something.
    #[must_use]
    pub fn is_final(&self) -> bool {
        let login = matches!(self, Self::Failed { doing: Doing::Connecting, .. });
        match self {
            Self::OtherShards { .. } | Self::OtherQueue { .. } => true,
            _ => login && (self.is_refused_access() || self.is_wrong_virtual_host()),
        }
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting to the broker",
            Self::Opening => "opening a channel",
            Self::Declaring => "declaring a queue",
            Self::Looking => "looking at a queue",
            Self::Publishing => "publishing",
            Self::Confirming => "waiting for the broker's confirm",
            Self::Subscribing => "subscribing to a queue",
            Self::Acknowledging => "acknowledging",
        })
    }
}

/// Asks, for so long at most.
pub(super) async fn within<T>(
    timeout: Duration,
    doing: Doing,
    asked: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(timeout, asked).await {
        Ok(answer) => answer.map_err(|source| BrokerError::Failed { doing, source }),
        Err(_) => Err(BrokerError::TimedOut { doing, after: timeout }),
    }
}
