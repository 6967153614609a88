//! Addresses of nodes, and URLs at which clients reach them.
//!
//! Owns the validation of every part of both: hosts, ports, schemes, paths. All flags, settings and
//! addresses that other nodes announce are parsed here, so that a port of 65536 is refused in the
//! same way everywhere. Resolves nothing and connects to nothing.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{config::Peer, error::ConfigError};

/// The longest host name, in bytes (RFC 1035, section 2.3.4).
const HOST_NAME_BYTES_MAX: usize = 253;
/// The longest URL, in bytes: it travels in a header and is displayed.
const URL_BYTES_MAX: usize = 2_048;
/// The default distance between a node's port for clients and its port for other nodes.
const CLUSTER_PORT_DISTANCE: u16 = 1_000;

/// Returns the key under which a per-address limit counts an address: an IPv4 address itself, and for an IPv6 address its
/// /64 network, because one machine may have all addresses of it. A loopback address is its own key.
#[must_use]
pub fn owner_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

/// The host and port of a listener, such as `10.0.0.2:6000`, `node-1.example:6000` or
/// `[2001:db8::2]:6000`.
///
/// Host names are kept in lower case, addresses in their canonical form, so that equal places have
/// equal texts. The port is 1 to 65535; only [`HostPort::parse_listen`] accepts 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: Host,
    port: u16,
}

/// The URL at which clients reach a node, such as `http://10.0.0.2:5000` or
/// `https://log.example/base`.
///
/// It has no user, no query and no fragment. Scheme and host are kept in lower case, and trailing
/// slashes are dropped: paths are appended to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeUrl {
    scheme: Scheme,
    host: Host,
    port: Option<u16>,
    path: String,
}

/// The scheme of a [`NodeUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// `http`, port 80 by default.
    Http,
    /// `https`, port 443 by default.
    Https,
}

/// A host: an address, or a name that is still to be resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    V4(Ipv4Addr, String),
    V6(Ipv6Addr, String),
    Name(String),
}

/// Error for a text that is not the address of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadAddress {
    /// The port or the host is missing.
    #[error("expected HOST:PORT, as in 10.0.0.2:6000, not {0:?}")]
    Form(String),
    /// A URL was given instead of a host and port.
    #[error(
        "expected the host and port of the node's cluster listener, as in {instead}, not a URL"
    )]
    Url {
        /// The address that is probably meant.
        instead: String,
    },
    /// The port is not a number from 1 to 65535.
    #[error("a port is a number from 1 to 65535, not {0:?}")]
    Port(String),
    /// The host is neither an address nor a host name.
    #[error("{0:?} is neither a host name nor an address")]
    Host(String),
}

/// Error for a text that is not the URL of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadUrl {
    /// The scheme or the host is missing, or the scheme is not `http` or `https`.
    #[error("expected a URL as in http://localhost:5000, not {0:?}")]
    Form(String),
    /// The port is not a number from 1 to 65535.
    #[error("a port is a number from 1 to 65535, not {0:?}")]
    Port(String),
    /// The host is neither an address nor a host name.
    #[error("{0:?} is neither a host name nor an address")]
    Host(String),
    /// The URL has a user name or a password. Its text is not shown: it may be a secret.
    #[error("a URL with a user name or a password is not supported")]
    User,
    /// The URL has a query.
    #[error("{0:?}: a query does not belong here")]
    Query(String),
    /// The URL has a fragment.
    #[error("{0:?}: a fragment does not belong here")]
    Fragment(String),
    /// The path has a character that is not allowed in a URL.
    #[error("{0:?} has a character that is not allowed in a URL")]
    Character(String),
    /// The text is too long.
    #[error("a URL has at most {URL_BYTES_MAX} bytes, not {0}")]
    TooLong(usize),
}

impl HostPort {
    /// Creates an address from a host and a port.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] for a host that is not valid, and for port 0.
    pub fn new(host: &str, port: u16) -> Result<HostPort, BadAddress> {
        if port == 0 {
            return Err(BadAddress::Port("0".to_owned()));
        }
        match Host::parse(host) {
            Some(host) => Ok(HostPort { host, port }),
            None => Err(BadAddress::Host(host.to_owned())),
        }
    }

