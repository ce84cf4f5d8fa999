//! What a plane is started with.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::certificate::CertificateSource;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneConfig {
    /// Registry, generated certificate and control socket; created if missing.
    pub data_dir: PathBuf,
    /// Port 0 takes any.
    pub listen: SocketAddr,
    pub certificate: CertificateSource,
    pub gateway: GatewayUrl,
    /// Where hosts that are exposed are listened for, once there are some.
    pub http: SocketAddr,
}

/// Where agents go after their registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GatewayUrl {
    /// `/ws` of the host that they registered at.
    #[default]
    SameHost,
    /// This one, which must lead here.
    Fixed(String),
    /// Nowhere: they stay.
    Stay,
}

impl GatewayUrl {
    /// For an agent that sent this `Host`.
    pub(super) fn of(&self, host: Option<&str>) -> Option<String> {
        match self {
            Self::Stay => None,
            Self::Fixed(url) => Some(url.clone()),
            Self::SameHost => {
                let host = host?;
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
                (!host.is_empty() && host.bytes().all(allowed)).then(|| format!("wss://{host}/ws"))
            }
        }
    }
}
