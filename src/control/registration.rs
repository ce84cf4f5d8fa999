//! The `register` message (control-channel.md §6.1 to §6.3).

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::facts::Facts;
use super::host::Host;
use crate::config::Secret;
use crate::wire;
use crate::wire::from_agent::{Features, HttpRegister, Register, ServerSpecs, TunnelPortConfig};

/// Who registers: what stays the same for the process's life.
#[derive(Clone, Debug)]
pub struct Registrant {
    pub agent_id: String,
    pub agent_version: String,
    /// `agent.cluster_name`.
    pub cluster_name: String,
    /// `agent.labels`.
    pub labels: BTreeMap<String, String>,
    pub host: Host,
    /// There is a Kubernetes API (provider `bare-metal`), or none (`agent`), until
    /// region detection exists (decisions.md §6.1).
    pub has_cluster: bool,
}

/// One registration: with the stored cluster id, or without.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    pub cluster_id: Option<String>,
    pub facts: Facts,
    pub service_token: Option<Secret>,
    /// The cluster's own authority (PEM); goes out in HTTP mode alone (T17).
    pub ca_certificates: Option<Vec<u8>>,
}

impl Registrant {
    /// Calls `with` with the payload, which borrows from both.
    pub fn payload<T>(&self, attempt: &Attempt, with: impl FnOnce(&Register<'_>) -> T) -> T {
        let mut labels: BTreeMap<&str, &str> = self
            .labels
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        labels.insert("hostname", &self.host.hostname);
        labels.insert("agent.pipeops.io/version", &self.agent_version);
        let timestamp = whole_seconds();
        let mode = match attempt.cluster_id {
            Some(_) => "resume",
            None => "fresh",
        };
        let metadata = BTreeMap::from([
            ("agent_mode", "vm-agent"),
            ("registration_mode", mode),
            ("registration_timestamp", timestamp.as_str()),
        ]);
        with(&Register {
            agent_id: &self.agent_id,
            agent_version: &self.agent_version,
            cloud_provider: if self.has_cluster {
                "bare-metal"
            } else {
                "agent"
            },
            cluster_id: attempt.cluster_id.as_deref(),
            features: Features::default(),
            hostname: &self.host.hostname,
            k8s_service_token: attempt.service_token.as_ref().map(Secret::expose),
            k8s_version: &attempt.facts.k8s_version,
            labels,
            metadata,
            name: &self.cluster_name,
            region: "unknown-country",
            server_ip: &self.host.server_ip,
            server_specs: ServerSpecs {
                cpu_cores: self.host.cpu_cores,
                memory_gb: self.host.memory_gb,
                disk_gb: self.host.disk_gb,
                os: &self.host.os,
            },
            tunnel_port_config: TunnelPortConfig::default(),
        })
    }

    /// The same for HTTP mode, which has a few fields more (control-channel.md §12.8).
    pub fn http_payload<T>(
        &self,
        attempt: &Attempt,
        with: impl FnOnce(&HttpRegister<'_>) -> T,
    ) -> T {
        let ca = attempt.ca_certificates.as_deref();
        // A whole system's bundle is no cluster's authority, and a body too large.
        let ca = ca.filter(|pem| pem.len() <= MAX_CA).unwrap_or_default();
        let ca = base64_simd::STANDARD.encode_to_string(ca);
        self.payload(attempt, |register| {
            with(&HttpRegister {
                cluster_cert_data: &ca,
                cluster_name: register.name,
                last_seen: wire::now_rfc3339(),
                registry_region: REGISTRY_REGION,
                server_code: register.server_ip,
                status: "registering",
                register,
            })
        })
    }

    /// `req_<unix nanoseconds>_<agent id>` (control-channel.md §3).
    pub fn request_id(&self) -> String {
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        format!("req_{nanos}_{}", self.agent_id)
    }
}

/// A cluster's authority is one certificate, or a few while it is replaced: of 2 KiB
/// each.
const MAX_CA: usize = 64 * 1024;

/// gateway-proxy.md §12.1: what holds until region detection exists.
const REGISTRY_REGION: &str = "us";

fn whole_seconds() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second())
        .unwrap_or(now)
        .to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn registrant() -> Registrant {
        Registrant {
            agent_id: "bench-agent".into(),
            agent_version: "1.0.0-dev".into(),
            cluster_name: "bench".into(),
            labels: BTreeMap::new(),
            host: Host {
                hostname: "node-1".into(),
                server_ip: "0.0.0.0".into(),
                cpu_cores: 2,
                memory_gb: 23,
                disk_gb: 251,
                os: "Debian GNU/Linux 12 (bookworm)".into(),
            },
            has_cluster: true,
        }
    }

    fn payload(registrant: &Registrant, attempt: &Attempt) -> Value {
        registrant.payload(attempt, |payload| {
            serde_json::to_value(payload).expect("JSON")
        })
    }

