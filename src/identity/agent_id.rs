//! The agent id (config-and-state.md §8): what a host that lost its state comes
//! up with again.

use std::path::Path;
use std::{env, fs};

use sha2::{Digest, Sha256};

use super::hex;

/// What the id is made from; what isn't available is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Always part of the id, even when it is empty.
    pub hostname: String,
    pub machine_id: Option<String>,
    /// Hardware address of the first interface that is up, in lower-case colon notation.
    pub hardware_address: Option<String>,
    pub pod_uid: Option<String>,
    pub pod_namespace: Option<String>,
    pub pod_name: Option<String>,
}

impl Machine {
    /// This machine.
    pub fn read() -> Self {
        let from_env = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let root = Path::new("/");
        Self {
            hostname: hostname(),
            machine_id: machine_id(root),
            hardware_address: hardware_address(&root.join("sys/class/net")),
            pod_uid: from_env("POD_UID"),
            pod_namespace: from_env("POD_NAMESPACE"),
            pod_name: from_env("POD_NAME"),
        }
    }
}

/// `agent-` and the first eight bytes of a SHA-256 over the parts, joined by `|`.
pub fn agent_id(machine: &Machine) -> String {
    let mut parts = vec![machine.hostname.as_str()];
    let optional = [
        &machine.machine_id,
        &machine.hardware_address,
        &machine.pod_uid,
        &machine.pod_namespace,
        &machine.pod_name,
    ];
    parts.extend(optional.into_iter().filter_map(Option::as_deref));
    let digest = Sha256::digest(parts.join("|").as_bytes());
    format!("agent-{}", hex(&digest[..8]))
}

/// The host name of the system; empty when it has none.
pub(crate) fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn machine_id(root: &Path) -> Option<String> {
    ["etc/machine-id", "var/lib/dbus/machine-id"]
        .into_iter()
        .find_map(|name| {
            let text = fs::read_to_string(root.join(name)).ok()?;
            let text = text.trim();
            (!text.is_empty()).then(|| text.to_owned())
        })
}

/// `net` is `/sys/class/net`: one folder per interface, with its index, flags and address.
fn hardware_address(net: &Path) -> Option<String> {
    let mut interfaces: Vec<(u32, String)> = fs::read_dir(net)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let read = |name: &str| {
                let text = fs::read_to_string(entry.path().join(name)).ok()?;
                Some(text.trim().to_ascii_lowercase())
            };
            let flags = u32::from_str_radix(read("flags")?.trim_start_matches("0x"), 16).ok()?;
            if flags & IFF_UP == 0 || flags & IFF_LOOPBACK != 0 {
                return None;
            }
            let address = read("address")?;
            // Tunnels and the like have none, or an address of zeros only by name.
            (!address.is_empty()).then_some(())?;
            Some((read("ifindex")?.parse().ok()?, address))
        })
        .collect();
    interfaces.sort();
    interfaces.into_iter().next().map(|(_, address)| address)
}

const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_in_order_and_missing_ones_skipped() {
        // Reference values by `printf '%s' … | sha256sum | cut -c1-16`.
        let mut machine = Machine {
            hostname: "node-1".into(),
            ..Machine::default()
        };
        assert_eq!(agent_id(&machine), format!("agent-{}", sha("node-1")));
        machine.machine_id = Some("abc".into());
        machine.pod_name = Some("p".into());
        assert_eq!(agent_id(&machine), format!("agent-{}", sha("node-1|abc|p")));
        machine.hostname.clear();
        assert_eq!(agent_id(&machine), format!("agent-{}", sha("|abc|p")));
    }

    #[test]
    fn a_known_digest() {
        let machine = Machine {
            hostname: "abc".into(),
            ..Machine::default()
        };
        // FIPS 180-4: SHA-256("abc") = ba7816bf 8f01cfea …
        assert_eq!(agent_id(&machine), "agent-ba7816bf8f01cfea");
    }

    fn sha(text: &str) -> String {
        hex(&Sha256::digest(text.as_bytes())[..8])
    }

    fn interface(net: &Path, name: &str, fields: [&str; 3]) {
        let folder = net.join(name);
        fs::create_dir_all(&folder).expect("folder");
        for (file, text) in ["ifindex", "flags", "address"].into_iter().zip(fields) {
            fs::write(folder.join(file), format!("{text}\n")).expect("file");
        }
    }

    #[test]
    fn the_first_interface_that_is_up_and_has_an_address() {
        let net = tempfile::tempdir().expect("folder");
        interface(net.path(), "lo", ["1", "0x9", "00:00:00:00:00:00"]);
        interface(net.path(), "down0", ["2", "0x1002", "02:00:00:00:00:02"]);
        interface(net.path(), "tun0", ["3", "0x10d1", ""]);
        interface(net.path(), "eth9", ["10", "0x1003", "02:00:00:00:00:0A"]);
        interface(net.path(), "wlan0", ["9", "0x1003", "02:00:00:00:00:09"]);
        let address = hardware_address(net.path());
        assert_eq!(address.as_deref(), Some("02:00:00:00:00:09"));
        assert_eq!(hardware_address(&net.path().join("none")), None);
    }

    #[test]
    fn the_first_machine_id_that_is_there() {
        let root = tempfile::tempdir().expect("folder");
        assert_eq!(machine_id(root.path()), None);
        let dbus = root.path().join("var/lib/dbus");
        fs::create_dir_all(&dbus).expect("folder");
        fs::write(dbus.join("machine-id"), " two \n").expect("file");
        assert_eq!(machine_id(root.path()).as_deref(), Some("two"));
        fs::create_dir_all(root.path().join("etc")).expect("folder");
        fs::write(root.path().join("etc/machine-id"), "one\n").expect("file");
        assert_eq!(machine_id(root.path()).as_deref(), Some("one"));
    }

    #[test]
    fn this_machine_has_a_stable_id() {
        assert_eq!(agent_id(&Machine::read()), agent_id(&Machine::read()));
    }
}
