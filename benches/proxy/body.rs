//! What the API server answers with: the text of a pod list, cut to size.
//!
//! Names, addresses and times differ from pod to pod, as in a cluster, so that it
//! compresses about as well as the real thing; it is the same in every run.

use std::fmt::Write as _;
use std::io::Read as _;

use flate2::Crc;
use flate2::read::GzDecoder;

/// How the body is declared; what is JSON is gzipped in form B by the rules of the
/// wire (control-channel.md §8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Json,
    Octets,
}

/// A body, and what is needed to know it again.
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    /// The last eight bytes of any gzip of it: CRC-32 and length.
    trailer: [u8; 8],
}

impl Body {
    pub(crate) fn of_size(size: usize) -> Self {
        let mut bytes = pod_list(size).into_bytes();
        bytes.truncate(size);
        let mut crc = Crc::new();
        crc.update(&bytes);
        let mut trailer = [0; 8];
        trailer[..4].copy_from_slice(&crc.sum().to_le_bytes());
        trailer[4..].copy_from_slice(&(size as u32).to_le_bytes());
        Self { bytes, trailer }
    }

    /// True if `text`, base64, is as long as these bytes from `offset` on have to be,
    /// and, if `thorough`, also says the same. The result is the number of bytes.
    pub(crate) fn matches(&self, text: &str, offset: usize, thorough: bool) -> Option<usize> {
        let length = decoded_length(text);
        let expected = self.bytes.get(offset..offset + length)?;
        if thorough && base64_simd::STANDARD.decode_to_vec(text).ok()? != expected {
            return None;
        }
        Some(length)
    }

    /// True if `text` is base64 of a gzip of these bytes: by its trailer, or, if
    /// `thorough`, by unpacking it.
    pub(crate) fn matches_gzip(&self, text: &str, thorough: bool) -> bool {
        if thorough {
            let Ok(packed) = base64_simd::STANDARD.decode_to_vec(text) else {
                return false;
            };
            let mut unpacked = Vec::with_capacity(self.bytes.len());
            let read = GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked);
            return read.is_ok() && unpacked == self.bytes;
        }
        let tail = text.len().saturating_sub(16);
        let tail = text.get(tail..).unwrap_or_default();
        base64_simd::STANDARD
            .decode_to_vec(tail)
            .is_ok_and(|end| end.ends_with(&self.trailer))
    }
}

fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// At least `size` bytes of a pod list.
fn pod_list(size: usize) -> String {
    let mut random = fastrand::Rng::with_seed(3);
    let mut text = String::with_capacity(size + 4096);
    text.push_str(r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"48211907"},"items":["#);
    while text.len() < size {
        let app = APPS[random.usize(..APPS.len())];
        let hash = format!("{:08x}", random.u32(..));
        let name = format!("{app}-{hash}-{:05x}", random.u32(..0x10_0000));
        let uid = format!(
            "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
            random.u32(..),
            random.u16(..),
            random.u16(..0x1000),
            random.u16(..0x1000),
            random.u64(..1 << 48)
        );
        let time = format!(
            "2026-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            random.u8(1..13),
            random.u8(1..29),
            random.u8(..24),
            random.u8(..60),
            random.u8(..60)
        );
        let (version, node, restarts) =
            (random.u32(40_000_000..), random.u8(1..20), random.u8(..4));
        let (pod_ip, host_ip) = (
            format!("10.42.{}.{}", random.u8(..), random.u8(1..)),
            format!("192.168.7.{node}"),
        );
        let digest = format!("{:032x}{:032x}", random.u128(..), random.u128(..));
        let _ = write!(
            text,
            r#"{{"metadata":{{"name":"{name}","generateName":"{app}-{hash}-","namespace":"default","uid":"{uid}","resourceVersion":"{version}","creationTimestamp":"{time}","labels":{{"app.kubernetes.io/name":"{app}","pod-template-hash":"{hash}"}},"ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"{app}-{hash}","uid":"{uid}","controller":true,"blockOwnerDeletion":true}}],"managedFields":[{{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","time":"{time}","fieldsType":"FieldsV1","fieldsV1":{{"f:metadata":{{"f:generateName":{{}},"f:labels":{{".":{{}},"f:app.kubernetes.io/name":{{}},"f:pod-template-hash":{{}}}}}},"f:spec":{{"f:containers":{{"k:{{\"name\":\"{app}\"}}":{{".":{{}},"f:image":{{}},"f:imagePullPolicy":{{}},"f:resources":{{}}}}}}}}}}}}]}},"spec":{{"containers":[{{"name":"{app}","image":"registry.example.net/{app}:1.{node}.{restarts}","ports":[{{"containerPort":8080,"protocol":"TCP"}}],"resources":{{"limits":{{"cpu":"500m","memory":"256Mi"}},"requests":{{"cpu":"100m","memory":"128Mi"}}}},"terminationMessagePath":"/dev/termination-log","imagePullPolicy":"IfNotPresent"}}],"restartPolicy":"Always","serviceAccountName":"default","nodeName":"node-{node}","schedulerName":"default-scheduler"}},"status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"True","lastTransitionTime":"{time}"}}],"hostIP":"{host_ip}","podIP":"{pod_ip}","startTime":"{time}","containerStatuses":[{{"name":"{app}","state":{{"running":{{"startedAt":"{time}"}}}},"ready":true,"restartCount":{restarts},"imageID":"registry.example.net/{app}@sha256:{digest}"}}],"qosClass":"Burstable"}}}},"#
        );
    }
    text
}

const APPS: [&str; 8] = [
    "checkout", "search", "billing", "web", "redis", "ingest", "mailer", "auth",
];
