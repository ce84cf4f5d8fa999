//! The command line, built from the table of keys.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::{self, Args, Key, Kind, Status, keys, sections};

/// The whole command line.
pub(super) fn command() -> Command {
    with_settings(Command::new("pipeops-agent"))
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Connects a Kubernetes cluster to its control plane over one \
             outbound WebSocket. Without a command it runs the agent.",
        )
        .after_help(AFTER_HELP)
        .args_override_self(true)
        .disable_help_subcommand(true)
        .subcommand(with_settings(Command::new("run")).about("Run the agent (the default)"))
        .subcommand(demo())
        .subcommand(plane())
        .subcommand(
            Command::new("config")
                .about("Check the configuration, or print its reference")
                .subcommand_required(true)
                .subcommand(
                    with_settings(Command::new("validate"))
                        .about("Report everything that is wrong with the configuration"),
                )
                .subcommand(Command::new("docs").about("Print all keys, as Markdown")),
        )
        .subcommand(Command::new("version").about("Print the version"))
        .subcommand(
            Command::new("completions")
                .about("Print a completion script for a shell")
                .arg(
                    Arg::new("shell")
                        .required(true)
                        .value_parser(value_parser!(clap_complete::Shell)),
                ),
        )
}

/// What the flags of `run` gave, over several levels: `--config x run --port 1`.
pub(super) fn settings(levels: &[&ArgMatches]) -> Args {
    let mut args = Args::default();
    for matches in levels {
        if let Ok(Some(path)) = matches.try_get_one::<PathBuf>("config") {
            args.config_file = Some(path.clone());
        }
        for key in keys().filter(|key| key.flag.is_some()) {
            if let Ok(Some(value)) = matches.try_get_one::<String>(key.name) {
                args.flags.insert(key.name, value.clone());
            }
        }
    }
    args
}

/// The names of all flags of a command and of those below it, with dashes.
pub(super) fn flags(command: &Command) -> Vec<String> {
    let mut names: Vec<String> = command
        .get_arguments()
        .filter_map(Arg::get_long)
        .map(|name| format!("--{name}"))
        .collect();
    names.extend(["--help".to_owned(), "--version".to_owned()]);
    names.extend(command.get_subcommands().flat_map(flags));
    names.sort();
    names.dedup();
    names
}

fn with_settings(command: Command) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("file")
        .value_parser(value_parser!(PathBuf))
        .help("Configuration file, YAML or JSON [default: searched, see below]");
    command.arg(config).args(keys().filter_map(argument))
}

fn argument(key: &'static Key) -> Option<Arg> {
    let flag = key.flag?;
    let title = sections()
        .iter()
        .find(|section| section.name == key.section())
        .map_or("Options", |section| section.title);
    let mut help = key.help.to_owned();
    let _ = write!(help, " [env: {}]", key.env_names().join(", "));
    if !key.default_text().is_empty() {
        let _ = write!(help, " [default: {}]", key.default_text());
    }
    let arg = Arg::new(key.name)
        .long(flag)
        .value_name(key.kind.word())
        .help(help)
        .help_heading(title)
        .action(ArgAction::Set)
        // Those without effect are in docs/configuration.md.
        .hide(key.status != Status::Effective);
    Some(match key.kind {
        // `--in-cluster` and `--in-cluster=true`, as the original's manifests have it.
        Kind::Bool(_) => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        _ => arg,
    })
}

fn demo() -> Command {
    Command::new("demo")
        .about("Show it all on this machine: plane, agent and a sample cluster in one process")
        .arg(switch("once").help("End after the steps, with exit code 0 or 1"))
        .arg(
            path("kubeconfig")
                .help("Use the cluster of this kubeconfig instead of the built-in sample"),
        )
        .arg(
            Arg::new("context")
                .long("context")
                .value_name("name")
                .help("Use this context of the kubeconfig"),
        )
        .arg(
            Arg::new("tunnel-size")
                .long("tunnel-size")
                .value_name("size")
                .value_parser(config::size)
                .help("How much is sent through the tunnel, each way (default 256MiB)"),
        )
        .arg(switch("keep").help("Leave the temporary folder in place"))
}

