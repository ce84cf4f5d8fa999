//! How long a request may take (decisions.md §6.2 "Time"). Pure.

use std::time::Duration;

use crate::wire::ProxyRequest;

/// The limits of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// From the receipt of the request to its end.
    pub(super) total: Option<Duration>,
    /// From the complete receipt of the request's body.
    pub(super) timeout: Option<Timeout>,
    /// For an answer of which nothing comes.
    pub(super) stall: Option<Duration>,
}

/// What a `timeout` limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// The head of the answer: form S, watches, followed logs.
    ToHeader(Duration),
    /// All of it: form B.
    ToEnd(Duration),
}

impl Times {
    /// `live`: the answer may go on for as long as it likes (form S, a watch, a
    /// followed log). `otherwise` limits the others when the request says nothing.
    pub(super) fn of(
        request: &ProxyRequest<'_>,
        live: bool,
        now: jiff::Timestamp,
        otherwise: Duration,
    ) -> Self {
        let deadline = request.deadline.map(|deadline| {
            // By the peer's clock at both ends: edge clocks are wrong.
            let left = deadline.duration_since(request.sent_at.unwrap_or(now));
            Duration::try_from(left).unwrap_or(Duration::ZERO)
        });
        let timeout = request.timeout.map(|limit| {
            if live {
                Timeout::ToHeader(limit)
            } else {
                Timeout::ToEnd(limit)
            }
        });
        let unlimited = live || timeout.is_some();
        Self {
            total: deadline.or((!unlimited).then_some(otherwise)),
            timeout,
            stall: None,
        }
    }

    /// Where nothing limits the whole, its phases have limits: a Service may be
    /// anything, also one that accepts and says nothing.
    pub(super) fn by_phases(mut self, first_byte: Duration, stall: Option<Duration>) -> Self {
        if self.total.is_none() && !matches!(self.timeout, Some(Timeout::ToEnd(_))) {
            self.timeout.get_or_insert(Timeout::ToHeader(first_byte));
            self.stall = stall;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Envelope;

    const MINUTE: Duration = Duration::from_mins(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn times(payload: &str, timestamp: &str, live: bool) -> Times {
        let text = format!(
            r#"{{"type":"proxy_request","request_id":"r","payload":{payload},"timestamp":"{timestamp}"}}"#
        );
        let envelope = Envelope::parse(&text).expect("valid");
        let request = ProxyRequest::parse(&envelope.payload, envelope.timestamp);
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        Times::of(&request, live, now, 2 * MINUTE)
    }

    #[test]
    fn a_deadline_counts_from_the_peers_own_clock() {
        let deadline = r#"{"deadline":"2020-03-01T10:01:00Z"}"#;
        for live in [true, false] {
            let got = times(deadline, "2020-03-01T10:00:00Z", live);
            assert_eq!((got.total, got.timeout), (Some(MINUTE), None));
        }
        // Without a usable clock of the peer's, by ours.
        let ours = r#"{"deadline":"2026-01-01T00:00:01Z"}"#;
        for sent_at in ["", "0001-01-01T00:00:00Z"] {
            assert_eq!(times(ours, sent_at, true).total, Some(SECOND));
        }
        assert_eq!(times(deadline, "", true).total, Some(Duration::ZERO));
    }

    #[test]
    fn a_timeout_limits_the_head_of_live_answers_and_all_of_others() {
        let timeout = r#"{"timeout":1000}"#;
        let got = times(timeout, "", true);
        assert_eq!(got.timeout, Some(Timeout::ToHeader(SECOND)));
        assert_eq!(got.total, None);
        let got = times(timeout, "", false);
        assert_eq!(got.timeout, Some(Timeout::ToEnd(SECOND)));
        assert_eq!(got.total, None);
    }

    #[test]
    fn both_limits_hold_when_both_are_given() {
        let both = r#"{"timeout":1000,"deadline":"2020-03-01T10:01:00Z"}"#;
        let got = times(both, "2020-03-01T10:00:00Z", true);
        assert_eq!(got.total, Some(MINUTE));
        assert_eq!(got.timeout, Some(Timeout::ToHeader(SECOND)));
    }

    #[test]
    fn the_phases_are_limited_where_the_whole_is_not() {
        let phases = |payload: &str, live| {
            let times = times(payload, "", live).by_phases(SECOND, Some(MINUTE));
            (times.timeout, times.stall)
        };
        let own = Some(Timeout::ToHeader(2 * SECOND));
        let first = Some(Timeout::ToHeader(SECOND));
        assert_eq!(phases("{}", true), (first, Some(MINUTE)));
        assert_eq!(phases(r#"{"timeout":2000}"#, true), (own, Some(MINUTE)));
        assert_eq!(phases("{}", false), (None, None));
        let whole = Some(Timeout::ToEnd(2 * SECOND));
        assert_eq!(phases(r#"{"timeout":2000}"#, false), (whole, None));
        let deadline = r#"{"deadline":"2027-01-01T00:00:00Z"}"#;
        assert_eq!(phases(deadline, true), (None, None));
    }

    #[test]
    fn t11_live_answers_have_no_limit_of_their_own() {
        let none = Times {
            total: None,
            timeout: None,
            stall: None,
        };
        assert_eq!(times("{}", "", true), none);
        assert_eq!(times("{}", "", false).total, Some(2 * MINUTE));
    }
}
