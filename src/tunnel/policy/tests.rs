//! Who may go where, at both stages.

mod reading;

use super::*;

fn service<'a>(namespace: &'a str, service: &'a str, port: u16) -> Ask<'a> {
    Ask {
        protocol: Protocol::Tcp,
        namespace,
        service,
        port: Some(port),
        target: Target::Service,
    }
}

fn to(target: Target<'_>) -> Ask<'_> {
    Ask {
        target,
        port: match target.origin().map(|origin| &origin.place) {
            Some(Place::Unix(_)) => None,
            Some(Place::Host { port, .. }) => Some(*port),
            None => Some(1),
        },
        ..service("", "web", 1)
    }
}

fn origin(text: &str) -> Origin {
    Origin::parse(text).expect(text)
}

fn without_file() -> Policy {
    Policy::open(Settings::default()).expect("no file")
}

fn with_rules(text: &str) -> Policy {
    let policy = without_file();
    *policy.rules.write() = Some(Arc::new(file::parse(text).expect(text)));
    policy
}

fn at(policy: &Policy, ask: &Ask<'_>, ip: &str) -> Verdict {
    let ip: IpAddr = ip.parse().expect(ip);
    let address = SocketAddr::new(ip, ask.port.unwrap_or(1));
    policy.by_address(ask, address).0
}

/// As a stream goes: by name, then by address.
fn passes(policy: &Policy, ask: &Ask<'_>, ip: &str) -> bool {
    policy.by_name(ask).allowed && at(policy, ask, ip).allowed
}

/// Loopback, link-local and metadata, as they may be spelled.
const SPECIAL: &[&str] = &[
    "127.0.0.1",
    "127.0.0.53",
    "0.0.0.0",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "fd00:ec2::254",
    "168.63.129.16",
    "100.100.100.200",
    "fe80::1",
];

#[test]
fn tt14_services_are_allowed_and_nothing_special_behind_their_names() {
    let policy = without_file();
    let ask = service("databases", "postgres", 5432);
    for ip in ["10.1.2.3", "fd00::1", "192.168.0.1", "203.0.113.7"] {
        assert!(passes(&policy, &ask, ip), "{ip}");
    }
    for ip in SPECIAL {
        let verdict = at(&policy, &ask, ip);
        assert!(!verdict.allowed, "{ip}");
        assert!(verdict.reason.contains(" is a"), "{ip}: {}", verdict.reason);
    }
}

#[test]
fn with_a_file_what_no_rule_allows_is_denied() {
    let policy = with_rules(
        "rules:\n- {action: deny, namespaces: [kube-system]}\n- {action: allow, services: ['postgres*'], ports: [5432, '6000-6001'], protocol: tcp}\n- {action: allow, namespaces: ['team-*']}\n",
    );
    let ip = "10.0.0.1";
    assert!(passes(&policy, &service("data", "postgres-1", 5432), ip));
    assert!(passes(&policy, &service("data", "postgres", 6001), ip));
    assert!(passes(&policy, &service("team-a", "web", 80), ip));
    let wrong_port = policy.by_name(&service("data", "postgres", 6002));
    assert_eq!(wrong_port.reason, "no rule allows it");
    assert!(!wrong_port.allowed);
    // The order counts.
    let system = policy.by_name(&service("kube-system", "postgres", 5432));
    assert_eq!(
        (system.allowed, &*system.reason),
        (false, "denied by rule 1")
    );
    let udp = Ask {
        protocol: Protocol::Udp,
        ..service("data", "postgres", 5432)
    };
    assert!(!policy.by_name(&udp).allowed);
    let none = with_rules("rules: []");
    assert!(!none.by_name(&service("a", "b", 1)).allowed);
}

#[test]
fn rules_with_addresses_wait_for_the_address() {
    let policy = with_rules(
        "rules:\n- {action: deny, addresses: [10.9.0.0/16]}\n- {action: allow, namespaces: [a], addresses: [10.0.0.0/8]}\n- {action: deny, namespaces: [b]}\n- {action: allow, namespaces: [b]}\n",
    );
    let ask = service("a", "x", 1);
    assert!(policy.by_name(&ask).allowed, "the address decides");
    assert!(at(&policy, &ask, "10.1.0.1").allowed);
    assert!(
        at(&policy, &ask, "::ffff:10.1.0.1").allowed,
        "the same place"
    );
    assert_eq!(at(&policy, &ask, "10.9.0.1").reason, "denied by rule 1");
    assert_eq!(at(&policy, &ask, "11.0.0.1").reason, "no rule allows it");
    // No address can save these.
    assert!(!policy.by_name(&service("b", "x", 1)).allowed);
    assert!(!policy.by_name(&service("c", "x", 1)).allowed);
}

#[test]
fn tt14_special_addresses_need_a_rule_that_names_them() {
    let ask = service("a", "x", 1);
    for wide in [
        "rules: [{action: allow}]",
        "rules: [{action: allow, addresses: [0.0.0.0/0, '::/0']}]",
    ] {
        let policy = with_rules(wide);
        for ip in SPECIAL {
            let verdict = at(&policy, &ask, ip);
            assert!(!verdict.allowed, "{wide} {ip}");
            assert!(
                verdict.reason.ends_with("no rule names it"),
                "{}",
                verdict.reason
            );
        }
        assert!(passes(&policy, &ask, "10.0.0.1"));
    }
    let policy = with_rules(
        "rules:\n- {action: allow}\n- {action: allow, services: [x], addresses: [127.0.0.0/8, 169.254.169.254]}\n",
    );
    for ip in [
        "127.0.0.1",
        "0.0.0.0",
        "::ffff:127.0.0.1",
        "169.254.169.254",
    ] {
        assert!(passes(&policy, &ask, ip), "{ip}");
    }
    for ip in ["::1", "169.254.1.1", "fe80::1", "168.63.129.16"] {
        assert!(!passes(&policy, &ask, ip), "{ip}");
    }
    assert!(!passes(&policy, &service("a", "y", 1), "127.0.0.1"));
    // A denial needs no names.
    let policy =
        with_rules("rules:\n- {action: deny}\n- {action: allow, addresses: [127.0.0.1]}\n");
    assert!(!passes(&policy, &ask, "127.0.0.1"));
}

#[test]
fn a_configured_origin_names_its_own_address() {
    let policy = without_file();
    for (text, ip, allowed) in [
        ("localhost:3000", "127.0.0.1", true),
        ("localhost:3000", "::1", true),
        ("app.localhost:3000", "127.0.0.1", true),
        ("localhost:3000", "169.254.169.254", false),
        ("127.0.0.1:3000", "127.0.0.1", true),
        ("127.0.0.1:3000", "127.0.0.2", false),
        ("0.0.0.0:3000", "0.0.0.0", true),
        ("[::ffff:127.0.0.1]:3000", "127.0.0.1", true),
        ("169.254.169.254:80", "169.254.169.254", true),
        ("db.internal:5432", "10.0.0.1", true),
        // Who answers for the name isn't who configured it.
        ("db.internal:5432", "127.0.0.1", false),
        ("metadata.internal:80", "169.254.169.254", false),
    ] {
        let origin = origin(text);
        for target in [Target::Origin(&origin), Target::Forward(&origin)] {
            assert_eq!(passes(&policy, &to(target), ip), allowed, "{text} {ip}");
        }
    }
    let socket = origin("unix:///run/app.sock");
    assert!(policy.by_name(&to(Target::Origin(&socket))).allowed);
}

#[test]
fn with_a_file_origins_need_a_rule_too() {
    let socket = origin("unix:///run/app.sock");
    let local = origin("localhost:3000");
    let policy = with_rules("rules: [{action: allow, services: [web], ports: [3000]}]");
    // The origin names loopback, the rule allows the origin.
    assert!(passes(&policy, &to(Target::Origin(&local)), "127.0.0.1"));
    // A socket has neither port nor address.
    assert!(!policy.by_name(&to(Target::Origin(&socket))).allowed);
    let policy = with_rules("rules: [{action: allow, addresses: [127.0.0.0/8]}]");
    assert!(!policy.by_name(&to(Target::Origin(&socket))).allowed);
    let policy = with_rules("rules: [{action: allow, services: [web]}]");
    assert!(policy.by_name(&to(Target::Origin(&socket))).allowed);
    let policy = with_rules("rules: [{action: allow, services: [other]}]");
    assert!(!policy.by_name(&to(Target::Origin(&local))).allowed);
}

#[test]
fn allowed_origins_apply_besides() {
    for (entries, text, allowed) in [
        (&["localhost:3000"][..], "localhost:3000", true),
        (&["LOCALHOST"], "localhost:3000", true),
        (&["localhost:3001"], "localhost:3000", false),
        (&["127.0.0.1:3000"], "localhost:3000", false),
        (&["http://localhost:3000"], "localhost:3000", true),
        (&["::1"], "[::1]:80", true),
        (&["[::1]"], "[::1]:80", true),
        (&["[::1]:80"], "[::1]:80", true),
        (&["/run/a.sock"], "unix:///run/a.sock", true),
        (&["unix:///run/a.sock"], "unix:///run/a.sock", true),
        (&["/run/b.sock"], "unix:///run/a.sock", false),
        (&["a", "b", "db.internal"], "db.internal:1", true),
        (&[], "db.internal:1", true),
    ] {
        let settings = Settings {
            allowed_origins: entries.iter().map(ToString::to_string).collect(),
            ..Settings::default()
        };
        let policy = Policy::open(settings).expect("no file");
        let origin = origin(text);
        let verdict = policy.by_name(&to(Target::Origin(&origin)));
        assert_eq!(verdict.allowed, allowed, "{entries:?} {text}");
        // They say nothing about Services.
        assert!(policy.by_name(&service("a", "b", 1)).allowed);
    }
}

#[test]
fn tt14_no_rule_opens_a_port_of_the_agent_itself() {
    let mut policy =
        with_rules("rules: [{action: allow}, {action: allow, addresses: [127.0.0.0/8]}]");
    policy.set_own_ports(vec![8080]);
    policy.is_local = |ip| ip.is_loopback() || ip == IpAddr::from([10, 0, 0, 5]);
    let ask = service("a", "agent", 8080);
    for ip in ["127.0.0.1", "10.0.0.5", "0.0.0.0", "::ffff:10.0.0.5", "::1"] {
        let verdict = at(&policy, &ask, ip);
        assert!(!verdict.allowed, "{ip}");
        assert!(
            verdict.reason.contains("of this agent itself"),
            "{}",
            verdict.reason
        );
    }
    assert!(passes(&policy, &ask, "10.0.0.6"), "another machine's 8080");
    assert!(passes(&policy, &service("a", "b", 8081), "10.0.0.5"));
    let udp = Ask {
        protocol: Protocol::Udp,
        ..ask
    };
    assert!(passes(&policy, &udp, "10.0.0.5"), "it listens on TCP");
    let own = origin("localhost:8080");
    assert!(!at(&policy, &to(Target::Origin(&own)), "127.0.0.1").allowed);
    let local = Ask {
        port: Some(8080),
        ..to(Target::Local)
    };
    assert!(!at(&policy, &local, "127.0.0.1").allowed);
    // Who configures a forward to it means it.
    assert!(at(&policy, &to(Target::Forward(&own)), "127.0.0.1").allowed);
}

#[test]
fn local_targets_of_json_tunnels_hang_on_their_setting() {
    let ask = to(Target::Local);
    let policy = without_file();
    assert!(!policy.by_name(&ask).allowed);
    let on = |rules: Option<&str>| {
        let settings = Settings {
            local_targets: true,
            ..Settings::default()
        };
        let policy = Policy::open(settings).expect("no file");
        *policy.rules.write() = rules.map(|text| Arc::new(file::parse(text).expect(text)));
        policy
    };
    assert!(passes(&on(None), &ask, "127.0.0.1"));
    assert!(!at(&on(None), &ask, "169.254.169.254").allowed);
    // The setting counts as a rule, the last one.
    assert!(passes(&on(Some("rules: []")), &ask, "127.0.0.1"));
    let denied = on(Some("rules: [{action: deny, addresses: [127.0.0.0/8]}]"));
    assert!(!passes(&denied, &ask, "127.0.0.1"));
}

#[test]
fn tt14_a_service_that_points_outside_needs_a_rule_that_names_where() {
    let ask = Ask {
        target: Target::ExternalService("db.rds.example.test."),
        ..service("prod", "db", 5432)
    };
    let verdict = without_file().by_name(&ask);
    assert!(!verdict.allowed);
    assert!(
        verdict.reason.contains("outside the cluster"),
        "{}",
        verdict.reason
    );
    for unnamed in [
        "rules: [{action: allow}]",
        "rules: [{action: allow, addresses: [203.0.113.0/24]}]",
    ] {
        assert!(!with_rules(unnamed).by_name(&ask).allowed);
    }
    let policy = with_rules("rules: [{action: allow, external_names: ['*.rds.example.test']}]");
    assert!(passes(&policy, &ask, "203.0.113.5"));
    assert!(
        !at(&policy, &ask, "127.0.0.1").allowed,
        "that is another matter"
    );
    // The condition holds for such Services only.
    assert!(!policy.by_name(&service("prod", "db", 5432)).allowed);
    let other = Ask {
        target: Target::ExternalService("db.example.test"),
        ..ask
    };
    assert!(!policy.by_name(&other).allowed);
}

#[test]
fn a_dry_run_only_says_what_it_would_do() {
    let policy =
        with_rules("mode: dry-run\nrules: [{name: db, action: allow, services: [postgres]}]");
    let good = policy.by_name(&service("a", "postgres", 1));
    assert_eq!((good.allowed, good.dry_run), (true, None));
    let other = policy.by_name(&service("a", "web", 1));
    assert!(other.allowed);
    assert_eq!(other.dry_run.as_deref(), Some("no rule allows it"));
    // What is denied without a file stays denied.
    let policy = with_rules("mode: dry-run\nrules: [{action: allow, addresses: [127.0.0.0/8]}]");
    let verdict = at(&policy, &service("a", "x", 1), "127.0.0.1");
    assert!(!verdict.allowed);
    assert_eq!(verdict.dry_run.as_deref(), Some("allowed by rule 1"));
}