fn plane() -> Command {
    let run = |command: Command| {
        command
            .arg(data())
            .arg(
                Arg::new("listen")
                    .long("listen")
                    .value_name("address")
                    .default_value("127.0.0.1:8443")
                    .value_parser(value_parser!(SocketAddr))
                    .help("Address and port to listen on"),
            )
            .arg(
                path("tls-cert")
                    .requires("tls-key")
                    .help("Certificate chain (PEM); without it one is generated"),
            )
            .arg(path("tls-key").requires("tls-cert").help("Its key (PEM)"))
            .arg(
                Arg::new("tls-name")
                    .long("tls-name")
                    .value_name("name")
                    .action(ArgAction::Append)
                    .help("Further name in the generated certificate"),
            )
            .arg(
                Arg::new("http")
                    .long("http")
                    .value_name("address")
                    .default_value("127.0.0.1:8088")
                    .value_parser(value_parser!(SocketAddr))
                    .help("Where hosts that are exposed (`expose http`) are listened for"),
            )
            .arg(
                Arg::new("gateway-url")
                    .long("gateway-url")
                    .value_name("url")
                    .help("Where agents go once registered; by default /ws of the same host, none: they stay"),
            )
            .arg(
                Arg::new("log-level")
                    .long("log-level")
                    .value_name("level")
                    .default_value("info")
                    .value_parser(["error", "warning", "info", "debug", "trace"])
                    .help("What it logs, on standard error"),
            )
    };
    let create = Command::new("create")
        .about("Make a token and print it, once")
        .arg(data())
        .arg(
            Arg::new("role")
                .long("role")
                .value_name("role")
                .required(true)
                .value_parser(["agent", "user"])
                .help("agent registers one cluster; user reaches clusters"),
        )
        .arg(
            Arg::new("cluster")
                .long("cluster")
                .value_name("name")
                .action(ArgAction::Append)
                .help("Name of a cluster (several for a user)"),
        )
        .arg(switch("all").help("All clusters (user)"))
        .arg(switch("read-only").help("GET and HEAD only, no exec; it still reads all that the agent's ServiceAccount may read, Secrets included (user)"))
        .arg(
            Arg::new("label")
                .long("label")
                .value_name("text")
                .help("A note, shown by `token list`"),
        );
    let list = Command::new("list")
        .about("List the tokens, never their text")
        .arg(data());
    let revoke = Command::new("revoke")
        .about("Take a token back and end what runs on it")
        .arg(data())
        .arg(
            Arg::new("id")
                .required(true)
                .help("As `token list` shows it"),
        );
    run(Command::new("plane"))
        .about("Run the self-hosted control plane, or manage it")
        // `plane --data x token list` would silently look elsewhere.
        .args_conflicts_with_subcommands(true)
        .subcommand(run(Command::new("run")).about("Run the control plane (the default)"))
        .subcommand(
            Command::new("token")
                .about("Manage tokens")
                .subcommand_required(true)
                .subcommand(create)
                .subcommand(list)
                .subcommand(revoke),
        )
        .subcommand(
            Command::new("clusters")
                .about("List the clusters that are connected")
                .arg(data()),
        )
        .subcommand(expose())
        .subcommand(
            entry(Command::new("unexpose"))
                .about("Close what `expose` opened, and what runs through it")
                .arg(data()),
        )
        .subcommand(
            Command::new("tunnels")
                .about("List what is exposed, with its clients and bytes")
                .arg(data()),
        )
}

fn expose() -> Command {
    entry(Command::new("expose"))
        .about("Lead clients of the plane to a Service of a cluster, from now on")
        .arg(
            Arg::new("cluster")
                .long("cluster")
                .value_name("name")
                .required(true)
                .help("Name of the cluster"),
        )
        .arg(
            Arg::new("service")
                .long("service")
                .value_name("name.namespace:port")
                .required(true)
                .help("The Service, or name:port of a forward of the agent"),
        )
        .arg(data())
        .after_help(
            "Examples:\n  \
             pipeops-agent plane expose tcp 15432 --cluster c1 --service postgres.default:5432\n  \
             pipeops-agent plane expose udp 0.0.0.0:5353 --cluster c1 --service dns.infra:53\n  \
             pipeops-agent plane expose http shop.example.test --cluster c1 --service web.default:80\n\n\
             A port alone is opened on 127.0.0.1. Nobody is asked for a token there: whoever\n\
             reaches the port reaches the Service.",
        )
}

