//! An agent as in a pod of the cluster: in a mount namespace of its own, with the files
//! that a kubelet puts there.
//!
//! What a kubelet doesn't do here is a network of its own: neither CoreDNS nor kube-proxy
//! runs, and no address of a Service leads anywhere (no EndpointSlice may name loopback,
//! either). In their place stands the pod's `hosts`: the absolute names of Services, on
//! loopback.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::api_server::ApiServer;
use crate::process::binary;

/// Where names of Services end: not what an agent assumes of itself.
pub(crate) const DOMAIN: &str = "k8s.example.test";

/// An agent in a pod of this namespace, with this token of its ServiceAccount. `names`
/// are Services of the namespace.
pub(crate) fn agent(
    api: &ApiServer,
    (namespace, token): (&str, &str),
    names: &[&str],
    home: &Path,
    config: &Path,
) -> Command {
    let account = home.join("serviceaccount");
    fs::create_dir(&account).expect("made");
    fs::write(account.join("token"), token).expect("written");
    fs::copy(&api.facts.ca_file, account.join("ca.crt")).expect("copied");
    let mut hosts = "127.0.0.1 localhost\n".to_owned();
    for name in names {
        let _ = writeln!(hosts, "127.0.0.1 {name}.{namespace}.svc.{DOMAIN}.");
    }
    fs::write(home.join("hosts"), hosts).expect("written");
    let search = format!(
        "nameserver 127.0.0.1\nsearch {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\n\
         options ndots:5\n"
    );
    fs::write(home.join("resolv.conf"), search).expect("written");

    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--mount", "sh", "-euc", MOUNTS, "pod"])
        .args([home, &binary(), config]);
    let (host, port) = api.facts.server.rsplit_once(':').expect("host:port");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", home)
        .env(
            "KUBERNETES_SERVICE_HOST",
            host.trim_start_matches("https://"),
        )
        .env("KUBERNETES_SERVICE_PORT", port)
        .stdin(Stdio::null());
    command
}

/// `/run` is made anew, because the folder of ServiceAccounts is below it; what is there
/// of the name service (a link may lead there) is in the pod's own files.
const MOUNTS: &str = r#"
resolv=$(readlink -f /etc/resolv.conf)
mount -t tmpfs none /run
mkdir -p "$(dirname "$resolv")" /var/run/secrets/kubernetes.io
[ -e "$resolv" ] || : >"$resolv"
mount --bind "$1/resolv.conf" "$resolv"
mount --bind "$1/hosts" /etc/hosts
cp -R "$1/serviceaccount" /var/run/secrets/kubernetes.io/serviceaccount
exec "$2" --config "$3"
"#;