    /// What the original sent (captures, line 3), but for the time.
    #[test]
    fn the_payload_is_the_originals() {
        let attempt = Attempt {
            cluster_id: None,
            facts: Facts {
                k8s_version: "v1.36.2".into(),
                ..Facts::default()
            },
            service_token: Some(Secret::new("bench-kube-token")),
            ca_certificates: Some(b"never over the WebSocket (T17)".to_vec()),
        };
        let mut got = payload(&registrant(), &attempt);
        let time = got["metadata"]["registration_timestamp"].take();
        let time = time.as_str().expect("a time");
        assert!(
            time.len() == 20 && time.ends_with('Z'),
            "{time}: whole seconds"
        );
        let want = json!({
            "agent_id": "bench-agent", "agent_version": "1.0.0-dev", "cloud_provider": "bare-metal",
            "features": {"supports_binary_protocol": true, "supports_compression": true,
                "supports_gateway": true, "supports_response_streaming": true,
                "supports_streaming": true, "supports_websocket_proxy": true},
            "hostname": "node-1", "k8s_service_token": "bench-kube-token", "k8s_version": "v1.36.2",
            "labels": {"agent.pipeops.io/version": "1.0.0-dev", "hostname": "node-1"},
            "metadata": {"agent_mode": "vm-agent", "registration_mode": "fresh",
                "registration_timestamp": null},
            "name": "bench", "region": "unknown-country", "server_ip": "0.0.0.0",
            "server_specs": {"cpu_cores": 2, "memory_gb": 23, "disk_gb": 251,
                "os": "Debian GNU/Linux 12 (bookworm)"},
            "tunnel_port_config": {"kubernetes_api": 6443, "kubelet": 10250, "agent_http": 8080},
        });
        assert_eq!(got, want);
    }

    #[test]
    fn a_stored_id_makes_it_a_resume() {
        let attempt = Attempt {
            cluster_id: Some("c-1".into()),
            ..Attempt::default()
        };
        let got = payload(&registrant(), &attempt);
        assert_eq!(got["cluster_id"], "c-1");
        assert_eq!(got["metadata"]["registration_mode"], "resume");
        // What isn't known is empty or absent, never made up.
        assert_eq!(got["k8s_version"], "");
        assert!(got.get("k8s_service_token").is_none());
    }

    /// control-channel.md §12.8: all of the message, flat, and more.
    #[test]
    fn over_http_there_are_more_fields() {
        let attempt = Attempt {
            ca_certificates: Some(b"the CA".to_vec()),
            ..Attempt::default()
        };
        let mut registrant = registrant();
        registrant.host.server_ip = "203.0.113.9".into();
        let mut got = registrant.http_payload(&attempt, |payload| {
            serde_json::to_value(payload).expect("JSON")
        });
        let time = got["last_seen"].take();
        let time: jiff::Timestamp = time.as_str().expect("a time").parse().expect("RFC 3339");
        assert!(time.duration_until(jiff::Timestamp::now()).as_secs() < 60);
        got["metadata"]["registration_timestamp"].take();
        let mut want = payload(&registrant, &attempt);
        want["metadata"]["registration_timestamp"].take();
        let more = json!({
            "cluster_cert_data": "dGhlIENB", "cluster_name": "bench", "last_seen": null,
            "registry_region": "us", "server_code": "203.0.113.9", "status": "registering",
        });
        let more = more.as_object().expect("fields").clone();
        want.as_object_mut().expect("fields").extend(more);
        assert_eq!(got, want);
        let attempt = Attempt {
            ca_certificates: Some(vec![b'x'; MAX_CA + 1]),
            ..Attempt::default()
        };
        registrant.http_payload(&attempt, |payload| {
            assert_eq!(payload.cluster_cert_data, "");
        });
    }

    #[test]
    fn configured_labels_do_not_hide_ours() {
        let mut registrant = registrant();
        registrant.labels.insert("hostname".into(), "lie".into());
        registrant.labels.insert("zone".into(), "b".into());
        registrant.has_cluster = false;
        let got = payload(&registrant, &Attempt::default());
        let want =
            json!({"agent.pipeops.io/version": "1.0.0-dev", "hostname": "node-1", "zone": "b"});
        assert_eq!(got["labels"], want);
        assert_eq!(got["cloud_provider"], "agent");
    }

    #[test]
    fn request_ids_have_the_originals_form() {
        let id = registrant().request_id();
        let nanos = id
            .strip_prefix("req_")
            .and_then(|rest| rest.strip_suffix("_bench-agent"));
        let nanos: u128 = nanos.expect(&id).parse().expect("a number");
        assert!(nanos > 1_700_000_000_000_000_000);
    }
}
