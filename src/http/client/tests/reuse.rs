//! Connections that are used again, and what must not be.

use super::*;

#[test]
fn a_connection_is_used_again_for_every_framing() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    for (answer, want) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x\r\nbc\r\n0\r\nT: x\r\n\r\n",
            "abc",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", ""),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            "x",
        ),
    ] {
        let call = calling(&client, get("/x?y"), &Cancel::new());
        let request = peer.request();
        assert_eq!(request.line, "GET /x?y HTTP/1.1");
        let address = upstream.address.to_string();
        assert_eq!(request.headers.get("Host"), Some(address.as_str()));
        peer.send(answer);
        assert_eq!(
            call.join().expect("call").expect("answer").1,
            want.as_bytes()
        );
        assert_eq!(client.idle(), 1, "{answer}");
    }
    assert!(!upstream.is_wanted());
}

#[test]
fn a_connection_that_ends_with_its_answer_is_not_used_again() {
    let upstream = Upstream::new();
    let client = upstream.client();
    for answer in [
        "HTTP/1.1 200 OK\r\n\r\nuntil close",
        "HTTP/1.0 200 OK\r\nContent-Length: 11\r\n\r\nuntil close",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 11\r\n\r\nuntil close",
    ] {
        let call = calling(&client, get("/"), &Cancel::new());
        let mut peer = upstream.accept();
        peer.request();
        peer.send(answer);
        drop(peer);
        assert_eq!(
            call.join().expect("call").expect("answer").1,
            b"until close"
        );
        assert_eq!(client.idle(), 0);
    }
}

#[test]
fn a_connection_that_the_server_closed_while_idle_is_replaced() {
    let upstream = Upstream::new();
    let client = upstream.client();
    drop(warm(&upstream, &client));
    let call = calling(&client, post(full("x")), &Cancel::new());
    let mut peer = upstream.accept();
    assert_eq!(peer.request().body, b"x");
    peer.answer("200 OK", "fresh");
    assert_eq!(call.join().expect("call").expect("answer").1, b"fresh");
}

#[test]
fn a_get_on_a_connection_that_dies_under_it_is_repeated_once() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    let call = calling(&client, get("/"), &Cancel::new());
    peer.request();
    drop(peer);
    let mut peer = upstream.accept();
    peer.request();
    drop(peer); // the second time it is an error
    let error = call.join().expect("call").expect_err("closed");
    assert!(matches!(error, CallError::Closed), "{error}");
    assert!(!upstream.is_wanted());
}

#[test]
fn a_post_is_never_repeated() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    let call = calling(&client, post(full("x")), &Cancel::new());
    peer.request();
    drop(peer);
    call.join().expect("call").expect_err("closed");
    assert!(!upstream.is_wanted());
}

#[test]
fn nothing_is_repeated_once_an_answer_has_begun() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    let call = calling(&client, get("/"), &Cancel::new());
    peer.request();
    peer.send("HTTP/1.1 2");
    drop(peer);
    call.join().expect("call").expect_err("closed");
    assert!(!upstream.is_wanted());
}

#[test]
fn a_server_that_talks_unasked_is_not_listened_to() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    let call = calling(&client, get("/"), &Cancel::new());
    peer.request();
    // The second answer would be taken for that of the next request.
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    call.join().expect("call").expect("answer");
    let call = calling(&client, get("/"), &Cancel::new());
    let mut fresh = upstream.accept();
    fresh.request();
    fresh.answer("200 OK", "good");
    assert_eq!(call.join().expect("call").expect("answer").1, b"good");
    peer.wait_for_end();
}

#[test]
fn idle_connections_are_few_and_not_for_ever() {
    let upstream = Upstream::new();
    let client = upstream.client_with(Settings {
        max_idle: 1,
        ..Settings::default()
    });
    let calls = [(); 2].map(|()| calling(&client, get("/"), &Cancel::new()));
    let mut peers = [(); 2].map(|()| upstream.accept());
    for peer in &mut peers {
        peer.request();
        peer.answer("200 OK", "");
    }
    for call in calls {
        call.join().expect("call").expect("answer");
    }
    assert_eq!(client.idle(), 1);
    client.close_idle();
    for peer in &mut peers {
        peer.wait_for_end();
    }

    let client = upstream.client_with(Settings {
        idle_limit: Duration::ZERO,
        ..Settings::default()
    });
    let mut peer = warm(&upstream, &client);
    client.sweep();
    assert_eq!(client.idle(), 0);
    peer.wait_for_end();
}

#[test]
fn sweeping_keeps_what_is_good_and_drops_what_is_dead() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    client.sweep();
    assert_eq!(client.idle(), 1);
    let call = calling(&client, get("/"), &Cancel::new());
    peer.request();
    peer.answer("200 OK", "again");
    assert_eq!(call.join().expect("call").expect("answer").1, b"again");
    drop(peer);
    let until = Instant::now() + FAR;
    while client.idle() > 0 {
        assert!(Instant::now() < until);
        client.sweep();
    }
}
