//! Where the server is, and how it wants to be spoken to.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use anyhow::{Context, anyhow, bail};

/// A server.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// As it was given.
    pub(super) url: String,
    /// Where it listens.
    pub(super) address: SocketAddr,
    host: String,
    token: Option<String>,
}

impl Target {
    /// Reads `http://host[:port]`.
    pub(super) fn parse(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else {
            bail!("--url {url}: it must begin with http:// (TLS would be measured with it)");
        };
        let host = rest.trim_end_matches('/');
        if host.is_empty() || host.contains(['/', '?', '#', '@']) || host.contains(char::is_control)
        {
            bail!("--url {url}: give the server alone, as in http://127.0.0.1:8080");
        }
        let bare = host.rsplit(']').next().unwrap_or(host);
        let with_port = if bare.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let resolved = with_port.to_socket_addrs();
        let mut addresses =
            resolved.with_context(|| format!("--url {url}: the name cannot be resolved"))?;
        let address = addresses.next().ok_or_else(|| anyhow!("--url {url}: it has no address"))?;
        Ok(Self { url: url.to_owned(), address, host: host.to_owned(), token })
    }

    /// The head of a request, with the empty line that ends it.
    pub(super) fn head(&self, method: &str, path: &str, body_bytes: usize) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        if let Some(token) = &self.token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        if method == "POST" {
            let kind = "application/json";
            head += &format!("Content-Type: {kind}\r\nContent-Length: {body_bytes}\r\n");
        }
        head += "\r\n";
        head.into_bytes()
    }
}

/// The token in a file: its first line.
pub(in crate::cli) fn read_token(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("token file {shown}"))?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("token file {shown}: its first line must be a bearer token");
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_host_and_port_and_nothing_else() {
        let target = Target::parse("http://127.0.0.1:8080/", Some("s3cret".to_owned())).unwrap();
        assert_eq!(target.address.to_string(), "127.0.0.1:8080");
        let head = String::from_utf8(target.head("GET", "/metrics", 0)).unwrap();
        let expected =
            "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAuthorization: Bearer s3cret\r\n\r\n";
        assert_eq!(head, expected);
        assert_eq!(Target::parse("http://[::1]", None).unwrap().address.port(), 80);
        for wrong in ["127.0.0.1:80", "https://a", "http://", "http://127.0.0.1/x", "http://a:b"] {
            let said = Target::parse(wrong, None).unwrap_err().to_string();
            assert!(said.contains(wrong), "{said}");
        }
    }
}