fn entry(command: Command) -> Command {
    command
        .arg(
            Arg::new("kind")
                .required(true)
                .value_name("kind")
                .value_parser(["tcp", "udp", "http"])
                .help("What clients speak"),
        )
        .arg(
            Arg::new("entry")
                .required(true)
                .value_name("port|address|host")
                .help("Where they come in: 15432, 0.0.0.0:15432, or a host for http"),
        )
}

fn data() -> Arg {
    path("data")
        .default_value("pipeops-plane")
        .help("Folder of the control plane's registry")
}

fn path(name: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("path")
        .value_parser(value_parser!(PathBuf))
}

fn switch(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue)
}

const AFTER_HELP: &str = "\
Examples:
  pipeops-agent demo
      See it work, with nothing but this binary.
  PIPEOPS_TOKEN=… pipeops-agent --cluster-name=prod
      Connect the cluster of this pod, or of the current kubeconfig.
  pipeops-agent --config=/etc/pipeops/config.yaml --in-cluster=true
      As the Kubernetes manifests start it.
  pipeops-agent config validate --config=config.yaml
      Check a configuration without connecting.

Without --config the first of these is read: $HOME/.pipeops-agent.yaml,
/etc/pipeops/config.yaml, /etc/pipeops/.pipeops-agent.yaml, config.yaml,
.pipeops-agent.yaml. Every flag has a key in it; flags go before environment
variables, those before the file. `pipeops-agent config docs` lists all keys.

Exit codes:
  0    ended well, or by SIGINT or SIGTERM
  1    wrong usage or configuration, registration refused, or failed otherwise
  2    ended by a defect of the program
  130, 143    ended at once by a second SIGINT or SIGTERM";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Args {
        let matches = command()
            .try_get_matches_from(std::iter::once(&"pipeops-agent").chain(line))
            .unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let mut levels = vec![&matches];
        levels.extend(matches.subcommand().map(|(_, below)| below));
        settings(&levels)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn switches_take_their_value_with_an_equals_sign_or_none() {
        for (flag, value) in [
            ("--in-cluster", "true"),
            ("--in-cluster=true", "true"),
            ("--in-cluster=F", "F"),
        ] {
            let args = parse(&[flag, "--port=1"]);
            assert_eq!(args.flags["kubernetes.in_cluster"], value);
            assert_eq!(args.flags["agent.port"], "1");
        }
    }

    #[test]
    fn a_repeated_flag_takes_its_last_value() {
        let args = parse(&[
            "--port",
            "1",
            "--in-cluster",
            "--port=2",
            "--in-cluster=false",
        ]);
        assert_eq!(args.flags["agent.port"], "2");
        assert_eq!(args.flags["kubernetes.in_cluster"], "false");
    }

    #[test]
    fn flags_count_before_and_after_run() {
        let args = parse(&[
            "--config",
            "a.yaml",
            "--port=1",
            "run",
            "--port=2",
            "--token=x",
        ]);
        assert_eq!(args.config_file, Some("a.yaml".into()));
        assert_eq!(args.flags["agent.port"], "2");
        assert_eq!(args.flags["pipeops.token"], "x");
    }

    #[test]
    fn every_flag_of_the_table_is_accepted() {
        for key in keys() {
            let Some(flag) = key.flag else { continue };
            let args = parse(&[&format!("--{flag}=1")]);
            assert_eq!(args.flags[key.name], "1", "{flag}");
        }
    }

    /// `--data` was ignored there, and a database made in the working directory.
    #[test]
    fn flags_of_plane_before_its_subcommand_are_an_error() {
        for line in [
            &["plane", "--data", "x", "run"][..],
            &["plane", "--data=x", "token", "list"],
            &["plane", "--listen=127.0.0.1:1", "clusters"],
        ] {
            let line = std::iter::once(&"pipeops-agent").chain(line);
            command().try_get_matches_from(line).expect_err("refused");
        }
        parse(&["plane", "--data", "x"]);
        parse(&["plane", "run", "--data", "x"]);
    }

    #[test]
    fn help_teaches() {
        let help = command().render_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "Control plane:",
            "Kubernetes:",
            "Logging:",
            "--pipeops-url",
            "PIPEOPS_TOKEN_FILE",
            "[default: https://api.pipeops.io]",
            "Examples:",
            "Exit codes:",
            "demo",
            "completions",
        ] {
            assert!(help.contains(part), "{part} in\n{help}");
        }
        assert!(!help.contains("--gateway-enabled"), "it has no effect yet");
    }
}
