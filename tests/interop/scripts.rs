//! tunnels.md §10.2, frame by frame: the gateway's scripts.

use serde_json::json;

use crate::stage::Stage;
use crate::tunnel_driver::{NOWHERE, SERVICE};

/// The session survives the script.
fn survives(name: &str, service: &str) {
    let stage = Stage::with_tunnels();
    let agent = stage.start();
    let conn = stage.arrived();
    stage.gateway.script(name, service);
    stage.end(agent, &conn);
}

/// The script is the end of the session, and the agent opens the next connection.
fn ends(name: &str) {
    let stage = Stage::with_tunnels();
    // Its peer broke the protocol: it owes it no goodbye.
    stage.gateway.set("allow_abrupt", true);
    let agent = stage.start();
    stage.arrived();
    stage.gateway.set("close_code", 1002);
    stage.gateway.script(name, SERVICE);
    let conn = stage.gateway.connection("gateway");
    stage.gateway.set("close_code", 1000);
    stage.heartbeat_on(&conn);
    stage.gateway.hello(json!({}));
    stage.gateway.script("vectors", SERVICE);
    stage.end(agent, &conn);
}

macro_rules! scripts {
    ($($name:ident: $run:expr;)*) => {$(
        #[test]
        #[ignore = "needs the Go gateway: tests/run interop"]
        fn $name() {
            $run;
        }
    )*};
}

scripts! {
    x1_x2_x4_x5_the_vectors: survives("vectors", SERVICE);
    x3_a_header_in_any_pieces: survives("pieces", SERVICE);
    x4_half_a_window_read_is_granted_again_at_once: survives("window_update", SERVICE);
    x5_the_target_ends_first: survives("target_first", SERVICE);
    x6_the_gateway_ends_first: survives("gateway_first", SERVICE);
    x7_after_a_reset_nothing_more_is_said: survives("reset", SERVICE);
    x9_a_second_syn_ends_the_session: ends("second_syn");
    x10_data_beyond_the_window_ends_the_session: ends("overrun");
    x10_a_syn_with_4_gib_ends_the_session: ends("syn_with_4_gib");
    x11_another_version_ends_the_session: ends("version_1");
    x11_an_unknown_type_ends_the_session: ends("type_9");
    x12_two_thousand_syns_are_all_answered: survives("syn_flood", SERVICE);
    x14_a_hello_with_absurd_numbers_is_clamped: survives("small_window", SERVICE);
    x15_a_hello_that_does_not_say_true_changes_nothing: survives("not_agreed", SERVICE);
    a_second_hello_begins_anew: survives("second_hello", SERVICE);
    a_second_fin_ends_the_session: ends("second_fin");
    go_away_with_an_error_ends_the_session: ends("go_away_1");
    go_away_without_one_does_not: survives("go_away_0", SERVICE);
    frames_of_unknown_streams_are_nothing: survives("unknown_streams", SERVICE);
    a_datagram_is_a_frame: survives("datagrams", SERVICE);
    a_failed_dial_ends_the_stream: survives("refused", NOWHERE);
}