    /// Parses an address to listen on: like any other address, but the port may be 0, which stands
    /// for any free port.
    ///
    /// # Errors
    ///
    /// [`BadAddress`], naming the invalid part.
    pub fn parse_listen(text: &str) -> Result<HostPort, BadAddress> {
        if text.contains("://") {
            return Err(BadAddress::Url {
                instead: instead_of(text),
            });
        }
        let form = || BadAddress::Form(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        if host.is_empty() || (host.contains(':') && !host.starts_with('[')) {
            return Err(form());
        }
        let parsed = Host::parse_bracketed(host);
        Ok(HostPort {
            host: parsed.ok_or_else(|| BadAddress::Host(host.to_owned()))?,
            port: parse_port(port).ok_or_else(|| BadAddress::Port(port.to_owned()))?,
        })
    }

    /// Returns the host, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.as_str()
    }

    /// Returns the host if it is an address; `None` if it is a name that is still to be resolved.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.ip()
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the same host with another port.
    #[must_use]
    pub fn with_port(self, port: u16) -> HostPort {
        HostPort { port, ..self }
    }

    /// Returns the same port on this machine, under the name `localhost`.
    #[must_use]
    pub fn with_host_localhost(self) -> HostPort {
        let host = Host::Name("localhost".to_owned());
        HostPort { host, ..self }
    }

    /// Returns `true` if the host is an address that stands for all addresses of a machine, such as
    /// `0.0.0.0`, which can be listened on but not connected to.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }

    /// Returns `true` if the host can only be this machine: a loopback address, or the name
    /// `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.is_loopback()
    }
}

impl FromStr for HostPort {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<HostPort, BadAddress> {
        match HostPort::parse_listen(text)? {
            HostPort { port: 0, .. } => Err(BadAddress::Port("0".to_owned())),
            address => Ok(address),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> HostPort {
        HostPort {
            host: Host::of_ip(address.ip()),
            port: address.port(),
        }
    }
}

impl NodeUrl {
    /// Parses a URL as a person types it: without a scheme it is `http`.
    ///
    /// # Errors
    ///
    /// [`BadUrl`], naming the invalid part.
    pub fn from_user(text: &str) -> Result<NodeUrl, BadUrl> {
        if text.contains("://") {
            return text.parse();
        }
        parse_after_scheme(Scheme::Http, text, text)
    }

    /// Returns the `http` URL of a listener.
    #[must_use]
    pub fn http(address: HostPort) -> NodeUrl {
        NodeUrl {
            scheme: Scheme::Http,
            host: address.host,
            port: Some(address.port),
            path: String::new(),
        }
    }

    /// Returns the scheme.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the host, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.as_str()
    }

    /// Returns the host if it is an address; `None` if it is a name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.ip()
    }

    /// Returns the port, or the scheme's default port where none is given.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    /// Returns the host and port to connect to.
    #[must_use]
    pub fn address(&self) -> HostPort {
        HostPort {
            host: self.host.clone(),
            port: self.port(),
        }
    }

    /// Returns the host and, if given, the port: the value of a request's `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.to_string(),
        }
    }

    /// Returns the path: empty, or with a leading slash and no trailing one.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for NodeUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<NodeUrl, BadUrl> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(BadUrl::Form(text.to_owned()));
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ if rest.contains('@') => return Err(BadUrl::User),
            _ => return Err(BadUrl::Form(text.to_owned())),
        };
        parse_after_scheme(scheme, rest, text)
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority(), self.path)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        })
    }
}

impl Serialize for NodeUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NodeUrl, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HostPort, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Checks that every peer has a [`HostPort`] of its own.
///
/// # Errors
///
/// [`ConfigError`], naming the peers.
pub fn check_peers(peers: &[Peer]) -> Result<(), ConfigError> {
    let mut addresses = Vec::new();
    for peer in peers {
        match peer.address.parse::<HostPort>() {
            Ok(address) => addresses.push(address),
            Err(error) => return Err(ConfigError(format!("{}: {error}", peer.name))),
        }
    }
    addresses.sort();
    match addresses.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ConfigError(format!(
            "two secondaries have the address {}",
            pair[0]
        ))),
        None => Ok(()),
    }
}

