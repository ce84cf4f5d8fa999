use std::thread;

use super::*;
use crate::wire::INITIAL_CREDIT;

fn new() -> Arc<Stream> {
    let stream = Arc::new(Stream::new("w-1".into(), "t".into(), Budget::new(1 << 30)));
    stream.announce();
    stream
}

fn live() -> Arc<Stream> {
    let stream = new();
    stream.on_started(Some("v5.channel.k8s.io"));
    let want = Opening::Started(Some("v5.channel.k8s.io".into()));
    assert_eq!(stream.wait_opening(Instant::now()), want);
    stream
}

fn message(payload: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string([&[2], payload].concat())
}

fn said(code: u16) -> CloseText<'static> {
    let reason = "r".into();
    CloseText { code, reason }
}

/// The messages until the end, and the end.
fn drained(stream: &Stream) -> (Vec<Vec<u8>>, End) {
    let mut all = Vec::new();
    loop {
        match stream.next() {
            Ok(mut pack) => {
                while let Some((_, payload)) = pack.next() {
                    all.push(payload.to_vec());
                }
            }
            Err(end) => return (all, end),
        }
    }
}

fn broke(end: &End) -> bool {
    matches!(end, End::Failed(Failure::Protocol(_)))
}

#[test]
fn what_came_before_the_end_is_given_out_then_the_end() {
    let stream = live();
    stream.on_data(&message(b"a"));
    stream.on_data(&message(b"b"));
    stream.on_close(Some(said(1000)));
    stream.on_data(&message(b"late"));
    let (messages, end) = drained(&stream);
    assert_eq!(messages, [b"a", b"b"]);
    assert_eq!(end, End::Closed(Some(said(1000))));
    assert_eq!(stream.take_credit(1), Err(Stopped));
    assert_eq!(stream.farewell(), None, "the agent knows");
    for (ends, want) in [
        (
            Box::new(|stream: &Stream| stream.on_agent_gone()) as Box<dyn Fn(&Stream)>,
            Failure::AgentGone,
        ),
        (
            Box::new(|stream| stream.on_failure("no")),
            Failure::Agent("no".into()),
        ),
    ] {
        let stream = live();
        stream.on_data(&message(b"a"));
        ends(&stream);
        assert_eq!(drained(&stream), (vec![b"a".to_vec()], End::Failed(want)));
        assert_eq!(stream.farewell(), None);
    }
}

#[test]
fn a_client_that_has_ended_gets_nothing_more_and_the_agent_hears_its_code() {
    let stream = live();
    stream.on_data(&message(b"a"));
    stream.on_client_end(Some(said(1001)));
    let ended = End::Failed(Failure::Ended(Reason::Cancelled));
    assert_eq!(drained(&stream), (vec![], ended));
    assert_eq!(stream.cancel().reason(), None, "its socket isn't cut");
    let said = Some(said(1001));
    assert_eq!(stream.farewell(), Some(Farewell { said }));
    let stream = live();
    stream.on_client_end(None);
    assert_eq!(stream.farewell(), Some(Farewell { said: None }));
    // What never left needs no farewell.
    let silent = Stream::new("w-1".into(), "t".into(), Budget::new(0));
    silent.end(Reason::Cancelled);
    assert_eq!(silent.farewell(), None);
}

#[test]
fn an_upgrade_is_answered_in_one_of_four_ways() {
    let now = Instant::now();
    assert_eq!(new().wait_opening(now), Opening::TooLate);
    let refused = new();
    let answer = Box::new(Refused {
        status: 403,
        headers: crate::http::Headers::new(),
        body: b"no".to_vec(),
    });
    refused.on_refused(answer.clone());
    // As the agent does (control-channel.md §9.1).
    refused.on_close(None);
    assert_eq!(refused.wait_opening(now), Opening::Refused(answer));
    assert_eq!(refused.farewell(), None);
    let failed = new();
    failed.on_failure("no route");
    let want = Opening::Failed(Failure::Agent("no route".into()));
    assert_eq!(failed.wait_opening(now), want);
    let closed = new();
    closed.on_close(None);
    let got = closed.wait_opening(now);
    assert!(matches!(got, Opening::Failed(Failure::Protocol(_))));
}

