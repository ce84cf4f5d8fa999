//! What `register` says about this machine (control-channel.md §6.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::{fs, thread};

use crate::identity;

/// The machine, read once at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub hostname: String,
    /// Address of the interface that leads outside; `0.0.0.0` when there is none.
    pub server_ip: String,
    pub cpu_cores: u64,
    /// GiB, truncated.
    pub memory_gb: u64,
    /// Size of the root file system in GiB, truncated.
    pub disk_gb: u64,
    pub os: String,
}

impl Host {
    /// Reads `/proc`, os-release and the root file system. What can't be read is
    /// zero, and then left out of the message.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            hostname: identity::hostname(),
            server_ip: primary_address().to_string(),
            cpu_cores: cpu_cores(&text("/proc/cpuinfo")),
            memory_gb: memory_gb(&text("/proc/meminfo")),
            disk_gb: disk_gb(Path::new("/")),
            os: pretty_name(&text("/etc/os-release"))
                .or_else(|| pretty_name(&text("/usr/lib/os-release")))
                .unwrap_or_else(|| "linux".to_owned()),
        }
    }
}

fn cpu_cores(cpuinfo: &str) -> u64 {
    let listed = cpuinfo
        .lines()
        .filter(|line| {
            line.split(':')
                .next()
                .is_some_and(|n| n.trim() == "processor")
        })
        .count();
    match listed {
        // Some architectures list nothing.
        0 => thread::available_parallelism().map_or(0, |n| n.get() as u64),
        listed => listed as u64,
    }
}

fn memory_gb(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()
    });
    total.unwrap_or(0) / (1024 * 1024)
}

fn disk_gb(root: &Path) -> u64 {
    rustix::fs::statvfs(root).map_or(0, |stat| {
        stat.f_blocks.saturating_mul(stat.f_frsize) / (1024 * 1024 * 1024)
    })
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?;
    let value = value.trim_matches(['"', '\'']).trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// The source address that the system would choose towards the outside. Connecting
/// a UDP socket sends nothing; the addresses are documentation's (RFC 5737, 3849).
fn primary_address() -> IpAddr {
    let towards = |from: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0)).ok()?;
        socket.connect(SocketAddr::new(to, 9)).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_unspecified() && !address.is_loopback()).then_some(address)
    };
    let v4 = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(192, 0, 2, 1));
    let v6 = (
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    );
    towards(v4.0.into(), v4.1.into())
        .or_else(|| towards(v6.0.into(), v6.1.into()))
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted() {
        let cpuinfo = "processor\t: 0\nmodel name\t: processor of sorts\n\nprocessor\t: 1\n";
        assert_eq!(cpu_cores(cpuinfo), 2);
        assert!(cpu_cores("") > 0);
    }

    #[test]
    fn memory_is_truncated_to_gib() {
        let meminfo = "MemFree: 1 kB\nMemTotal:       24656912 kB\n";
        assert_eq!(memory_gb(meminfo), 23);
        assert_eq!(memory_gb("MemTotal: many"), 0);
    }

    #[test]
    fn the_name_of_the_system() {
        let text = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        let name = pretty_name(text);
        assert_eq!(name.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(pretty_name("PRETTY_NAME=\"\"\nNAME=x"), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let host = Host::read();
        assert!(host.cpu_cores > 0 && !host.os.is_empty());
        assert!(host.server_ip.parse::<IpAddr>().is_ok());
    }
}
