//! How another machine joins this k3s cluster (control-channel.md §7.1). It carries
//! the join token, so it is sent only where `agent.report_worker_join` says so, and
//! never logged (T37).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::wire::from_agent::WorkerJoin;

/// Reads the node token of k3s; `None` when this is no k3s server.
pub fn worker_join(token_file: &Path, server_ip: &str) -> Option<WorkerJoin> {
    if server_ip.is_empty() || server_ip == "0.0.0.0" {
        return None;
    }
    let mut token = String::new();
    let file = File::open(token_file).ok()?;
    file.take(MAX_TOKEN).read_to_string(&mut token).ok()?;
    let token = token.trim();
    if token.is_empty() {
        return None;
    }
    let host = if server_ip.contains(':') {
        format!("[{server_ip}]")
    } else {
        server_ip.to_owned()
    };
    let server_url = format!("https://{host}:6443");
    let command = |installer: &str| {
        format!(
            "curl -fsSL {installer} | sudo env K3S_URL={} K3S_TOKEN={} NODE_TYPE='agent' sh -",
            quoted(&server_url),
            quoted(token)
        )
    };
    Some(WorkerJoin {
        commands: INSTALLERS.map(command),
        env: BTreeMap::from([
            ("K3S_TOKEN", token.to_owned()),
            ("K3S_URL", server_url.clone()),
            ("NODE_TYPE", "agent".to_owned()),
        ]),
        generated_at: crate::wire::now_rfc3339(),
        provider: "k3s",
        server_url,
    })
}

/// Single-quoted for a shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// Where k3s keeps its node token.
pub const NODE_TOKEN: &str = "/var/lib/rancher/k3s/server/node-token";

const INSTALLERS: [&str; 2] = [
    "https://get.pipeops.dev/k8-install.sh",
    "https://get.k3s.io",
];

const MAX_TOKEN: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_quoted_for_the_shell() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("node-token");
        assert!(worker_join(&file, "10.0.0.1").is_none());
        std::fs::write(&file, "K10a'b::server:x\n").expect("file");
        assert!(worker_join(&file, "0.0.0.0").is_none());
        let join = worker_join(&file, "fd00::1").expect("a k3s server");
        assert_eq!(join.server_url, "https://[fd00::1]:6443");
        assert_eq!(join.env["K3S_TOKEN"], "K10a'b::server:x");
        assert!(join.commands[1].contains(r"K3S_TOKEN='K10a'\''b::server:x'"));
    }
}