/// It is kept for a client who may take it slowly.
#[test]
fn a_refusal_has_a_size() {
    let headers = crate::http::Headers::new();
    let mut large = Refused {
        status: 403,
        headers: headers.clone(),
        body: vec![b' '; MAX_REFUSAL + 1],
    };
    for _ in 0..2 {
        let refused = new();
        refused.on_refused(Box::new(large.clone()));
        let got = refused.wait_opening(Instant::now());
        assert!(
            matches!(got, Opening::Failed(Failure::Protocol(_))),
            "{got:?}"
        );
        assert_eq!(refused.farewell(), None);
        large.body.clear();
        large.headers.push("X", "y".repeat(256 * 1024));
    }
}

#[test]
fn messages_out_of_order() {
    let early = new();
    early.on_data(&message(b"a"));
    assert!(broke(&drained(&early).1));
    let twice = live();
    twice.on_started(None);
    assert!(broke(&drained(&twice).1));
    for data in ["", "*", "CAPo"] {
        let bad = live();
        bad.on_data(data);
        assert!(broke(&drained(&bad).1), "{data}");
        assert_eq!(bad.farewell(), Some(Farewell { said: None }), "{data}");
    }
}

#[test]
fn an_agent_that_ignores_credit_loses_that_stream() {
    let stream = live();
    let piece = vec![0; 64 * 1024];
    let allowed = INITIAL_CREDIT as usize / piece.len();
    for _ in 0..allowed {
        stream.on_data(&message(&piece));
    }
    assert_eq!(stream.cancel().reason(), None);
    stream.on_data(&message(b""));
    assert_eq!(stream.cancel().reason(), Some(Reason::Failed));
    let (messages, end) = drained(&stream);
    assert_eq!(messages.len(), allowed);
    assert!(broke(&end));
}

#[test]
fn credit_comes_back_for_what_went_on() {
    let stream = live();
    let mut granted = 0;
    for _ in 0..64 {
        stream.on_data(&message(&vec![0; 64 * 1024]));
        let mut pack = stream.next().expect("came");
        while let Some((_, payload)) = pack.next() {
            let size = payload.len();
            granted += stream.passed_on(size).unwrap_or(0);
        }
    }
    assert!(granted > 63 * 64 * 1024 - INITIAL_CREDIT);
}

#[test]
fn who_waits_for_credit_is_woken_by_all_that_matters() {
    let waiting = |stream: &Arc<Stream>| {
        stream
            .take_credit(INITIAL_CREDIT as usize)
            .expect("there is some");
        let stream = stream.clone();
        thread::spawn(move || stream.take_credit(1))
    };
    let granted = live();
    let thread = waiting(&granted);
    granted.on_credit(1);
    assert_eq!(thread.join().expect("joined"), Ok(()));
    let gone = live();
    let thread = waiting(&gone);
    gone.on_agent_gone();
    assert_eq!(thread.join().expect("joined"), Err(Stopped));
    let cut = live();
    let thread = waiting(&cut);
    let _guard = cut.end_when_cancelled().expect("not yet");
    cut.cancel().cancel(Reason::Shutdown);
    assert_eq!(thread.join().expect("joined"), Err(Stopped));
}

#[test]
fn a_client_that_leaves_ends_what_is_not_open_at_once_and_what_is_in_time() {
    let waiting = new();
    waiting.on_client_left();
    let want = Opening::Failed(Failure::Ended(Reason::Cancelled));
    assert_eq!(waiting.wait_opening(Instant::now()), want);
    let open = live();
    open.on_client_left();
    assert_eq!(open.state().end, None);
    assert_eq!(open.take_credit(INITIAL_CREDIT as usize), Ok(()));
    let long_ago = Instant::now().checked_sub(LEFT_LIMIT).expect("a time");
    open.state().client_left = Some(long_ago);
    assert_eq!(open.take_credit(1), Err(Stopped));
    assert_eq!(open.cancel().reason(), Some(Reason::Cancelled));
    assert_eq!(open.farewell(), Some(Farewell { said: None }));
}
