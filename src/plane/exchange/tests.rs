use std::borrow::Cow;
use std::io::Write;

use super::*;
use crate::plane::flow::UNMETERED_LIMIT;
use crate::wire::INITIAL_CREDIT;

fn exchange(metered: bool) -> Exchange {
    let exchange = Exchange::new("r-1".into(), "t".into(), metered, Budget::new(1 << 30));
    exchange.announce();
    exchange
}

fn base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

fn next(exchange: &Exchange) -> Result<Option<Vec<u8>>, Failure> {
    Ok(exchange.next()?.map(|piece| piece.to_vec()))
}

fn body(exchange: &Exchange) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(piece) = exchange.next()? {
        exchange.passed_on(piece.len());
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

#[test]
fn a_streamed_answer() {
    let exchange = exchange(true);
    exchange.on_head(200, Headers::new());
    for piece in [&b"a"[..], &vec![7; 40_000], b"z"] {
        exchange.on_chunk(&base64(piece));
    }
    exchange.on_end();
    assert_eq!(exchange.wait_head().expect("came").status, 200);
    let want = [&b"a"[..], &vec![7; 40_000], b"z"].concat();
    assert_eq!(body(&exchange), Ok(want));
    assert!(!exchange.needs_cancel());
}

#[test]
fn small_pieces_share_a_buffer() {
    let exchange = exchange(true);
    exchange.on_head(200, Headers::new());
    for _ in 0..10_000 {
        exchange.on_chunk("YQ==");
    }
    let queued = exchange.state().queued();
    assert!(queued.len() <= 5);
    let memory: usize = queued.iter().map(|(_, capacity)| capacity).sum();
    assert!(memory < 2 * 10_000 + 2 * state::SMALL);
}

#[test]
fn an_agent_that_ignores_credit_loses_that_request() {
    for (metered, limit) in [(true, INITIAL_CREDIT), (false, UNMETERED_LIMIT)] {
        let exchange = exchange(metered);
        exchange.on_head(200, Headers::new());
        let piece = base64(&vec![1; 32 * 1024]);
        for _ in 0..2 * limit / (32 * 1024) {
            exchange.on_chunk(&piece);
        }
        let queued = exchange.state().queued();
        let held: usize = queued.iter().map(|(length, _)| length).sum();
        assert_eq!(held as u64, limit);
        assert!(matches!(body(&exchange), Err(Failure::Protocol(_))));
        assert!(exchange.needs_cancel());
    }
}

#[test]
fn what_came_before_a_failure_is_given_out_then_the_failure() {
    let exchange = exchange(true);
    exchange.on_head(200, Headers::new());
    exchange.on_chunk("aGk=");
    exchange.on_agent_gone();
    assert!(exchange.wait_head().is_ok());
    assert_eq!(next(&exchange), Ok(Some(b"hi".to_vec())));
    assert_eq!(next(&exchange), Err(Failure::AgentGone));
    assert_eq!(exchange.take_credit(1), Err(Stopped));
}

#[test]
fn a_client_that_left_gets_nothing_more() {
    let exchange = exchange(true);
    exchange.on_head(200, Headers::new());
    exchange.on_chunk("aGk=");
    exchange.end(Reason::Cancelled);
    assert_eq!(next(&exchange), Err(Failure::Ended(Reason::Cancelled)));
    assert!(exchange.needs_cancel());
}

#[test]
fn messages_out_of_order() {
    let protocol = |failure| matches!(failure, Err(Failure::Protocol(_)));
    let early = exchange(true);
    early.on_chunk("aGk=");
    assert!(protocol(early.wait_head().map(drop)));
    let twice = exchange(true);
    twice.on_head(200, Headers::new());
    twice.on_head(200, Headers::new());
    assert!(protocol(body(&twice).map(drop)));
    let nothing = exchange(true);
    nothing.on_end();
    assert!(protocol(nothing.wait_head().map(drop)));
    let late = exchange(true);
    late.on_head(200, Headers::new());
    late.on_end();
    late.on_chunk("aGk=");
    late.on_failure("late");
    assert_eq!(body(&late), Ok(Vec::new()));
    let no_base64 = exchange(true);
    no_base64.on_head(200, Headers::new());
    no_base64.on_chunk("a*==");
    assert!(protocol(body(&no_base64).map(drop)));
}

#[test]
fn all_together_hold_no_more_than_their_budget() {
    let budget = Budget::new(1000);
    let new = || Exchange::new("r-1".into(), "t".into(), true, budget.clone());
    let (one, two) = (new(), new());
    for exchange in [&one, &two] {
        exchange.on_head(200, Headers::new());
        exchange.on_chunk(&base64(&[1; 400]));
    }
    two.on_chunk(&base64(&[1; 400]));
    assert_eq!(next(&two), Ok(Some(vec![1; 400])));
    assert!(matches!(two.next(), Err(Failure::Protocol(_))));
    one.on_chunk(&base64(&[1; 400]));
    one.on_chunk("a*==");
    let piece = one.next().expect("came").expect("came");
    assert_eq!(piece.len(), 800);
    one.on_end();
    drop((one, two));
    // A client that takes it slowly holds it.
    assert_eq!(budget.left(), 200);
    drop(piece);
    assert_eq!(budget.left(), 1000, "all of it has come back");
}

/// A small one may be large inside.
#[test]
fn what_is_in_a_gzipped_body_counts() {
    let budget = Budget::new(10_000);
    let answer = |size| {
        let exchange = Exchange::new("r-1".into(), "t".into(), true, budget.clone());
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(&vec![0; size]).expect("packed");
        let packed = base64(&packer.finish().expect("packed"));
        exchange.on_response(200, Headers::new(), &ResponseBody::Gzip(packed.into()));
        exchange.wait_head().expect("came");
        exchange
    };
    let one = answer(6000).next().expect("came").expect("came");
    assert_eq!((one.len(), budget.left()), (6000, 4000));
    let refused = answer(6000).next();
    assert!(matches!(refused, Err(Failure::Protocol(_))), "{refused:?}");
    drop(one);
    assert_eq!(budget.left(), 10_000);
}

#[test]
fn a_request_that_the_agent_never_heard_of_needs_no_cancel() {
    let unheard = Exchange::new("r-1".into(), "t".into(), true, Budget::new(1));
    assert!(!unheard.needs_cancel());
    unheard.announce();
    assert!(unheard.needs_cancel());
}

#[test]
fn endless_headers_are_not_kept() {
    let exchange = exchange(true);
    let headers: Headers = (0..10_000).map(|i| (format!("X-{i}"), "v")).collect();
    exchange.on_head(200, headers);
    assert!(matches!(exchange.wait_head(), Err(Failure::Protocol(_))));
}

#[test]
fn an_error_before_the_header() {
    let exchange = exchange(true);
    exchange.on_failure("agent\nbusy");
    let failure = exchange.wait_head().expect_err("failed");
    assert_eq!(failure, Failure::Agent("agent busy".into()));
}

#[test]
fn buffered_answers_in_both_encodings() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&vec![9; 100_000]).expect("packed");
    let gzip = base64(&gzip.finish().expect("packed"));
    for (encoded, want) in [
        (ResponseBody::Empty, Vec::new()),
        (ResponseBody::Base64(Cow::Borrowed("aGk=")), b"hi".to_vec()),
        (ResponseBody::Gzip(Cow::Owned(gzip)), vec![9; 100_000]),
    ] {
        let exchange = exchange(false);
        exchange.on_response(200, Headers::new(), &encoded);
        assert!(exchange.wait_head().is_ok());
        assert_eq!(body(&exchange), Ok(want));
    }
}

