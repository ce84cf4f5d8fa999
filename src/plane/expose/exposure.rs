//! What is exposed: where clients come in, and where they are led.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::plane::name::ClusterName;
use crate::plane::registry::UnixTime;
use crate::tunnel::Protocol;
use crate::tunnel::header::{Header, HeaderError};

/// A Service behind an agent that clients of the plane reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    pub entry: Entry,
    pub cluster: ClusterName,
    pub service: ServiceName,
    pub created: UnixTime,
}

/// Where clients come in. There is one exposure of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    /// Requests with this host, in lower case and without a port, at the one HTTP
    /// listener of the plane.
    Http(String),
}

impl Entry {
    /// `tcp`, `udp` or `http`, and what is typed behind it: `15432`,
    /// `0.0.0.0:15432`, `shop.example.test`.
    pub fn parse(kind: &str, text: &str) -> Result<Self, String> {
        match kind {
            "tcp" => Ok(Self::Tcp(address(text)?)),
            "udp" => Ok(Self::Udp(address(text)?)),
            "http" => {
                let host = text.trim_end_matches('.').to_ascii_lowercase();
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
                if host.is_empty() || host.len() > MAX_HOST || !host.bytes().all(allowed) {
                    return Err(format!(
                        "{text:?} is not a host name: write shop.example.test, without scheme, \
                         port or path"
                    ));
                }
                Ok(Self::Http(host))
            }
            _ => Err(format!("{kind:?}: write tcp, udp or http")),
        }
    }

    /// What the plane writes into the headers of its streams as their tunnel.
    pub(super) fn tunnel_id(&self) -> String {
        match self {
            Self::Tcp(address) => format!("tcp {address}"),
            Self::Udp(address) => format!("udp {address}"),
            Self::Http(host) => host.clone(),
        }
    }

    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::Tcp(_) | Self::Http(_) => Protocol::Tcp,
            Self::Udp(_) => Protocol::Udp,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Udp(address) => write!(f, "udp {address}"),
            Self::Http(host) => write!(f, "http {host}"),
        }
    }
}

/// A port alone is one on loopback: what is open to others is asked for.
fn address(text: &str) -> Result<SocketAddr, String> {
    let port = |text: &str| text.parse().ok().filter(|port: &u16| *port != 0);
    if let Some(port) = port(text) {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse()
        .ok()
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or_else(|| format!("{text:?}: write a port (15432) or an address (0.0.0.0:15432)"))
}

/// Where streams lead: `postgres.default:5432`; without a namespace a forward of the
/// agent (`tunnel.forwards`), or a route of a plain machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceName {
    pub name: String,
    pub namespace: String,
    pub port: u16,
}

/// Why a text is no [`ServiceName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a Service: write NAME.NAMESPACE:PORT, as in postgres.default:5432 ({why})"
)]
pub struct ServiceError {
    text: String,
    why: String,
}

impl FromStr for ServiceName {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        let error = |why: &str| ServiceError {
            text: text.chars().take(MAX_HOST).collect(),
            why: why.to_owned(),
        };
        let (names, port) = text.rsplit_once(':').ok_or_else(|| error("no port"))?;
        let port = port.parse().map_err(|_| error("the port is no number"))?;
        let (name, namespace) = names.split_once('.').unwrap_or((names, ""));
        let service = Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            port,
        };
        let header = service.header(Protocol::Tcp, String::new(), None);
        let checked: Result<(), HeaderError> = if namespace.is_empty() && !names.contains('.') {
            header.names().of_route().map(drop)
        } else {
            header.names().of_service()
        };
        checked.map_err(|why| error(&why.to_string()))?;
        if port == 0 || name.is_empty() {
            return Err(error("name and port can't be empty"));
        }
        Ok(service)
    }
}

impl ServiceName {
    pub(super) fn header(
        &self,
        protocol: Protocol,
        tunnel_id: String,
        client: Option<SocketAddr>,
    ) -> Header {
        Header {
            protocol,
            port: self.port,
            service: self.name.clone(),
            namespace: self.namespace.clone(),
            tunnel_id,
            client,
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.namespace.is_empty() {
            write!(f, ".{}", self.namespace)?;
        }
        write!(f, ":{}", self.port)
    }
}

/// Longest host name that is exposed: it is also the tunnel's id, which has 255
/// bytes at most.
const MAX_HOST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_as_they_are_typed() {
        let entry = |kind, text| Entry::parse(kind, text).map(|entry| entry.to_string());
        assert_eq!(entry("tcp", "15432"), Ok("tcp 127.0.0.1:15432".into()));
        assert_eq!(entry("udp", "0.0.0.0:53"), Ok("udp 0.0.0.0:53".into()));
        assert_eq!(entry("tcp", "[::1]:1"), Ok("tcp [::1]:1".into()));
        assert_eq!(
            entry("http", "Shop.Example.Test."),
            Ok("http shop.example.test".into())
        );
        for (kind, text) in [
            ("tcp", "0"),
            ("tcp", "70000"),
            ("tcp", "localhost:1"),
            ("udp", "1.2.3.4:0"),
            ("http", ""),
            ("http", "shop.test:80"),
            ("http", "http://shop.test"),
            ("sctp", "1"),
        ] {
            entry(kind, text).expect_err(text);
        }
    }

    #[test]
    fn services_as_they_are_typed() {
        for text in ["postgres.default:5432", "shop-db:5432"] {
            let service: ServiceName = text.parse().expect(text);
            assert_eq!(service.to_string(), text);
        }
        for text in [
            "postgres",
            "postgres.default",
            "postgres.default:0",
            "postgres.default:x",
            ".default:1",
            "postgres.:1",
            "Post gres.default:1",
            "a.b.c:1",
            ":1",
        ] {
            ServiceName::from_str(text).expect_err(text);
        }
    }
}
