//! Where the broker is and how it is spoken to: URL, trusted authorities, client certificate.

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, RustlsConnector, RustlsConnectorConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::dial::in_time;
use crate::service::held;

/// How long the way to the broker may take, and how long the handshake of TLS.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often each side says that it lives, in seconds, unless the URL says otherwise: a connection
/// on which nothing has come for twice as long is given up.
const HEARTBEAT_SECONDS: u16 = 5;

/// The address of a broker: cloning it is cheap, printing it shows no password.
#[derive(Clone)]
pub struct Address {
    uri: AMQPUri,
    tls: Option<RustlsConnector>,
    declaring: Arc<tokio::sync::Mutex<()>>,
}

/// Files for TLS.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Authorities to trust instead of the system's (`RABBITMQ_CA`, PEM).
    pub authorities: Option<PathBuf>,
    /// The certificate chain to show (`RABBITMQ_CERT`, PEM) and its key (`RABBITMQ_KEY`, PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The URL is none. Neither it nor the parser's words are repeated, which may hold a password.
    #[error(
        "not an AMQP URL such as amqp://user:password@host:5672/vhost (special characters of the \
         password as %XX)"
    )]
    Url,
    /// A file for TLS, but none is spoken.
    #[error("RABBITMQ_CA, RABBITMQ_CERT and RABBITMQ_KEY need an amqps:// URL")]
    NotTls,
    /// A file can't be read, or holds nothing of use.
    #[error("{}: {reason}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system has no certificates of authorities.
    #[error("this system has no trusted authorities ({0}): set RABBITMQ_CA")]
    NoAuthorities(io::Error),
    /// Certificate and key do not fit.
    #[error("the client certificate cannot be used: {0}")]
    Identity(io::Error),
}

/// The parts of `url`, as text.
fn parse(url: &str) -> Result<AMQPUri, AddressError> {
    let mut uri = AMQPUri::from_str(url).map_err(|_| AddressError::Url)?;
    // The parser takes an IPv6 address for no host at all, which would mean this one.
    let authority = url.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    if let Some((host, _)) = authority.split_once('[').and_then(|(_, host)| host.split_once(']')) {
        uri.authority.host = host.to_owned();
    }
    // R1's default, `amqp://guest:guest@localhost:5672/`, means the vhost `/` to R1's client.
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}

impl Address {
    /// The address `url`, with the files for TLS if it is an `amqps://` one.
    ///
    /// # Errors
    /// The URL is none, or a file cannot be used.
    pub fn new(url: &str, files: &TlsFiles) -> Result<Self, AddressError> {
        let uri = parse(url)?;
        let tls = match uri.scheme {
            AMQPScheme::AMQPS => Some(connector(files)?),
            AMQPScheme::AMQP if files.authorities.is_some() || files.identity.is_some() => {
                return Err(AddressError::NotTls);
            }
            AMQPScheme::AMQP => None,
        };
        Ok(Self { uri, tls, declaring: Arc::default() })
    }

    /// Held by whoever declares queues, of all that have this address or a clone of it. A queue is
    /// there for others before it can be used: RabbitMQ 3.10 ends the connection of whoever
    /// subscribes to a quorum queue that another connection is about to declare (541,
    /// `INTERNAL_ERROR`), and what was not acknowledged on it comes again.
    pub(super) async fn declaring(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.declaring.lock().await
    }

    /// Whether `url` holds a password, which must not stand on a command line.
    #[must_use]
    pub fn holds_password(url: &str) -> bool {
        let (_, rest) = url.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    }

    /// `url` as it may be shown: without password, and without query.
    #[must_use]
    pub fn redact(url: &str) -> String {
        parse(url).map_or_else(|_| "not an AMQP URL".to_owned(), |uri| show(&uri))
    }

    /// The user that it logs in as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.uri.authority.host
    }

    /// The virtual host.
    #[must_use]
    pub fn virtual_host(&self) -> &str {
        &self.uri.vhost
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.uri.authority.port
    }

    /// Whether what is sent is encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether it logs in with the user and password that every new broker has.
    #[must_use]
    pub fn is_default_login(&self) -> bool {
        let login = &self.uri.authority.userinfo;
        login.username == "guest" && login.password == "guest"
    }

    /// How TLS is spoken, if it is.
    pub(super) const fn tls(&self) -> Option<&RustlsConnector> {
        self.tls.as_ref()
    }

    /// Opens one connection, called `name` in the broker's lists.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn connect(&self, name: &str) -> lapin::Result<Open> {
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let runtime = lapin::runtime::default_runtime()?;
        let tls = self.tls.clone();
        // Dropped with this future as well, when nobody waits for it any more.
        let socket = Socket::default();
        let slot = Arc::clone(&socket.0);
        let connection = Connection::connector(
            self.uri.clone(),
            runtime,
            async move |uri, runtime| {
                let host = uri.authority.host.clone();
                // Made plain, so that TLS comes on top with our own trust.
                let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri };
                let stream = in_time(DIAL_TIMEOUT, plain.connect_async(&runtime)).await?;
                if let AsyncTcpStream::Plain(tcp) = &stream {
                    *held(&slot) = Some(tcp.get_ref().as_fd().try_clone_to_owned()?);
                }
                match &tls {
                    Some(connector) => {
                        Ok(in_time(DIAL_TIMEOUT, stream.into_rustls(connector, &host)).await?)
                    }
                    None => Ok(stream),
                }
            },
            properties,
        )
        .await?;
        Ok(Open { connection, socket })
    }
}