#[test]
fn a_gzip_bomb_is_defused() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        gzip.write_all(&vec![0; 1024 * 1024]).expect("packed");
    }
    let gzip = base64(&gzip.finish().expect("packed"));
    let exchange = exchange(false);
    exchange.on_response(200, Headers::new(), &ResponseBody::Gzip(Cow::Owned(gzip)));
    assert!(matches!(body(&exchange), Err(Failure::Protocol(_))));
}

#[test]
fn an_upload_waits_for_credit_and_ends_with_the_answer() {
    let exchange = exchange(true);
    let window = usize::try_from(INITIAL_CREDIT).expect("small");
    assert_eq!(exchange.take_credit(window - 1), Ok(window - 1));
    assert_eq!(exchange.take_credit(100), Ok(1));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| exchange.take_credit(100));
        exchange.on_credit(40);
        assert_eq!(waiting.join().expect("joined"), Ok(40));
        let waiting = scope.spawn(|| exchange.take_credit(100));
        exchange.on_head(413, Headers::new());
        exchange.on_end();
        assert_eq!(waiting.join().expect("joined"), Err(Stopped));
    });
}

#[test]
fn grants_follow_what_the_client_took() {
    let exchange = exchange(true);
    exchange.on_head(200, Headers::new());
    exchange.on_chunk(&base64(&vec![1; 512 * 1024]));
    assert_eq!(exchange.passed_on(100), None);
    assert_eq!(exchange.passed_on(300 * 1024), Some(300 * 1024 + 100));
    exchange.on_end();
    assert_eq!(
        exchange.passed_on(200 * 1024),
        None,
        "nothing is granted after the end"
    );
}

#[test]
fn cancelling_ends_it_for_those_who_wait_in_it() {
    let (answer, upload) = (Arc::new(exchange(true)), Arc::new(exchange(true)));
    let window = usize::try_from(INITIAL_CREDIT).expect("small");
    assert_eq!(upload.take_credit(window), Ok(window));
    let guards = [&answer, &upload].map(|e| e.end_when_cancelled().expect("not cancelled"));
    std::thread::scope(|scope| {
        let waits = [
            scope.spawn(|| answer.wait_head().map(drop)),
            scope.spawn(|| {
                upload
                    .take_credit(1)
                    .map_or_else(|_| upload.next().map(drop), |_| Ok(()))
            }),
        ];
        for exchange in [&answer, &upload] {
            exchange.cancel().cancel(Reason::Cancelled);
        }
        for wait in waits {
            let failure = Failure::Ended(Reason::Cancelled);
            assert_eq!(wait.join().expect("joined"), Err(failure));
        }
    });
    drop(guards);
    assert_eq!(Arc::strong_count(&answer), 1, "nothing holds it");
}

#[test]
fn a_second_answer_does_not_change_what_is_queued_of_the_first() {
    let exchange = exchange(true);
    exchange.on_response(200, Headers::new(), &ResponseBody::Base64("aGk=".into()));
    exchange.on_response(200, Headers::new(), &ResponseBody::Gzip("aGk=".into()));
    assert_eq!(body(&exchange), Ok(b"hi".to_vec()));
}
