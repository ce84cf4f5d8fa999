//! Bounded queues, credit, places; one that stalls holds up nobody.

use std::thread;

use super::*;
use crate::wire::INITIAL_CREDIT;

/// As the plane says it.
fn with_credit() -> House {
    let mut house = House::new();
    house.requests().use_flow_control();
    house
}

#[test]
fn t8_a_queue_that_is_full_ends_its_stream_without_a_gap_and_nothing_else() {
    let mut house = House::new();
    let mut stalled = house.open("stalled");
    let mut well = house.open("well");
    // Nothing is read at the other end: what its kernel doesn't take, waits.
    let block = vec![7; 1 << 20];
    for n in 0.. {
        assert!(n < 200, "it was never full");
        house.data("stalled", 2, &block);
        let ended = !house.peer.state.lock().messages.is_empty();
        if ended {
            break;
        }
        if n > 100 {
            thread::yield_now();
        }
    }
    house.expect_close("stalled");
    // What has arrived has no gap: whole blocks, then the cut.
    loop {
        match stalled.socket.read() {
            Ok(Said::Binary(payload)) => assert!(*payload == *block),
            Ok(other) => panic!("{other:?}"),
            Err(_) => break,
        }
    }
    house.data("well", 1, b"still");
    assert_eq!(well.read(), Said::binary(&b"\x00still"[..]));
    house.get("r", "/version");
    house.upstream.accept().answer("200 OK", "{}");
    house.expect("proxy_response", "r");
}

#[test]
fn a_message_that_cannot_be_read_ends_its_stream() {
    let mut house = House::new();
    let mut leg = house.open("s");
    let payload = json!({"stream_id": "s", "data": "!!!"});
    house.say("proxy_websocket_data", "s", payload);
    house.expect_close("s");
    leg.expect_cut();
    house.expect_rest();
}

#[test]
fn nothing_more_comes_without_credit_and_all_of_it_with() {
    let mut house = with_credit();
    let mut leg = house.open("s");
    let large = vec![1; INITIAL_CREDIT as usize + 1];
    let saying = thread::spawn(move || {
        leg.say(Said::binary(large));
        leg.say(Said::text("behind"));
        leg
    });
    // It takes what is left of the credit, and more; then there is none.
    assert_eq!(house.expect_data("s").1.len(), INITIAL_CREDIT as usize);
    let mut leg = saying.join().expect("said");
    house.data("s", 1, b"other way");
    assert_eq!(leg.read(), Said::binary(&b"\x00other way"[..]));
    assert!(house.peer.state.lock().messages.is_empty());
    house.requests().credit("s", "open".len() as u64);
    house.requests().credit("s", 1);
    assert_eq!(house.expect_data("s"), (1, b"behind".to_vec()));
}

#[test]
fn the_peer_gets_credit_for_what_the_target_has_taken() {
    let mut house = with_credit();
    let mut leg = house.open("s");
    let block = vec![7; 100_000];
    let mut granted = 0;
    for n in 1..=30u64 {
        house.data("s", 2, &block);
        assert_eq!(leg.read().len(), block.len());
        if n % 3 == 0 {
            granted += house.expect("proxy_flow", "s")["credit"]
                .as_u64()
                .expect("a number");
            assert_eq!(granted, n * 100_000);
        }
    }
}

#[test]
fn a_peer_that_ignores_credit_loses_its_stream() {
    let mut house = with_credit();
    house.start("s", EXEC);
    let mut peer = house.upstream.accept();
    house.data("s", 2, &vec![7; INITIAL_CREDIT as usize]);
    house.data("s", 2, &[7]);
    let error = house.expect_stream_error("s");
    assert!(error.ends_with("more came than was granted"), "{error}");
    house.expect_close("s");
    peer.wait_for_end();
    house.expect_rest();
}

