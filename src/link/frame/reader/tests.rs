use super::*;

fn read(role: Role, limit: usize, slices: &[&[u8]]) -> Result<Vec<String>, Refusal> {
    let mut reader = FrameReader::new(role, limit);
    let mut events = Vec::new();
    for slice in slices {
        reader.read(&mut slice.to_vec(), &mut |event| {
            events.push(format!("{event:?}"));
        })?;
    }
    Ok(events)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, payload.len() as u8];
    bytes.extend_from_slice(payload);
    bytes
}

fn refused(bytes: &[u8]) -> Refusal {
    read(Role::Client, 1000, &[bytes]).expect_err("refused")
}

#[test]
fn a_frame_in_one_slice_is_handed_out_where_it_lies() {
    let mut reader = FrameReader::new(Role::Client, 100);
    let mut bytes = frame(0x82, b"abc");
    let lies = bytes[2..].as_ptr();
    let mut seen = None;
    reader
        .read(&mut bytes, &mut |event| {
            if let Event::Binary(payload) = event {
                seen = Some(payload.as_ptr());
            }
        })
        .expect("valid");
    assert_eq!(seen, Some(lies));
}

#[test]
fn control_frames_between_fragments() {
    let stream = [
        frame(0x01, "a\u{20ac}".as_bytes().split_at(2).0),
        frame(0x89, b"p"),
        frame(0x00, "a\u{20ac}".as_bytes().split_at(2).1),
        frame(0x8a, b""),
        frame(0x80, b"!"),
        frame(0x82, b""),
    ]
    .concat();
    let expected = [
        "Ping([112])",
        "Pong([])",
        "Text(\"a\u{20ac}!\")",
        "Binary([])",
    ];
    for cut in 0..stream.len() {
        let (one, two) = stream.split_at(cut);
        assert_eq!(
            read(Role::Client, 100, &[one, two]).expect("valid"),
            expected
        );
    }
}

#[test]
fn what_the_rfc_forbids_is_refused() {
    assert_eq!(refused(&frame(0xc1, b"")), Refusal::ReservedBits);
    assert_eq!(refused(&frame(0x87, b"")), Refusal::Opcode(7));
    assert_eq!(refused(&frame(0x09, b"")), Refusal::FragmentedControl);
    assert_eq!(refused(&[0x89, 126, 0, 126]), Refusal::LongControl(126));
    assert_eq!(refused(&frame(0x80, b"")), Refusal::UnexpectedContinuation);
    let nested = [frame(0x01, b"a"), frame(0x81, b"b")].concat();
    assert_eq!(refused(&nested), Refusal::ExpectedContinuation);
    assert_eq!(refused(&[0x81, 0x80, 1, 2, 3, 4]), Refusal::Masked);
    let unmasked = read(Role::Server, 100, &[&frame(0x81, b"a")]);
    assert_eq!(unmasked, Err(Refusal::Unmasked));
}

#[test]
fn the_right_close_code_for_each_refusal() {
    assert_eq!(refused(&frame(0x81, b"\xff")).code(), 1007);
    assert_eq!(refused(&[0x82, 126, 0x10, 0]).code(), 1009);
    assert_eq!(refused(&frame(0xc1, b"")).code(), 1002);
}

#[test]
fn t31_a_message_too_long_is_refused_by_its_header() {
    // T31: nothing but the header has arrived, no memory has been taken.
    let huge = [0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let mut reader = FrameReader::new(Role::Client, 1000);
    let refusal = reader.read(&mut huge.clone(), &mut |_| {});
    assert!(matches!(
        refusal,
        Err(Refusal::TooLong { size: u64::MAX, .. })
    ));
    let sum = [frame(0x02, &[0; 100]), frame(0x80, &[0; 100])].concat();
    assert_eq!(
        read(Role::Client, 199, &[&sum]),
        Err(Refusal::TooLong {
            size: 200,
            limit: 199
        })
    );
    assert!(read(Role::Client, 200, &[&sum]).is_ok());
}

#[test]
fn memory_grows_with_what_arrived_and_is_given_back() {
    let mib = 1024 * 1024;
    let mut reader = FrameReader::new(Role::Client, 64 * mib);
    let mut head = [0x82, 127, 0, 0, 0, 0, 0x03, 0, 0, 0]; // 48 MiB
    reader.read(&mut head, &mut |_| {}).expect("valid");
    let mut piece = vec![7; mib];
    let mut arrived = 0;
    let mut whole = 0;
    while arrived < 48 {
        reader
            .read(&mut piece, &mut |event| {
                if let Event::Binary(bytes) = event {
                    whole = bytes.len();
                }
            })
            .expect("valid");
        arrived += 1;
        let taken = reader.message.as_ref().map_or(0, Body::capacity);
        assert!(taken <= 2 * arrived * mib, "{taken} after {arrived} MiB");
    }
    assert_eq!(whole, 48 * mib);
    assert!(reader.message.is_none() && reader.spare.capacity() <= KEPT);
}

#[test]
fn nothing_comes_after_a_close() {
    let stream = [
        frame(0x88, &[0x03, 0xe8, b'b', b'y', b'e']),
        frame(0x81, b"x"),
    ]
    .concat();
    let events = read(Role::Client, 100, &[&stream, &stream]).expect("valid");
    assert_eq!(events.len(), 1);
    assert!(events[0].contains("1000") && events[0].contains("bye"));
}
