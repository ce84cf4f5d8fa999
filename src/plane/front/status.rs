//! Answers of the front door itself, as Kubernetes writes errors, so that kubectl
//! prints a readable reason.

use serde::Serialize;

use crate::http::Headers;
use crate::wire::stream::Refused;

/// An error answer: an HTTP status and a text for the person who reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) message: String,
    /// It may go better in a second. client-go then tries again by itself, ten times.
    pub(crate) passing: bool,
}

impl Refusal {
    pub(crate) fn new(code: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            passing: false,
        }
    }

    /// Says that it may go better in a second.
    pub(crate) fn passing(self) -> Self {
        Self {
            passing: true,
            ..self
        }
    }

    /// The same for kubectl's discovery, its first request to a cluster, of which it
    /// doesn't read a `Status`. Of a plain text it shows the words, unless the code is
    /// one for which it has words of its own ("the server is currently unable to
    /// handle the request"); so those become a 502 (client-go 0.36,
    /// `NewGenericServerResponse`).
    fn for_discovery(&self) -> Self {
        let code = match self.code {
            400 | 404 | 405 | 503 => 502,
            code => code,
        };
        Self {
            code,
            ..self.clone()
        }
    }

    /// The whole answer to a request with these headers.
    pub(crate) fn answer(&self, request: &Headers) -> Refused {
        let mut headers = Headers::new();
        if self.code == 401 {
            headers.push("WWW-Authenticate", "Bearer realm=\"pipeops plane\"");
        }
        if self.passing {
            headers.push("Retry-After", "1");
        }
        let (status, kind, body) = if is_discovery(request) {
            let refusal = self.for_discovery();
            (refusal.code, "text/plain", refusal.message.into_bytes())
        } else {
            (self.code, "application/json", self.body())
        };
        headers.push("Content-Type", kind);
        Refused {
            status,
            headers,
            body,
        }
    }

    /// A `Status` object of the Kubernetes API (`meta/v1`).
    fn body(&self) -> Vec<u8> {
        let status = Status {
            kind: "Status",
            api_version: "v1",
            metadata: Empty {},
            status: "Failure",
            message: &self.message,
            reason: self.reason(),
            code: self.code,
        };
        let mut body = serde_json::to_vec(&status).unwrap_or_default();
        body.push(b'\n');
        body
    }

    /// The `metav1.StatusReason` of a code. Where Kubernetes has none, the nearest:
    /// kubectl prints it in front of the message.
    fn reason(&self) -> &'static str {
        match self.code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            408 | 504 => "Timeout",
            409 => "Conflict",
            413 => "RequestEntityTooLarge",
            429 => "TooManyRequests",
            501 => "NotImplemented",
            502 | 503 => "ServiceUnavailable",
            _ => "InternalError",
        }
    }
}

/// True for a request of kubectl's discovery.
fn is_discovery(headers: &Headers) -> bool {
    headers
        .list("accept")
        .any(|kind| kind.contains("g=apidiscovery.k8s.io"))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    kind: &'a str,
    api_version: &'a str,
    metadata: Empty,
    status: &'a str,
    message: &'a str,
    reason: &'a str,
    code: u16,
}

#[derive(Serialize)]
struct Empty {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_a_status() {
        let body = Refusal::new(503, "cluster \"a\" is not connected").body();
        assert_eq!(
            String::from_utf8(body).expect("text"),
            "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\
             \"message\":\"cluster \\\"a\\\" is not connected\",\
             \"reason\":\"ServiceUnavailable\",\"code\":503}\n"
        );
    }
}