impl Host {
    /// Parses a host as written in an address or a URL: IPv6 addresses in brackets.
    fn parse_bracketed(text: &str) -> Option<Host> {
        match text.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?;
                Some(Host::of_ip(address.into()))
            }
            None if text.contains(':') => None,
            None => Host::parse(text),
        }
    }

    /// Parses a host without brackets.
    fn parse(text: &str) -> Option<Host> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Some(Host::of_ip(ip));
        }
        let name = text.to_ascii_lowercase();
        let fits = name.len() <= HOST_NAME_BYTES_MAX;
        // A trailing dot means that the name is complete.
        let labels = name.strip_suffix('.').unwrap_or(&name).split('.');
        // Host names have no underscores, but names of containers do.
        let is_label = |label: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            !label.is_empty() && label.len() <= 63 && label.bytes().all(allowed)
        };
        // A name that ends in a number is an address, and parsing it as an address has failed
        // (WHATWG URL, "ends in a number"): resolvers accept 127.1 as one.
        let last = labels.clone().next_back().unwrap_or_default();
        let ends_in_number =
            last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
        (fits && !ends_in_number && labels.clone().all(is_label)).then_some(Host::Name(name))
    }

    fn of_ip(ip: IpAddr) -> Host {
        match ip {
            IpAddr::V4(ip) => Host::V4(ip, ip.to_string()),
            IpAddr::V6(ip) => Host::V6(ip, ip.to_string()),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Host::V4(_, text) | Host::V6(_, text) | Host::Name(text) => text,
        }
    }

    fn ip(&self) -> Option<IpAddr> {
        match self {
            Host::V4(ip, _) => Some((*ip).into()),
            Host::V6(ip, _) => Some((*ip).into()),
            Host::Name(_) => None,
        }
    }

    fn is_loopback(&self) -> bool {
        match self.ip() {
            Some(ip) => ip.to_canonical().is_loopback(),
            // Reserved for this machine, including all names below it (RFC 6761, section 6.3).
            None => {
                let name = self.as_str();
                let name = name.strip_suffix('.').unwrap_or(name);
                name == "localhost" || name.ends_with(".localhost")
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::V6(ip, _) => write!(f, "[{ip}]"),
            Host::V4(..) | Host::Name(_) => f.write_str(self.as_str()),
        }
    }
}

/// Parses a port of digits only: 0 to 65535.
fn parse_port(text: &str) -> Option<u16> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn parse_after_scheme(scheme: Scheme, rest: &str, whole: &str) -> Result<NodeUrl, BadUrl> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    // Checked first, and also where `@` comes later in the text: the errors below show the wrong
    // part, and a password may contain any of the delimiters above.
    if authority.contains('@') || (authority.contains(':') && behind.contains('@')) {
        return Err(BadUrl::User);
    }
    if whole.len() > URL_BYTES_MAX {
        return Err(BadUrl::TooLong(whole.len()));
    }
    if behind.contains('#') {
        return Err(BadUrl::Fragment(whole.to_owned()));
    }
    if behind.contains('?') {
        return Err(BadUrl::Query(whole.to_owned()));
    }
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/".contains(&byte);
    if !behind.bytes().all(in_path) {
        return Err(BadUrl::Character(whole.to_owned()));
    }
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an IPv6 address are inside its brackets.
        Some((host, port)) if !port.ends_with(']') => match parse_port(port) {
            Some(number) if number > 0 => (host, Some(number)),
            _ => return Err(BadUrl::Port(port.to_owned())),
        },
        _ => (authority, None),
    };
    if host.is_empty() {
        return Err(BadUrl::Form(whole.to_owned()));
    }
    Ok(NodeUrl {
        scheme,
        host: Host::parse_bracketed(host).ok_or_else(|| BadUrl::Host(host.to_owned()))?,
        port,
        path: behind.trim_end_matches('/').to_owned(),
    })
}

