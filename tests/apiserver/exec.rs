//! `kubectl exec` and `kubectl attach`.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::api_server::shared;
use crate::kubectl::{Ended, Kubectl};
use crate::wait_until;
use crate::way::Way;

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_command_ends_with_its_code_and_two_outputs() {
    let way = Way::new("exec-code");
    let script = "echo said; echo complained >&2; exit 7";
    let ended = way
        .kubectl()
        .run(&["exec", "box", "--", "sh", "-c", script]);
    assert_eq!(ended.code, Some(7), "{}", ended.err);
    assert_eq!(ended.out, "said\n");
    assert_eq!(
        ended.err,
        "complained\ncommand terminated with exit code 7\n"
    );
    let good = way.kubectl().run(&[
        "exec",
        "box",
        "-c",
        "sidecar",
        "--",
        "printenv",
        "CONTAINER",
    ]);
    assert_eq!((good.code, good.err.as_str()), (Some(0), ""));
    assert_eq!(good.out, format!("{}/box/sidecar\n", way.namespace));
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_command_hears_all_of_its_input_and_its_end() {
    let way = Way::new("exec-input");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let lines = (0..400_000).fold(String::new(), |mut all, number| {
        let _ = writeln!(all, "line {number}");
        all
    });
    file.write_all(lines.as_bytes()).expect("written");
    let echo = way
        .kubectl()
        .run_with(file.path(), &["exec", "-i", "box", "--", "cat"]);
    assert_eq!((echo.code, echo.err.as_str()), (Some(0), ""));
    assert!(
        echo.out == lines,
        "{} of {} bytes",
        echo.out.len(),
        lines.len()
    );
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_terminal_is_resized_and_interrupted() {
    let way = Way::new("exec-terminal");
    let script = "echo on $(tty); while :; do stty size; sleep 0.1; done";
    let kubectl = way.kubectl();
    let mut terminal =
        kubectl.on_terminal(&["exec", "-it", "box", "--", "sh", "-c", script], 100, 40);
    terminal.shows("on /dev/pts/");
    terminal.shows("40 100\r\n");
    terminal.resize(132, 50);
    terminal.shows("50 132\r\n");
    // Ctrl-C, for the program on the other terminal: 128 + SIGINT.
    terminal.types("\u{3}");
    terminal.shows("^C");
    assert_eq!(terminal.end().code(), Some(130));
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_shell_is_typed_to() {
    let way = Way::new("exec-shell");
    let kubectl = way.kubectl();
    let mut terminal = kubectl.on_terminal(&["exec", "-it", "box", "--", "sh"], 80, 24);
    terminal.types("echo $((6 * 7))\n");
    terminal.shows("42\r\n");
    terminal.types("exit 3\n");
    terminal.shows("command terminated with exit code 3");
    assert_eq!(terminal.end().code(), Some(3));
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_command_ends_when_its_client_is_killed() {
    let way = Way::new("exec-killed");
    let script = "echo begun; sleep 600";
    let kubectl = way.kubectl();
    let mut command = kubectl.start(&["exec", "box", "--", "sh", "-c", script]);
    command.line_with("begun");
    command.signal("KILL");
    wait_until("its end on the node", || way.on_node("exec-end") == 1);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn attached_to_a_process_that_goes_on() {
    let way = Way::new("attach");
    let kubectl = way.kubectl();
    let attach = || kubectl.start_listening(&["attach", "-i", "box", "-c", "app"]);
    let mut first = attach();
    first.say("one");
    for _ in 0..2 {
        // In either order.
        first.line(|line| ["heard one", "complaint about one"].contains(&line));
    }
    first.signal("KILL");
    wait_until("the first has left", || way.on_node("attach-end") == 1);

    let mut second = attach();
    second.say("two");
    second.line_with("heard two");
    second.say("quit");
    let (status, text) = second.end();
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(!text.contains("one"), "{text}");
}

/// In the API server's own words.
#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn who_may_not_is_told_so() {
    let api = shared();
    let namespace = api.namespace("exec-forbidden");
    api.pod(&namespace, "box");
    let token = api.facts.reader_token.clone();
    let direct = Kubectl::at(
        &api.facts.kube,
        &api.facts.server,
        &api.facts.ca_file,
        &token,
    );
    let direct = direct.within(&namespace);
    let way = Way::with_token(api, namespace.clone(), token);
    for line in [
        &["exec", "box", "--", "true"][..],
        &["attach", "box"],
        &["port-forward", "box", ":80"],
    ] {
        // Refused a WebSocket, kubectl asks for SPDY, by POST. The API server refuses
        // that as well, by the plane kubectl is told once more what it was refused at first.
        let first = |ended: Ended| ended.err.replace("cannot create", "cannot get");
        let (told, heard) = (first(direct.run(line)), first(way.kubectl().run(line)));
        assert_eq!(heard, told);
        let forbidden = "pods \"box\" is forbidden: \
             User \"system:serviceaccount:default:reader\" cannot get resource";
        assert!(heard.contains(forbidden), "{line:?}: {heard}");
    }
    // What isn't there is said by the API server, too.
    let line = ["exec", "nobody", "--", "true"];
    let (told, heard) = (direct.run(&line), way.kubectl().run(&line));
    assert_eq!((heard.code, heard.err), (told.code, told.err));
}
