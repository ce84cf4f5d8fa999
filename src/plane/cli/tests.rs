use super::*;
use crate::plane::tests::house::House;

fn agent(data: &Path) -> Command {
    Command::CreateToken(CreateToken {
        data: data.to_owned(),
        role: Role::Agent {
            cluster: "edge".into(),
        },
        label: Some("mine".into()),
    })
}

fn done(command: &Command) -> Result<Shown, PlaneError> {
    let (data, request) = request(command)?;
    shown(admin::ask(data, &request)?, command)
}

#[test]
fn a_token_stands_alone_on_standard_output() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path();
    let made = done(&agent(data)).expect("made");
    assert_eq!((made.text.len(), made.text.lines().count()), (69, 1));
    let data = data.to_owned();
    let list = done(&Command::ListTokens { data: data.clone() })
        .expect("listed")
        .text;
    assert!(
        list.contains("agent of edge   mine") && !list.contains("ppa_"),
        "{list}"
    );
    let id = list.lines().nth(1).and_then(|line| line.split(' ').next());
    let id = id.expect("an id").to_owned();
    assert!(made.note.contains(&id));
    let revoke = Command::RevokeToken { data, id };
    assert!(
        done(&revoke)
            .expect("revoked")
            .text
            .contains("agent of edge")
    );
    assert!(matches!(done(&revoke), Err(PlaneError::NoSuchToken)));
}

#[test]
fn a_bad_name_is_an_error_before_anything_is_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("new");
    let role = Role::User {
        clusters: Some(vec!["a/b".into()]),
        read_only: false,
    };
    let command = Command::CreateToken(CreateToken {
        data: data.clone(),
        role,
        label: None,
    });
    assert!(matches!(done(&command), Err(PlaneError::Name(_))));
    assert!(!data.exists());
}

fn expose(data: &Path, kind: &str, entry: &str) -> Command {
    Command::Expose(Expose {
        data: data.to_owned(),
        kind: kind.into(),
        entry: entry.into(),
        cluster: "edge".into(),
        service: "postgres.default:5432".into(),
    })
}

fn tunnels(data: &Path) -> String {
    let data = data.to_owned();
    done(&Command::Tunnels { data }).expect("listed").text
}

#[test]
fn what_is_exposed_without_a_running_plane_waits_for_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path();
    done(&agent(data)).expect("made");
    let exposed = done(&expose(data, "http", "shop.test")).expect("exposed");
    assert_eq!(
        exposed.text,
        "http shop.test leads to postgres.default:5432 of edge\n"
    );
    assert!(exposed.note.contains("when the plane runs"));
    assert!(tunnels(data).contains("the plane doesn't run"));
    let again = done(&expose(data, "http", "Shop.Test")).err();
    let again = again.expect("taken").to_string();
    assert!(again.contains("plane unexpose http shop.test"), "{again}");
    let unexpose = Command::Unexpose {
        data: data.to_owned(),
        kind: "http".into(),
        entry: "shop.test".into(),
    };
    assert_eq!(
        done(&unexpose).expect("closed").text,
        "closed http shop.test\n"
    );
    assert!(matches!(done(&unexpose), Err(PlaneError::NotExposed(_))));
    for (kind, entry) in [("tcp", "0"), ("http", "a/b")] {
        let error = done(&expose(data, kind, entry)).err().expect("refused");
        assert!(error.to_string().contains("write"), "{error}");
    }
}

/// The port of another listener says what is wrong; one of ours is closed again.
#[test]
fn exposing_beside_a_running_plane() {
    let house = House::new();
    let data = house.config.data_dir.clone();
    let busy = house.plane.addr().to_string();
    let error = done(&expose(&data, "tcp", &busy)).err().expect("busy");
    assert!(error.to_string().contains("cannot listen on"), "{error}");
    let [.., high, low] = std::process::id().to_be_bytes();
    let entry = format!("127.{}.{low}.254:15432", high | 128);
    let opened = done(&expose(&data, "tcp", &entry)).expect("opened");
    // What was mistyped, perhaps.
    assert_eq!(opened.note, "No cluster has registered as \"edge\" yet.\n");
    assert!(tunnels(&data).contains("agent away"));
    drop(std::net::TcpStream::connect(&entry).expect("it listens"));
    let unexpose = Command::Unexpose {
        data,
        kind: "tcp".into(),
        entry: entry.clone(),
    };
    done(&unexpose).expect("closed");
    let error = std::net::TcpStream::connect(&entry).expect_err("closed");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn beside_a_running_plane() {
    let house = House::new();
    let data = house.config.data_dir.clone();
    let token = done(&agent(&data)).expect("made").text;
    let mut agent = house
        .agent("/api/v1/clusters/agent/ws", token.trim())
        .expect("let in");
    agent.answer_hello(true);
    agent.register("edge", "agent-1");
    agent.expect("register_success");
    house.attached("edge");
    let exposed = done(&expose(&data, "http", "shop.test")).expect("exposed");
    assert_eq!(exposed.note, "");
    // It has said nothing of tunnels.
    assert!(tunnels(&data).contains("the agent has no tunnels"));
    let table = done(&Command::Clusters { data }).expect("listed").text;
    let row = table.lines().nth(1).expect("a cluster");
    assert!(row.starts_with("edge") && row.contains("for ") && row.contains("v1.36.3"));
}
