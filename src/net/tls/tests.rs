use std::io::Write;

use tempfile::{NamedTempFile, TempDir};

use super::*;
use crate::net::testing::Ca;

fn file(text: &str) -> (NamedTempFile, PemSource) {
    let mut file = NamedTempFile::new().expect("file");
    file.write_all(text.as_bytes()).expect("write");
    let source = PemSource::File(file.path().to_owned());
    (file, source)
}

fn given(pem: &str) -> PemSource {
    PemSource::Given {
        name: "certificate-authority-data".into(),
        pem: pem.as_bytes().to_vec(),
    }
}

fn only(ca: Vec<PemSource>) -> ClientTlsSettings {
    ClientTlsSettings {
        trust: Trust::OnlyGiven,
        ca,
        ..ClientTlsSettings::default()
    }
}

fn error(settings: ClientTlsSettings) -> String {
    ClientTls::new(settings).expect_err("must fail").to_string()
}

#[test]
fn the_default_trusts_somebody_also_in_an_empty_image() {
    ClientTls::new(ClientTlsSettings::default()).expect("system or built-in roots");
}

#[test]
fn a_missing_ca_file_is_named() {
    let text = error(only(vec![PemSource::File("/nowhere/ca.pem".into())]));
    assert!(text.contains("/nowhere/ca.pem"), "{text}");
    assert!(text.contains("No such file"), "{text}");
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let key = Ca::new().issue(&["a"]).key_pem;
    for (pem, problem) in [
        ("", "no PEM certificate"),
        ("hello", "no PEM certificate"),
        (&*key, "no PEM certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", "cut off"),
        (
            "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
            "base64",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "not accepted",
        ),
    ] {
        let (_file, source) = file(pem);
        let name = source.to_string();
        let text = error(only(vec![source]));
        assert!(text.contains(&name), "{text}");
        assert!(text.contains(problem), "{text}: {problem}");
    }
}

#[test]
fn an_unreadable_certificate_among_good_ones_is_left_out() {
    let bundle = format!(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{}",
        Ca::new().pem()
    );
    ClientTls::new(only(vec![given(&bundle)])).expect("one is good");
}

#[test]
fn no_authority_at_all_is_an_error() {
    assert!(error(only(Vec::new())).contains("CA file is needed"));
}

#[test]
fn half_a_client_certificate_is_an_error() {
    let ca = Ca::new();
    let issued = ca.issue(&["a"]);
    let settings = only(vec![given(&ca.pem())]);
    let text = error(ClientTlsSettings {
        certificate: Some(given(&issued.certificate_pem)),
        ..settings.clone()
    });
    assert!(text.contains("key is missing"), "{text}");
    let text = error(ClientTlsSettings {
        key: Some(given(&issued.key_pem)),
        ..settings
    });
    assert!(text.contains("certificate is missing"), "{text}");
}

#[test]
fn a_key_of_another_certificate_is_an_error_that_names_both() {
    let ca = Ca::new();
    let (_a, certificate) = file(&ca.issue(&["a"]).certificate_pem);
    let (_b, key) = file(&ca.issue(&["a"]).key_pem);
    let (cert_name, key_name) = (certificate.to_string(), key.to_string());
    let text = error(ClientTlsSettings {
        certificate: Some(certificate),
        key: Some(key),
        ..only(vec![given(&ca.pem())])
    });
    assert!(
        text.contains(&cert_name) && text.contains(&key_name),
        "{text}"
    );
    assert!(text.contains("does not belong"), "{text}");
}

#[test]
fn an_encrypted_key_is_an_error_that_says_so() {
    let ca = Ca::new();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let text = error(ClientTlsSettings {
        certificate: Some(given(&ca.issue(&["a"]).certificate_pem)),
        key: Some(given(encrypted)),
        ..only(vec![given(&ca.pem())])
    });
    assert!(text.contains("encrypted"), "{text}");
}

#[test]
fn key_material_is_not_shown() {
    let ca = Ca::new();
    let issued = ca.issue(&["a"]);
    let tls = ClientTls::new(ClientTlsSettings {
        certificate: Some(given(&issued.certificate_pem)),
        key: Some(given(&issued.key_pem)),
        ..only(vec![given(&ca.pem())])
    })
    .expect("settings");
    let shown = format!("{tls:?}");
    let secret = issued.key_pem.lines().nth(1).expect("a line of the key");
    assert!(!shown.contains(secret), "{shown}");
    assert!(shown.contains("certificate-authority-data"), "{shown}");
}

#[test]
fn names_that_no_certificate_can_bear_are_refused() {
    let ca = Ca::new();
    let tls = ClientTls::new(only(vec![given(&ca.pem())])).expect("settings");
    for name in ["", "a b", "a/b", "ä"] {
        assert!(
            matches!(tls.session(name), Err(TlsError::ServerName(_))),
            "{name}"
        );
    }
    for name in ["a.test", "a.test.", "127.0.0.1", "::1", "under_score"] {
        tls.session(name).expect(name);
    }
}

#[test]
fn changed_files_are_read_again_and_bad_ones_are_not_taken() {
    let folder = TempDir::new().expect("folder");
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, Ca::new().pem()).expect("write");
    let tls = ClientTls::new(only(vec![PemSource::File(path.clone())])).expect("settings");
    let first = tls.configs();
    assert!(Arc::ptr_eq(&first.target, &tls.configs().target), "kept");

    // As Kubernetes and careful tools do it: by renaming.
    let replace = |pem: &str| {
        let new = folder.path().join("new");
        std::fs::write(&new, pem).expect("write");
        std::fs::rename(&new, &path).expect("rename");
    };
    replace(&Ca::new().pem());
    let second = tls.configs();
    assert!(!Arc::ptr_eq(&first.target, &second.target), "read again");

    replace("half a certif");
    assert!(Arc::ptr_eq(&second.target, &tls.configs().target));
    std::fs::remove_file(&path).expect("remove");
    assert!(Arc::ptr_eq(&second.target, &tls.configs().target));
    replace(&Ca::new().pem());
    assert!(!Arc::ptr_eq(&second.target, &tls.configs().target));
}

#[test]
fn another_client_certificate_takes_the_place_of_the_one_before() {
    let ca = Ca::new();
    let tls = ClientTls::new(only(vec![given(&ca.pem())])).expect("settings");
    let issued = ca.issue(&["a"]);
    let (certificate, key) = (given(&issued.certificate_pem), given(&issued.key_pem));
    let shows = || tls.configs().target.client_auth_cert_resolver.has_certs();
    assert!(!shows());
    assert!(tls.show(&certificate, &key).expect("a pair"));
    assert!(shows());
    assert!(!tls.configs().proxy.client_auth_cert_resolver.has_certs());
    assert!(!tls.show(&certificate, &key).expect("a pair"), "the same");
    let other = given(&ca.issue(&["a"]).key_pem);
    tls.show(&certificate, &other).expect_err("no pair");
    assert!(shows(), "the one before stays");
}
