//! What a client asks for that wants another protocol on its connection.

use crate::http::Headers;

/// Another protocol, as a client asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// Exec, attach, port-forward; a browser's watch.
    WebSocket,
    /// The same by older clients, and kubectl's second try.
    Spdy,
    Other,
}

impl Upgrade {
    pub(crate) fn of(headers: &Headers) -> Option<Self> {
        let lists = |name: &str, option: &str| {
            let mut options = headers.list(name);
            options.any(|it| it.eq_ignore_ascii_case(option))
        };
        let named = lists("connection", "upgrade") && headers.contains("upgrade");
        if headers.contains("sec-websocket-key") || (named && lists("upgrade", "websocket")) {
            Some(Self::WebSocket)
        } else if named && lists("upgrade", "SPDY/3.1") {
            Some(Self::Spdy)
        } else {
            named.then_some(Self::Other)
        }
    }
}

/// The subprotocols that the client offers, in its order and spelling
/// (`SPDY/3.1+portforward.k8s.io` is no token of RFC 6455, and offered all the same).
/// One in which the API server would look for a credential stays here: who asks is
/// ours to say.
pub(crate) fn subprotocols(headers: &Headers) -> Vec<&str> {
    let offered = headers.list("sec-websocket-protocol");
    offered
        .filter(|protocol| !protocol.starts_with(BEARER))
        .collect()
}

/// True when a WebSocket at this path is a watch and nothing else: of all objects of a
/// kind, or of those in a namespace. Deeper paths may be subresources, and what an
/// aggregated API does behind those nobody knows: the console of a virtual machine is
/// opened by such a GET.
pub(crate) fn is_watch(path: &str, query: &str) -> bool {
    let watch = |pair: &str| matches!(pair, "watch=true" | "watch=1");
    let mut segments = path.split('/').skip(1);
    let group = match segments.next() {
        Some("api") => 1,
        Some("apis") => 2,
        _ => return false,
    };
    let rest: Vec<&str> = segments.skip(group).collect();
    let collection = match rest.as_slice() {
        [kind] | ["namespaces", _, kind] => !kind.is_empty(),
        _ => false,
    };
    collection && query.split('&').any(watch)
}

const BEARER: &str = "base64url.bearer.authorization.k8s.io.";

#[cfg(test)]
mod tests {
    use super::*;

    fn list(fields: &[(&str, &str)]) -> Headers {
        fields.iter().copied().collect()
    }

    #[test]
    fn upgrades_by_what_they_ask_for() {
        let of = |fields: &[(&str, &str)]| Upgrade::of(&list(fields));
        let named = ("connection", "keep-alive, Upgrade");
        for (field, upgrade) in [
            (("Upgrade", "WebSocket"), Upgrade::WebSocket),
            (("Upgrade", "SPDY/3.1, websocket"), Upgrade::WebSocket),
            (("upgrade", "spdy/3.1"), Upgrade::Spdy),
            (("Upgrade", "h2c"), Upgrade::Other),
        ] {
            assert_eq!(of(&[named, field]), Some(upgrade), "{field:?}");
        }
        let key = ("Sec-WebSocket-Key", "x");
        assert_eq!(of(&[key]), Some(Upgrade::WebSocket));
        assert_eq!(of(&[("Connection", "upgrade")]), None);
        let unnamed = [("Upgrade", "h2c"), ("Connection", "HTTP2-Settings")];
        assert_eq!(of(&unnamed), None);
    }

    #[test]
    fn offers_pass_as_they_are_but_for_credentials() {
        let headers = list(&[
            ("Sec-WebSocket-Protocol", "SPDY/3.1+portforward.k8s.io"),
            (
                "sec-websocket-protocol",
                "v5.channel.k8s.io,base64url.bearer.authorization.k8s.io.cHB1Xw, b64",
            ),
        ]);
        let want = ["SPDY/3.1+portforward.k8s.io", "v5.channel.k8s.io", "b64"];
        assert_eq!(subprotocols(&headers), want);
        assert!(subprotocols(&Headers::new()).is_empty());
    }

    #[test]
    fn watches() {
        for path in [
            "/api/v1/pods",
            "/api/v1/namespaces/n/pods",
            "/apis/apps/v1/deployments",
            "/apis/apps/v1/namespaces/n/deployments",
        ] {
            assert!(is_watch(path, "a=b&watch=1"), "{path}");
            assert!(is_watch(path, "watch=true"), "{path}");
            assert!(!is_watch(path, "watch=0&xwatch=1"), "{path}");
        }
        for path in [
            "/api/v1/namespaces/n/pods/p/exec",
            "/apis/subresources.kubevirt.io/v1/namespaces/n/virtualmachineinstances/v/console",
            "/apis/g/v1/things/t/console",
            "/apis/g/v1/things/t",
            "/api/v1/",
            "/apis/g",
            "//api/v1/pods",
            "/version",
            "/",
        ] {
            assert!(!is_watch(path, "watch=1"), "{path}");
        }
    }
}
