use super::*;

/// One that has none would say `protocol_fallback`, or take the offer for a fault.
#[test]
fn tunnels_are_offered_once_and_to_nobody_who_has_none() {
    let house = House::new();
    house.registered("a");
    let offers = |dialogue: &mut Dialogue, sent: &Sent, client_addresses: bool| {
        let offered = || {
            let all = sent.take();
            all.iter()
                .filter(|text| is(text, "gateway_hello", ""))
                .count()
        };
        assert_eq!(offered(), 0, "not before the hello is settled");
        let hello = || AgentEvent::Hello {
            flow: false,
            raw_streams: false,
            client_addresses,
        };
        assert_eq!(dialogue.handle(hello()), Next::Continue);
        let first = offered();
        assert_eq!(dialogue.handle(hello()), Next::Continue);
        assert_eq!(dialogue.handle(house.beat("a")), Next::Continue);
        assert_eq!(offered(), 0, "a second time");
        house.hub.leave(&dialogue.connection);
        first
    };
    let gateway = |yamux| {
        let known = house.hub.registry.cluster(&name());
        let cluster_id = known.expect("registered").id;
        house.dial(Endpoint::Gateway { cluster_id, yamux })
    };
    for (yamux, client_addresses, want) in [
        (false, false, 0),
        (true, false, 1), // the original
        (true, true, 1),
    ] {
        let (mut dialogue, sent) = gateway(yamux);
        assert_eq!(offers(&mut dialogue, &sent, client_addresses), want);
    }
    // The controller's query says nothing of tunnels.
    for (client_addresses, want) in [(false, 0), (true, 1)] {
        let (mut dialogue, sent) = house.controller();
        assert_eq!(offers(&mut dialogue, &sent, client_addresses), want);
    }
    // Who says nothing to the hello can have them all the same.
    for (yamux, want) in [(false, 0), (true, 1)] {
        let (mut dialogue, sent) = gateway(yamux);
        let until = dialogue.deadline().expect("waits");
        assert_eq!(dialogue.timeout(until), Next::Continue);
        let all = sent.take();
        let offered = all.iter().filter(|text| is(text, "gateway_hello", ""));
        assert_eq!(offered.count(), want);
        house.hub.leave(&dialogue.connection);
    }
}
