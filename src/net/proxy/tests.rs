use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn rules(env: &[(&str, &str)]) -> Result<ProxyRules, ProxyError> {
    let env: HashMap<&str, &str> = env.iter().copied().collect();
    ProxyRules::from_env(|name| env.get(name).map(ToString::to_string))
}

fn endpoint(host: &str, port: u16, tls: bool) -> Endpoint {
    Endpoint {
        host: host.into(),
        port,
        tls,
    }
}

fn shown(rules: &ProxyRules, host: &str, tls: bool) -> Option<String> {
    rules
        .proxy_for(&endpoint(host, 443, tls))
        .map(ToString::to_string)
}

#[test]
fn the_scheme_of_the_target_chooses_the_variable() {
    let rules = rules(&[
        ("HTTPS_PROXY", "http://secure:1"),
        ("http_proxy", "plain"),
        ("HTTP_PROXY", "  "),
    ])
    .expect("rules");
    assert_eq!(shown(&rules, "a", true).as_deref(), Some("http://secure:1"));
    assert_eq!(
        shown(&rules, "a", false).as_deref(),
        Some("http://plain:80")
    );
}

#[test]
fn upper_case_goes_first() {
    let rules = rules(&[("https_proxy", "lower"), ("HTTPS_PROXY", "upper")]).expect("rules");
    assert_eq!(shown(&rules, "a", true).as_deref(), Some("http://upper:80"));
}

#[test]
fn without_variables_there_is_no_proxy() {
    let rules = rules(&[]).expect("rules");
    assert_eq!(shown(&rules, "a", true), None);
    assert_eq!(shown(&ProxyRules::none(), "a", true), None);
}

#[test]
fn proxy_urls() {
    for (url, place, user) in [
        ("http://p", ("p", 80, false), None),
        ("HTTPS://p/", ("p", 443, true), None),
        ("p:3128", ("p", 3128, false), None),
        ("http://[::1]:8080/x?y", ("::1", 8080, false), None),
        (
            "http://me:s%40cret%3A@p:1",
            ("p", 1, false),
            Some(("me", "s@cret:")),
        ),
        ("http://me@p", ("p", 80, false), Some(("me", ""))),
        ("http://a@b:c@p", ("p", 80, false), Some(("a@b", "c"))),
    ] {
        let proxy = Proxy::parse("X", url).expect(url);
        assert_eq!(proxy.endpoint, endpoint(place.0, place.1, place.2), "{url}");
        let credentials = user.map(|(user, password)| (user.to_owned(), password.to_owned()));
        assert_eq!(proxy.credentials, credentials, "{url}");
    }
}

