//! A Service of the cluster, by name and port.

use std::fmt;

use super::value::quote;

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    pub name: String,
    pub namespace: String,
    /// Never 0.
    pub port: u16,
}

impl ServicePort {
    /// Reads `name.namespace:port`. The error is one clause.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = |why: &str| format!("{} is not a Service: {why}", quote(text));
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| wrong("write name.namespace:port"))?;
        let (name, namespace) = host
            .split_once('.')
            .filter(|(name, namespace)| is_label(name) && is_label(namespace))
            .ok_or_else(|| wrong("write name.namespace:port"))?;
        let port = port
            .parse()
            .ok()
            .filter(|number| *number > 0 && port.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| wrong("the port is not between 1 and 65535"))?;
        Ok(Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            port,
        })
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}:{}", self.name, self.namespace, self.port)
    }
}

/// A DNS label of Kubernetes (RFC 1123): 1 to 63 of `a-z`, `0-9` and `-`, which
/// doesn't stand at an end. Without a dot it can't lead out of the cluster's domain.
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_name_namespace_and_port() {
        let service = ServicePort::parse(" traefik.kube-system:80 ").expect("one");
        assert_eq!(service.to_string(), "traefik.kube-system:80");
        let long = format!("{}.b:1", "a".repeat(64));
        for text in [
            "",
            "a",
            "a:80",
            "a.b",
            "a.b.c:80",
            "A.b:80",
            "-a.b:1",
            "a-.b:1",
            "a.b:0",
            "a.b:+1",
            "a.b:65536",
            "a.b:",
            ".b:1",
            "a.:1",
            "a/b:1",
            &long,
        ] {
            let error = ServicePort::parse(text).expect_err(text);
            assert!(error.contains("is not a Service"), "{error}");
        }
    }
}
