//! The binary layouts of control-channel.md §5 that carry request bodies.

/// A request body in a binary message (control-channel.md §5.3): two bytes of
/// length, the request id, the body.
#[derive(Debug, PartialEq, Eq)]
pub struct BinaryBody<'a> {
    pub request_id: &'a str,
    pub body: &'a [u8],
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BinaryBodyError {
    #[error("shorter than its header")]
    Short,
    #[error("the request id is not UTF-8")]
    NotUtf8,
}

pub fn parse_binary_body(message: &[u8]) -> Result<BinaryBody<'_>, BinaryBodyError> {
    let (length, rest) = message
        .split_first_chunk::<2>()
        .ok_or(BinaryBodyError::Short)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (id, body) = rest
        .split_at_checked(length)
        .ok_or(BinaryBodyError::Short)?;
    let request_id = std::str::from_utf8(id).map_err(|_| BinaryBodyError::NotUtf8)?;
    Ok(BinaryBody { request_id, body })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_specification() {
        let message = [0x00, 0x03, 0x72, 0x2d, 0x37, 0x7b, 0x7d];
        assert_eq!(
            parse_binary_body(&message),
            Ok(BinaryBody {
                request_id: "r-7",
                body: b"{}"
            })
        );
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        assert_eq!(parse_binary_body(&[0]), Err(BinaryBodyError::Short));
        assert_eq!(
            parse_binary_body(&[0, 3, b'a']),
            Err(BinaryBodyError::Short)
        );
        assert_eq!(
            parse_binary_body(&[0, 1, 0xff]),
            Err(BinaryBodyError::NotUtf8)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = parse_binary_body(&bytes);
        }
    }
}