#[test]
fn unusable_proxy_urls_are_configuration_errors_without_the_password() {
    for url in [
        "socks5://me:hunter2@p",
        "SOCKS5H://me:hunter2@p",
        "ftp://me:hunter2@p",
        "http://me:hunter2@",
        "http://me:hunter2@p:port",
        "http://me:hunter2@p:99999",
        "http://me:hunter2%zz@p",
        "http://me:hunter2%ff@p",
        "http://me:hunter2@p\r\nX: y",
        "http://me:12/hunter2@p",
    ] {
        let error = rules(&[("HTTPS_PROXY", url)]).expect_err(url).to_string();
        assert!(error.starts_with("HTTPS_PROXY: "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = Proxy::parse("X", "socks5://p").expect_err("socks").problem;
    assert!(
        error.contains("socks5:// proxies are not supported"),
        "{error}"
    );
}

#[test]
fn credentials_are_not_shown() {
    let proxy = Proxy::parse("X", "http://me:hunter2@p").expect("url");
    assert!(!format!("{proxy} {proxy:?}").contains("hunter2"));
    assert!(!format!("{proxy} {proxy:?}").contains("me"));
}

#[test]
fn no_proxy_table() {
    for (list, host, direct) in [
        ("*", "anything.test", true),
        ("example.com", "example.com", true),
        ("example.com", "EXAMPLE.com.", true),
        ("example.com", "a.b.example.com", true),
        ("example.com", "badexample.com", false),
        ("example.com", "example.com.evil.test", false),
        (".example.com", "a.example.com", true),
        (".example.com", "example.com", false),
        ("*.example.com", "a.example.com", true),
        ("*.example.com", "example.com", false),
        ("*ample.com", "example.com", false),
        ("Example.COM", "example.com", true),
        ("a,example.com , b", "example.com", true),
        ("a example.com", "example.com", true),
        ("example.com:443", "example.com", true),
        ("example.com:80", "example.com", false),
        ("example.com:x", "example.com", false),
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "::ffff:10.0.0.1", true),
        ("10.0.0.1", "10.0.0.10", false),
        ("10.0.0.1:443", "10.0.0.1", true),
        ("10.0.0.1:80", "10.0.0.1", false),
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("10.9.9.9/8", "10.0.0.1", true),
        ("0.0.0.0/0", "192.0.2.1", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        ("0.0.0.0/0", "example.com", false),
        ("10.0.0.0/33", "10.0.0.1", false),
        ("2001:db8::/32", "2001:db8:1::1", true),
        ("2001:db8::/32", "[2001:db8:1::1]", true),
        ("2001:db8::/32", "2001:db9::1", false),
        ("::/0", "2001:db8::1", true),
        ("2001:db8::1", "2001:db8:0::1", true),
        ("[2001:db8::1]:443", "2001:db8::1", true),
        ("[2001:db8::1]:80", "2001:db8::1", false),
        ("com", "example.com", true),
        ("", "example.com", false),
        (".", "example.com", false),
        ("*.", "example.com", false),
        // This machine, always.
        ("", "localhost", true),
        ("", "127.8.0.1", true),
        ("", "::1", true),
    ] {
        let rules = rules(&[("HTTPS_PROXY", "p"), ("no_proxy", list)]).expect("rules");
        let target = endpoint(host, 443, true);
        assert_eq!(
            rules.proxy_for(&target).is_none(),
            direct,
            "{list:?} {host}"
        );
    }
}

#[test]
fn a_proxy_for_everything_has_no_exceptions() {
    let rules = ProxyRules::always("proxy-url", "http://p:1").expect("rules");
    assert_eq!(
        shown(&rules, "127.0.0.1", true).as_deref(),
        Some("http://p:1")
    );
    assert_eq!(shown(&rules, "a", false).as_deref(), Some("http://p:1"));
}

proptest! {
    #[test]
    fn any_setting_is_a_rule_or_an_error(url: String, list: String, host: String, port: u16) {
        let env = [("HTTPS_PROXY", &*url), ("NO_PROXY", &*list)];
        if let Ok(rules) = rules(&env) {
            let _ = rules.proxy_for(&endpoint(&host, port, true));
        }
    }

    #[test]
    fn no_error_shows_the_password(
        scheme in "[a-z0-9]{1,7}",
        password in "[%@:/a-z]{0,5}hunter2[%@:/a-z]{0,5}",
        place in "[ -~]{0,20}",
    ) {
        let url = format!("{scheme}://me:{password}@{place}");
        if let Err(error) = Proxy::parse("X", &url) {
            prop_assert!(!error.to_string().contains("hunter2"), "{}", error);
        }
    }

    /// Whatever bytes credentials are made of, percent-encoding brings them through.
    #[test]
    fn credentials_are_decoded(user: String, password: String) {
        let encode = |text: &str| -> String {
            let hex = |digit| char::from_digit(digit, 16).expect("a digit");
            text.bytes()
                .map(u32::from)
                .flat_map(|byte| ['%', hex(byte / 16), hex(byte % 16)])
                .collect()
        };
        let url = format!("http://{}:{}@p", encode(&user), encode(&password));
        let proxy = Proxy::parse("X", &url).expect("valid");
        prop_assert_eq!(proxy.credentials, Some((user, password)));
    }
}