/// Returns the address of the cluster listener that is probably meant when a URL was given.
fn instead_of(url: &str) -> String {
    match url.parse::<NodeUrl>() {
        Ok(url) => {
            let port = url
                .port
                .and_then(|port| port.checked_add(CLUSTER_PORT_DISTANCE));
            format!("{}:{}", url.host, port.unwrap_or(6_000))
        }
        Err(_) => "10.0.0.2:6000".to_owned(),
    }
}

/// Returns the default port of a cluster listener, given the one for clients; `None` if there is no
/// such port. Port 0, any free one, stays 0.
#[must_use]
pub fn cluster_port_of(port: u16) -> Option<u16> {
    match port {
        0 => Some(0),
        port => port.checked_add(CLUSTER_PORT_DISTANCE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_the_addresses_of_one_network_together() {
        let owner = |text: &str| owner_of(text.parse().unwrap());
        assert_eq!(owner("2001:db8::1"), owner("2001:db8::ffff:1:2:3"));
        assert_ne!(owner("2001:db8::1"), owner("2001:db8:0:1::1"));
        assert_eq!(owner("::ffff:10.0.0.1"), owner("10.0.0.1"));
        assert_ne!(owner("10.0.0.1"), owner("10.0.0.2"));
        assert_ne!(owner("127.0.0.1"), owner("127.0.0.2"));
        assert_ne!(owner("::1"), owner("::2"));
    }

    #[test]
    fn an_address_is_a_host_and_a_port_and_nothing_else() {
        let good = [
            ("localhost:6000", "localhost:6000"),
            ("LocalHost:1", "localhost:1"),
            ("secondary_1.example.:65535", "secondary_1.example.:65535"),
            ("127.0.0.1:6000", "127.0.0.1:6000"),
            ("[::1]:6000", "[::1]:6000"),
            ("[2001:DB8:0::2]:6000", "[2001:db8::2]:6000"),
        ];
        for (text, expected) in good {
            let address: HostPort = text.parse().expect(text);
            assert_eq!(address.to_string(), expected);
            assert_eq!(expected.parse(), Ok(address), "{text}");
        }
        let bad = [
            ("", "expected HOST:PORT"),
            ("localhost", "expected HOST:PORT"),
            (":6000", "expected HOST:PORT"),
            ("::1:6000", "expected HOST:PORT"),
            ("localhost:", "a port is"),
            ("localhost:0", "a port is"),
            (
                "localhost:65536",
                "a port is a number from 1 to 65535, not \"65536\"",
            ),
            ("localhost:+80", "a port is"),
            ("localhost: 80", "a port is"),
            ("localhost:6000/", "a port is"),
            ("[::1:6000", "neither a host name nor an address"),
            ("[::g]:6000", "neither a host name nor an address"),
            ("a b:6000", "neither a host name nor an address"),
            ("a..b:6000", "neither a host name nor an address"),
            ("user@a:6000", "neither a host name nor an address"),
            ("10.0.0.256:6000", "neither a host name nor an address"),
            ("127.1:6000", "neither a host name nor an address"),
            ("m\u{fc}ller:6000", "neither a host name nor an address"),
        ];
        for (text, expected) in bad {
            let error = text.parse::<HostPort>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert_eq!(
            HostPort::parse_listen("127.0.0.1:0").map(|address| address.port()),
            Ok(0)
        );
    }

    #[test]
    fn a_url_in_place_of_an_address_is_answered_with_the_address() {
        let table = [
            ("http://b:5001", "b:6001"),
            ("HTTP://10.0.0.2:5000/", "10.0.0.2:6000"),
            ("https://[::1]", "[::1]:6000"),
            ("http://b:65000", "b:6000"),
            ("ftp://b", "10.0.0.2:6000"),
            ("http://user:hush@b:5000", "10.0.0.2:6000"),
        ];
        for (url, instead) in table {
            let error = url.parse::<HostPort>().expect_err(url);
            let instead = instead.to_owned();
            assert_eq!(error, BadAddress::Url { instead }, "{url}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn each_part_of_a_url_is_checked() {
        let good = [
            ("http://localhost:5000", "http://localhost:5000"),
            ("HTTP://LocalHost:5000/", "http://localhost:5000"),
            ("https://log.example/base//", "https://log.example/base"),
            ("http://[::1]:5000/a%20b", "http://[::1]:5000/a%20b"),
            ("http://[::1]", "http://[::1]"),
            ("http://a/b@c", "http://a/b@c"),
        ];
        for (text, expected) in good {
            let url: NodeUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), expected);
            assert_eq!(NodeUrl::from_user(text), Ok(url), "{text}");
        }
        let bad = [
            ("", "expected a URL"),
            ("localhost:5000", "expected a URL"),
            ("ftp://x", "expected a URL"),
            ("http://", "expected a URL"),
            ("http:///path", "expected a URL"),
            ("http://:5000", "expected a URL"),
            (
                "http://a:65536",
                "a port is a number from 1 to 65535, not \"65536\"",
            ),
            ("http://127.0.0.1:99999", "a port is"),
            ("http://a:0", "a port is"),
            ("http://a:", "a port is"),
            ("http://a:x", "a port is"),
            ("http://a b", "neither a host name"),
            ("http://[::1", "neither a host name"),
            ("http://::1", "neither a host name"),
            ("http://a?b=c", "a query does not"),
            ("http://a#b", "a fragment does not"),
            ("http://a/b c", "a character"),
            ("http://a/\\b", "a character"),
            ("http://user:hush@a", "a user name or a password"),
            ("http://user@a", "a user name or a password"),
            ("http://user:hush#@a", "a user name or a password"),
            ("ftp://user:hush@a", "a user name or a password"),
        ];
        for (text, expected) in bad {
            let error = text.parse::<NodeUrl>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hush"), "{text}: {error}");
        }
        let long = format!("http://a/{}", "b".repeat(URL_BYTES_MAX));
        assert!(matches!(long.parse::<NodeUrl>(), Err(BadUrl::TooLong(_))));
    }

    #[test]
    fn a_person_may_omit_the_scheme() {
        let table = [
            ("localhost:5000", Ok("http://localhost:5000")),
            ("localhost", Ok("http://localhost")),
            ("[::1]:5000/base/", Ok("http://[::1]:5000/base")),
            ("localhost:99999", Err("a port is")),
            ("me:hush@localhost", Err("a user name")),
            ("", Err("expected a URL")),
        ];
        for (text, expected) in table {
            match (NodeUrl::from_user(text), expected) {
                (Ok(url), Ok(expected)) => assert_eq!(url.to_string(), expected),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn loopback_hosts_can_only_be_this_machine() {
        let table = [
            ("localhost:1", true),
            ("a.localhost:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("localhost.example:1", false),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ];
        for (text, expected) in table {
            let address: HostPort = text.parse().expect(text);
            assert_eq!(address.is_loopback(), expected, "{text}");
        }
    }

    #[test]
    fn the_cluster_port_is_a_thousand_above_the_client_port() {
        assert_eq!(cluster_port_of(5000), Some(6000));
        assert_eq!(cluster_port_of(0), Some(0));
        assert_eq!(cluster_port_of(64_536), None);
    }

    #[test]
    fn two_peers_with_one_address_are_refused() {
        let refused = |peers: &[&str]| {
            let peers: Vec<Peer> = peers.iter().map(|peer| peer.parse().unwrap()).collect();
            check_peers(&peers).map_err(|error| error.to_string())
        };
        assert_eq!(refused(&[]), Ok(()));
        assert_eq!(refused(&["a=a:1", "b=a:2", "c=b:1"]), Ok(()));
        assert!(refused(&["a=a:1", "b=A:1"]).unwrap_err().contains("a:1"));
        assert!(
            refused(&["a=local"])
                .unwrap_err()
                .contains("a: expected HOST:PORT")
        );
    }
}
