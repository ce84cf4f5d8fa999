//! Request targets in origin form (RFC 9112 §3.2.1).

use crate::percent;

/// Appends a decoded path, percent-encoded: what is left as it is are the
/// unreserved characters and those that mean nothing special inside a path. `%` is
/// encoded like anything else (control-channel.md T33), and so is every byte that
/// could end the path or the line.
pub fn encode_path(target: &mut String, path: &str) {
    percent::encode(target, path, |byte| {
        byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte)
    });
}

/// Appends a raw query as it is; only bytes that RFC 3986 doesn't allow in a query
/// are encoded. A `%` stays, whatever follows it. Control characters are for the
/// caller to refuse; here they are encoded.
pub fn encode_query(target: &mut String, query: &str) {
    percent::encode(target, query, |byte| {
        byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?".contains(&byte)
    });
}

/// The parameters of a query as forms are encoded (`+` is a space). What can't be
/// decoded is left out.
pub fn decode_query(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| String::from_utf8(percent::decode(&text.replace('+', " "))?).ok();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .filter_map(|(name, value)| Some((decode(name)?, decode(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> String {
        let mut target = String::new();
        encode_path(&mut target, text);
        target
    }

    fn query(text: &str) -> String {
        let mut target = String::new();
        encode_query(&mut target, text);
        target
    }

    #[test]
    fn t33_an_encoded_path_is_encoded_again() {
        assert_eq!(path("/a%2Fb"), "/a%252Fb");
    }

    #[test]
    fn queries_are_decoded() {
        let want = [("a b", "1&2"), ("flag", ""), ("x", "é")];
        let want = want.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            decode_query("a+b=1%262&flag&x=%C3%a9&&bad=%zz&cut=%1"),
            want
        );
    }

    #[test]
    fn nothing_in_a_path_ends_it() {
        assert_eq!(
            path("/a b?c#d\r\nHost: x\0é"),
            "/a%20b%3Fc%23d%0D%0AHost:%20x%00%C3%A9"
        );
        assert_eq!(
            path("/api/v1/system:node,a;b=c@d+e&$~"),
            "/api/v1/system:node,a;b=c@d+e&$~"
        );
    }

    #[test]
    fn a_query_is_passed_on_as_it_came() {
        let raw = "labelSelector=app%3Dweb&x=a+b&y='(*)'&z=%zz&a/b?c:@!;$,~";
        assert_eq!(query(raw), raw);
        assert_eq!(query("a=\"b c\"#d|é[]"), "a=%22b%20c%22%23d%7C%C3%A9%5B%5D");
    }
}