/// Credit counts payload: of empty messages there may be any number. Each counts with what
/// it takes in memory.
#[test]
fn empty_messages_are_bounded_by_what_they_take_in_memory() {
    for mut house in [House::new(), with_credit()] {
        house.start("s", EXEC);
        let mut peer = house.upstream.accept();
        let mut sent = 0;
        while house.peer.state.lock().messages.is_empty() {
            // 8 MiB of 64 bytes each; some more until its end is noticed.
            if sent >= 140_000 {
                break;
            }
            for _ in 0..1000 {
                house.data("s", 2, b"");
            }
            sent += 1000;
        }
        assert!(sent > 50_000, "{sent}");
        let error = house.expect_stream_error("s");
        assert!(error.contains("the target takes too little"), "{error}");
        house.expect_close("s");
        peer.wait_for_end();
        house.expect_rest();
    }
}

#[test]
fn a_close_of_the_peer_ends_what_waits_for_credit() {
    let mut house = with_credit();
    let mut leg = house.open_raw("s");
    let large = vec![1; INITIAL_CREDIT as usize];
    leg.say(Said::binary(large.clone()));
    house.expect_data("s");
    leg.say(Said::binary(&b"waits"[..]));
    house.say(
        "proxy_websocket_close",
        "s",
        json!({"stream_id": "s", "code": 1000, "reason": ""}),
    );
    assert_eq!(leg.expect_close().0, 1000);
    house.expect_close("s");
    house.expect_rest();
}

#[test]
fn streams_take_long_places_and_wait_for_them() {
    let mut house = House::with(Settings {
        places: PlaceLimits {
            short: 1,
            long: 1,
            waiting: 2,
            ..PlaceLimits::default()
        },
        ..Settings::default()
    });
    let mut first = house.open("first");
    house.start("second", EXEC);
    house.start("third", EXEC);
    house.start("fourth", EXEC);
    let error = house.expect_stream_error("fourth");
    assert_eq!(error, "agent busy");
    house.expect_close("fourth");
    // One that waits is closed; it was never dialled.
    house.close("third");
    house.expect_close("third");
    // Short requests go on.
    house.get("r", "/version");
    house.upstream.accept().answer("200 OK", "{}");
    house.expect("proxy_response", "r");
    first.say(Said::Close(None));
    house.expect_close("first");
    let mut second = upgrade(house.upstream.accept(), Some(V4));
    second.say(Said::Close(None));
    house.expect_close("second");
    house.expect_rest();
}

#[test]
fn two_hundred_streams_at_once_and_one_of_them_stalled() {
    const STREAMS: usize = 200;
    let mut house = House::new();
    let _stalled = house.open("stalled");
    house.data("stalled", 2, &vec![0; 6 << 20]);
    for n in 0..STREAMS {
        house.start(&n.to_string(), &format!("/api/v1/pods/{n}/exec"));
    }
    let mut legs = Vec::new();
    for _ in 0..STREAMS {
        let mut leg = upgrade(house.upstream.accept(), Some(V4));
        legs.push(thread::spawn(move || {
            // What comes goes back, on another channel.
            for _ in 0..10 {
                let said = leg.read().into_data();
                leg.say(Said::binary([&[1], &said[1..]].concat()));
            }
            leg.say(Said::Close(None));
            let _ = leg.socket.read();
        }));
    }
    for message in 0..10u8 {
        for n in 0..STREAMS {
            house.data(&n.to_string(), 1, &[message, n as u8]);
        }
    }
    let mut seen = [0; STREAMS];
    let mut closed = 0;
    while closed < STREAMS {
        let mut message = house.next();
        let id = message["request_id"].as_str().expect("an id");
        let n: usize = id.parse().expect("a number");
        match message["type"].as_str() {
            Some("proxy_websocket_close") => {
                assert_eq!(seen[n], 10, "of {n}");
                closed += 1;
            }
            Some("proxy_websocket_data") => {
                let data = decode(&message["payload"]["data"].take());
                assert_eq!(data, [1, seen[n], n as u8]);
                seen[n] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    for leg in legs {
        leg.join().expect("no panic");
    }
}
