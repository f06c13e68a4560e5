//! Which addresses may be listened on: nothing leaves the machine unguarded by accident.

use std::net::IpAddr;

/// Refusal to listen on an address that others can reach.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{address} can be reached from other machines, but there is {missing}; listen on 127.0.0.1, \
     or give {remedy}, or accept the risk with --insecure-listen"
)]
pub struct ListenError {
    /// The address asked for.
    pub address: IpAddr,
    missing: &'static str,
    remedy: &'static str,
}

/// Whether `address` may be listened on.
///
/// # Errors
/// A non-loopback address needs tokens and TLS, or `insecure_listen`.
pub fn check_listen(
    address: IpAddr,
    has_tokens: bool,
    has_tls: bool,
    insecure_listen: bool,
) -> Result<(), ListenError> {
    if insecure_listen || address.to_canonical().is_loopback() {
        return Ok(());
    }
    let (missing, remedy) = match (has_tokens, has_tls) {
        (true, true) => return Ok(()),
        (true, false) => ("no TLS", "a certificate and its key"),
        (false, true) => ("no token", "a token"),
        (false, false) => ("neither token nor TLS", "a token and a certificate with its key"),
    };
    Err(ListenError { address, missing, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_address_needs_token_and_tls_or_an_explicit_word() {
        let everyone: IpAddr = "0.0.0.0".parse().unwrap();
        assert!(check_listen(everyone, true, true, false).is_ok());
        assert!(check_listen(everyone, false, false, true).is_ok());
        for (has_tokens, has_tls, what) in
            [(true, false, "no TLS"), (false, true, "no token"), (false, false, "neither")]
        {
            let message =
                check_listen(everyone, has_tokens, has_tls, false).unwrap_err().to_string();
            assert!(message.contains(what), "{message}");
            assert!(message.contains("--insecure-listen"), "{message}");
        }
    }

    #[test]
    fn every_loopback_address_is_open() {
        for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(check_listen(address.parse().unwrap(), false, false, false).is_ok());
        }
        for address in ["::", "10.0.0.1", "::ffff:10.0.0.1"] {
            assert!(check_listen(address.parse().unwrap(), false, false, false).is_err());
        }
    }
}
