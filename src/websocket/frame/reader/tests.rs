use super::*;

fn read(role: Role, limit: usize, slices: &[&[u8]]) -> Result<Vec<String>, Refusal> {
    let mut reader = FrameReader::new(role, limit);
    let mut events = Vec::new();
    for slice in slices {
        let mut listener = whole(|event| events.push(format!("{event:?}")));
        reader.read(&mut slice.to_vec(), &mut listener)?;
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
        .read(
            &mut bytes,
            &mut whole(|event| {
                if let Event::Binary(payload) = event {
                    seen = Some(payload.as_ptr());
                }
            }),
        )
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
    let refusal = reader.read(&mut huge.clone(), &mut whole(|_| {}));
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
    reader.read(&mut head, &mut whole(|_| {})).expect("valid");
    let mut piece = vec![7; mib];
    let mut arrived = 0;
    let mut complete = 0;
    while arrived < 48 {
        reader
            .read(
                &mut piece,
                &mut whole(|event| {
                    if let Event::Binary(bytes) = event {
                        complete = bytes.len();
                    }
                }),
            )
            .expect("valid");
        arrived += 1;
        let taken = reader.message.as_ref().map_or(0, Body::capacity);
        assert!(taken <= 2 * arrived * mib, "{taken} after {arrived} MiB");
    }
    assert_eq!(complete, 48 * mib);
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

/// Takes pieces and remembers where they lie and what they are.
#[derive(Default)]
struct Pieces {
    lie: Vec<*const u8>,
    events: Vec<String>,
}

impl Listener for Pieces {
    fn takes_pieces(&self) -> bool {
        true
    }

    fn hear(&mut self, event: Event<'_>) {
        if let Event::Piece { bytes, .. } = event {
            self.lie.push(bytes.as_ptr());
        }
        self.events.push(format!("{event:?}"));
    }
}

#[test]
fn pieces_are_handed_out_where_they_lie_and_whole_messages_and_texts_as_before() {
    let mut reader = FrameReader::new(Role::Client, 6);
    let mut pieces = Pieces::default();
    let cut = frame(0x82, b"abcdef");
    let fragments = [
        frame(0x02, b""),
        frame(0x00, b"x"),
        frame(0x89, b"p"),
        frame(0x80, b""),
        frame(0x82, b"whole"),
    ]
    .concat();
    let (mut begin, mut end) = (cut[..5].to_vec(), cut[5..].to_vec());
    end.extend_from_slice(&fragments);
    end.extend_from_slice(&frame(0x01, b"t"));
    reader.read(&mut begin, &mut pieces).expect("valid");
    reader.read(&mut end, &mut pieces).expect("valid");
    assert_eq!(pieces.lie[..2], [begin[2..].as_ptr(), end.as_ptr()]);
    assert!(reader.spare.capacity() == 0, "nothing was put together");
    let mut last = frame(0x80, b"ext");
    reader.read(&mut last, &mut pieces).expect("valid");
    let expected = [
        "Piece { bytes: [97, 98, 99], last: false }",
        "Piece { bytes: [100, 101, 102], last: true }",
        "Piece { bytes: [120], last: false }",
        "Ping([112])",
        "Piece { bytes: [], last: true }",
        "Binary([119, 104, 111, 108, 101])",
        "Text(\"text\")",
    ];
    assert_eq!(pieces.events, expected);
}

#[test]
fn a_message_in_pieces_has_the_limit_of_all() {
    for (last, refused) in [(3, false), (4, true)] {
        let mut reader = FrameReader::new(Role::Client, 6);
        let mut stream = [frame(0x02, b"abc"), frame(0x80, &vec![7; last])].concat();
        let result = reader.read(&mut stream, &mut Pieces::default());
        assert_eq!(result.is_err(), refused);
        let mut nested = [frame(0x02, b"abc"), frame(0x81, b"t")].concat();
        let result = FrameReader::new(Role::Client, 6).read(&mut nested, &mut Pieces::default());
        assert_eq!(result, Err(Refusal::ExpectedContinuation));
    }
}

/// Counts what is kept, up to a limit.
struct Room {
    limit: usize,
    kept: usize,
    heard: usize,
}

impl Listener for Room {
    fn takes_pieces(&self) -> bool {
        false
    }

    fn keeps(&mut self, bytes: usize) -> bool {
        if bytes > self.limit {
            return false;
        }
        self.kept = bytes;
        true
    }

    fn hear(&mut self, event: Event<'_>) {
        if let Event::Binary(payload) | Event::Ping(payload) = event {
            self.heard = payload.len();
        }
    }
}

#[test]
fn memory_for_an_unfinished_message_is_asked_for_and_given_back() {
    const SIZE: usize = 300_000;
    let mut bytes = vec![0x82, 127];
    bytes.extend((SIZE as u64).to_be_bytes());
    bytes.resize(10 + SIZE, 7);
    for limit in [SIZE, SIZE - 1] {
        let mut reader = FrameReader::new(Role::Client, 1 << 20);
        let mut room = Room {
            limit,
            kept: 0,
            heard: 0,
        };
        let mut came = 0;
        let mut refusal = None;
        for slice in bytes.clone().chunks_mut(10_000) {
            came += slice.len();
            if let Err(error) = reader.read(slice, &mut room) {
                refusal = Some(error);
                break;
            }
            let unfinished = came < bytes.len() && came > KEPT + 10;
            assert!(!unfinished || room.kept >= came - 10, "at {came}");
        }
        match refusal {
            None => assert_eq!((room.heard, room.kept), (SIZE, 0)),
            Some(refusal) => {
                assert!(
                    limit < SIZE && matches!(refusal, Refusal::NoRoom(_)),
                    "{refusal}"
                );
                assert_eq!(refusal.code(), 1013);
            }
        }
        assert_eq!(refusal.is_none(), limit == SIZE);
    }
}
