//! Request targets of the front door: `/clusters/<name>/<path>?<query>`.

use crate::percent;
use crate::plane::name::ClusterName;

/// What a request target means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// `/clusters`: the list.
    List,
    /// Something in a cluster.
    Cluster {
        name: ClusterName,
        /// Decoded once, as the wire wants it (control-channel.md §8.1).
        path: String,
        /// Without `?`, as it came.
        query: &'a str,
    },
    /// None of ours.
    Elsewhere,
}

/// Why a target can't be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("the request target is not a path")]
    NotAPath,
    #[error("the path has a '%' that begins no percent-encoded byte")]
    BadEncoding,
    #[error(
        "the path has an encoded slash (%2F), which the channel to the agent can't tell from a plain one"
    )]
    EncodedSlash,
    #[error("the decoded path is not UTF-8, which the channel to the agent can't carry")]
    NotUtf8,
    #[error("the path has a '.' or '..' segment: send it without")]
    DotSegment,
    #[error("the name of the cluster: a name has letters, digits, '-', '_' and '.' only")]
    BadName,
}

impl<'a> Target<'a> {
    /// Parses the target of a request line, in origin form or absolute form
    /// (RFC 9112 §3.2).
    pub(crate) fn parse(target: &'a str) -> Result<Self, TargetError> {
        let (path, query) = split(target)?;
        let Some(rest) = path.strip_prefix("/clusters") else {
            return Ok(Self::Elsewhere);
        };
        if rest.is_empty() || rest == "/" {
            return Ok(Self::List);
        }
        let Some(rest) = rest.strip_prefix('/') else {
            return Ok(Self::Elsewhere);
        };
        let (name, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let name = ClusterName::parse(name).map_err(|_| TargetError::BadName)?;
        let path = decode(path)?;
        Ok(Self::Cluster { name, path, query })
    }
}

/// Path and query of a target, without scheme and authority.
pub(crate) fn split(target: &str) -> Result<(&str, &str), TargetError> {
    let target = if target.starts_with('/') {
        target
    } else {
        let (_, rest) = target.split_once("://").ok_or(TargetError::NotAPath)?;
        match rest.find(['/', '?']) {
            Some(at) if rest[at..].starts_with('/') => &rest[at..],
            // An absolute URL without a path.
            _ => "/",
        }
    };
    // A fragment never belongs on the wire; a client that sends one is confused.
    if target.contains('#') {
        return Err(TargetError::NotAPath);
    }
    Ok(target.split_once('?').unwrap_or((target, "")))
}

/// Decodes a path once. What the wire's decoded path can't say faithfully is an
/// error, never a guess: a slash that isn't a separator, and bytes that aren't
/// text. Dot segments are refused because whoever reads the path next may resolve
/// them, and would then see another path than the one that was checked here.
fn decode(path: &str) -> Result<String, TargetError> {
    let bytes = percent::decode(path).ok_or(TargetError::BadEncoding)?;
    if path.to_ascii_lowercase().contains("%2f") {
        return Err(TargetError::EncodedSlash);
    }
    let path = String::from_utf8(bytes).map_err(|_| TargetError::NotUtf8)?;
    if path
        .split('/')
        .any(|segment| segment == "." || segment == "..")
    {
        return Err(TargetError::DotSegment);
    }
    Ok(path)
}

/// True for the subresources of the core API that run or reach something in a pod,
/// a Service or a node: a plain GET is enough to start them.
pub(crate) fn is_connect_subresource(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    match segments.as_slice() {
        ["api", _, "namespaces", _, "pods" | "services", _, verb, ..]
        | ["api", _, "nodes", _, verb, ..] => {
            ["proxy", "exec", "attach", "portforward"].contains(verb)
        }
        // The old way to proxy: the verb before the resource.
        ["api", _, "proxy", ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cluster(target: &str) -> (String, String, String) {
        match Target::parse(target) {
            Ok(Target::Cluster { name, path, query }) => (name.to_string(), path, query.to_owned()),
            other => panic!("{target}: {other:?}"),
        }
    }

    #[test]
    fn targets() {
        for (target, name, path, query) in [
            (
                "/clusters/a/api/v1/pods?watch=1&x=%2F",
                "a",
                "/api/v1/pods",
                "watch=1&x=%2F",
            ),
            ("/clusters/a", "a", "/", ""),
            ("/clusters/a?x", "a", "/", "x"),
            ("/clusters/a/", "a", "/", ""),
            ("/clusters/a//x/", "a", "//x/", ""),
            ("/clusters/a/%C3%BC%20%25%3F", "a", "/ü %?", ""),
            ("/clusters/a/b+c;d", "a", "/b+c;d", ""),
            ("https://plane:8443/clusters/a/b?c", "a", "/b", "c"),
        ] {
            let want = (name.to_owned(), path.to_owned(), query.to_owned());
            assert_eq!(cluster(target), want, "{target}");
        }
        for list in ["/clusters", "/clusters/", "/clusters?x=1"] {
            assert_eq!(Target::parse(list), Ok(Target::List), "{list}");
        }
        for elsewhere in [
            "/",
            "/clustersx",
            "/api",
            "https://plane",
            "https://plane?x",
        ] {
            assert_eq!(
                Target::parse(elsewhere),
                Ok(Target::Elsewhere),
                "{elsewhere}"
            );
        }
    }

    #[test]
    fn what_the_wire_cannot_say_is_refused_not_guessed() {
        for (target, error) in [
            ("*", TargetError::NotAPath),
            ("plane:443", TargetError::NotAPath),
            ("", TargetError::NotAPath),
            ("/clusters/a/b#c", TargetError::NotAPath),
            ("/clusters/a/b%2fc", TargetError::EncodedSlash),
            ("/clusters/a/b%2Fc", TargetError::EncodedSlash),
            ("/clusters/a/%", TargetError::BadEncoding),
            ("/clusters/a/%4", TargetError::BadEncoding),
            ("/clusters/a/%zz", TargetError::BadEncoding),
            ("/clusters/a/%+1", TargetError::BadEncoding),
            ("/clusters/a/%FF", TargetError::NotUtf8),
            ("/clusters/a/../b", TargetError::DotSegment),
            ("/clusters/a/b/%2e%2E", TargetError::DotSegment),
            ("/clusters/a/./b", TargetError::DotSegment),
            ("/clusters/../a", TargetError::BadName),
            ("/clusters/%61/b", TargetError::BadName),
            ("/clusters//b", TargetError::BadName),
        ] {
            assert_eq!(Target::parse(target), Err(error), "{target}");
        }
    }

    #[test]
    fn subresources_that_connect() {
        for path in [
            "/api/v1/namespaces/n/pods/p/exec",
            "/api/v1/namespaces/n/pods/p/proxy/x/y",
            "/api/v1/namespaces/n/services/https:s:443/proxy",
            "//api/v1//nodes/n/proxy/run",
            "/api/v1/proxy/nodes/n",
        ] {
            assert!(is_connect_subresource(path), "{path}");
        }
        for path in [
            "/api/v1/namespaces/n/pods/p/log",
            "/api/v1/namespaces/proxy/pods/exec",
            "/api/v1/nodes/proxy",
            "/apis/apps/v1/deployments",
            "/",
        ] {
            assert!(!is_connect_subresource(path), "{path}");
        }
    }

    /// As a client (and the agent) encodes a path: everything but unreserved
    /// characters and the slash.
    fn encode(path: &str) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for byte in path.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    }

    proptest! {
        #[test]
        fn any_target_is_parsed_or_refused(target in ".*") {
            let _ = Target::parse(&target);
        }

        #[test]
        fn any_path_below_clusters_is_parsed_or_refused(rest in "[a/.%0-9A-Fz?#]{0,12}") {
            if let Ok(Target::Cluster { path, .. }) = Target::parse(&format!("/clusters/a{rest}")) {
                prop_assert!(path.starts_with('/'));
                prop_assert!(path.split('/').all(|s| s != ".."));
            }
        }

        #[test]
        fn an_encoded_path_arrives_as_it_was(segments in prop::collection::vec("[^/]{1,8}", 0..5)) {
            prop_assume!(segments.iter().all(|s| s != "." && s != ".."));
            let path = format!("/{}", segments.join("/"));
            let (_, decoded, _) = cluster(&format!("/clusters/a{}", encode(&path)));
            prop_assert_eq!(decoded, path);
        }
    }
}
