//! Percent-encoding (RFC 3986 §2.1).

/// Appends `text`; bytes that `keep` refuses are encoded.
pub fn encode(into: &mut String, text: &str, keep: impl Fn(u8) -> bool) {
    into.reserve(text.len());
    for byte in text.bytes() {
        if keep(byte) && byte.is_ascii() {
            into.push(char::from(byte));
        } else {
            into.push('%');
            into.push(char::from(HEX[usize::from(byte >> 4)]));
            into.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// One path segment or query value: all but the unreserved characters is encoded.
pub fn encode_part(text: &str) -> String {
    let mut encoded = String::new();
    encode(&mut encoded, text, |byte| {
        byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
    });
    encoded
}

/// `None` when a `%` isn't followed by two hex digits.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            decoded.push((high * 16 + low) as u8);
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_encoding_is_refused() {
        for text in ["%", "%4", "%zz", "%+1", "a%2"] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(decode("%C3%bc+"), Some("ü+".into()));
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(text in "\\PC{0,40}") {
            let encoded = encode_part(&text);
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(decode(&encoded), Some(text.into_bytes()));
        }
    }
}
