//! Answers of the front door itself, as Kubernetes writes errors, so that kubectl
//! prints a readable reason.

use serde::Serialize;

/// An error answer: an HTTP status and a text for the person who reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    /// A `Status` object of the Kubernetes API (`meta/v1`).
    pub(crate) fn body(&self) -> Vec<u8> {
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