/// An open connection. Its socket is shut down at the latest when this is dropped: lapin's thread,
/// which would wait for ever for a broker that says nothing, ends then.
#[derive(Debug)]
pub struct Open {
    connection: Connection,
    socket: Socket,
}

/// The socket of a connection, once there is one.
#[derive(Debug, Default)]
struct Socket(Arc<Mutex<Option<OwnedFd>>>);

impl Open {
    /// Ends it without a word.
    pub fn shut(&self) {
        self.socket.shut();
    }
}

impl Deref for Open {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Socket {
    fn shut(&self) {
        if let Some(socket) = held(&self.0).take() {
            // It may be closed already.
            let _closed = TcpStream::from(socket).shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.shut();
    }
}

fn show(uri: &AMQPUri) -> String {
    let authority = &uri.authority;
    let host = match authority.host.contains(':') {
        true => format!("[{}]", authority.host),
        false => authority.host.clone(),
    };
    let vhost = uri.vhost.trim_start_matches('/');
    let user = &authority.userinfo.username;
    format!("{}://{user}@{host}:{}/{vhost}", uri.scheme, authority.port)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(&self.uri))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, AddressError> {
    let wrong = |reason: String| AddressError::File { file: file.to_owned(), reason };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(error.to_string()))?;
    match certificates.is_empty() {
        true => Err(wrong("holds no certificate (PEM)".to_owned())),
        false => Ok(certificates),
    }
}

/// Verifies the broker's certificate and name; shows ours, if there is one.
pub(super) fn connector(files: &TlsFiles) -> Result<RustlsConnector, AddressError> {
    let config = match &files.authorities {
        Some(file) => {
            let mut config = RustlsConnectorConfig::default();
            config.add_parsable_certificates(certificates(file)?);
            config
        }
        None => {
            RustlsConnectorConfig::new_with_native_certs().map_err(AddressError::NoAuthorities)?
        }
    };
    let Some((chain, key)) = &files.identity else {
        return config.connector_with_no_client_auth().map_err(AddressError::NoAuthorities);
    };
    let wrong = |reason: String| AddressError::File { file: key.clone(), reason };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(error.to_string()))?;
    config.connector_with_single_cert(certificates(chain)?, private).map_err(AddressError::Identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_password_and_an_empty_virtual_host_is_the_default_one() {
        let none = TlsFiles::default();
        for (url, shown, vhost) in [
            ("amqp://ann:s3cret@broker:5673/prod", "amqp://ann@broker:5673/prod", "prod"),
            ("amqp://guest:guest@localhost:5672/", "amqp://guest@localhost:5672/", "/"),
            ("amqp://guest:guest@localhost", "amqp://guest@localhost:5672/", "/"),
            ("amqp://g:g@[::1]:5672/%2f?heartbeat=9", "amqp://g@[::1]:5672/", "/"),
        ] {
            let address = Address::new(url, &none).unwrap();
            assert_eq!((address.to_string().as_str(), address.virtual_host()), (shown, vhost));
            assert!(!format!("{address:?}").contains("s3cret"));
            assert_eq!(Address::redact(url), shown);
        }
        for wrong in ["http://ann:s3cret@broker/", "ann:s3cret@broker", "amqp://ann:s3cret@b:x/"] {
            let error = Address::new(wrong, &none).unwrap_err();
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
        assert_eq!(Address::redact("ann:s3cret@broker"), "not an AMQP URL");
    }

    #[test]
    fn a_password_is_seen_wherever_it_stands() {
        assert!(Address::holds_password("amqp://ann:pw@host/"));
        assert!(Address::holds_password("amqps://ann:p@w@host:5671/v?heartbeat=1"));
        assert!(!Address::holds_password("amqp://ann@host:5672/"));
        assert!(!Address::holds_password("amqp://host:5672/a@b:c"));
    }

    #[test]
    fn files_for_tls_without_tls_are_a_mistake() {
        let files = TlsFiles { authorities: Some("/ca.pem".into()), identity: None };
        assert!(matches!(Address::new("amqp://host/", &files), Err(AddressError::NotTls)));
        let missing = Address::new("amqps://host/", &files).unwrap_err();
        assert!(missing.to_string().starts_with("/ca.pem: "), "{missing}");
    }
}
