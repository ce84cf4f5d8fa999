//! The state file's text: five keys of the original, three of ours, and whatever
//! else somebody put there, which is kept.

use serde_yaml::{Mapping, Value};

use super::Identity;
use crate::config::Secret;

/// A parsed state file. Keys that mean nothing to us survive a rewrite.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Mapping);

impl Record {
    /// An empty text is an empty record. What isn't a YAML mapping is corrupt.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match serde_yaml::from_str(text) {
            Ok(Value::Null) => Ok(Self::default()),
            Ok(Value::Mapping(mapping)) => Ok(Self(mapping)),
            Ok(_) => Err("not a mapping".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn to_yaml(&self) -> Result<String, serde_yaml::Error> {
        serde_yaml::to_string(&self.0)
    }

    pub(super) fn identity(&self) -> Identity {
        Identity {
            agent_id: self.text("agent_id"),
            cluster_id: self.text("cluster_id"),
            cluster_uuid: self.text("cluster_uuid"),
            gateway_ws_url: self.text("gateway_ws_url"),
            credentials_hash: self.text("credentials_hash"),
            service_token_hash: self.text("service_token_hash"),
            cluster_token: self.text("cluster_token").map(Secret::new),
            cluster_cert_data: self.text("cluster_cert_data"),
        }
    }

    pub(super) fn set_identity(&mut self, identity: &Identity) {
        // The original's five keys are always there, as in its own files.
        for (key, value) in [
            ("agent_id", identity.agent_id.as_deref()),
            ("cluster_id", identity.cluster_id.as_deref()),
            (
                "cluster_token",
                identity.cluster_token.as_ref().map(Secret::expose),
            ),
            ("cluster_cert_data", identity.cluster_cert_data.as_deref()),
            ("gateway_ws_url", identity.gateway_ws_url.as_deref()),
        ] {
            self.set(key, value.unwrap_or_default());
        }
        for (key, value) in [
            ("cluster_uuid", &identity.cluster_uuid),
            ("credentials_hash", &identity.credentials_hash),
            ("service_token_hash", &identity.service_token_hash),
        ] {
            match value {
                Some(value) => self.set(key, value),
                None => drop(self.0.remove(key)),
            }
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        self.0.insert(key.into(), value.into());
    }

    /// Text that isn't empty. A whole number is text that YAML took for one.
    fn text(&self, key: &str) -> Option<String> {
        let text = match self.0.get(key)? {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) if number.is_u64() => number.to_string(),
            _ => return None,
        };
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_originals_file_is_understood() {
        let record = Record::parse(
            "agent_id: agent-1f2e3d4c5b6a7988\n\
             cluster_id: 550e8400-e29b-41d4-a716-446655440000\n\
             cluster_token: \"\"\n\
             cluster_cert_data: \"\"\n\
             gateway_ws_url: wss://gateway.example.test/ws\n",
        )
        .expect("a record");
        let identity = record.identity();
        assert_eq!(identity.agent_id.as_deref(), Some("agent-1f2e3d4c5b6a7988"));
        assert_eq!(identity.cluster_token, None);
        let url = identity.gateway_ws_url.as_deref();
        assert_eq!(url, Some("wss://gateway.example.test/ws"));
    }

    #[test]
    fn unknown_keys_survive() {
        let mut record = Record::parse("future: [1, {a: b}]\nagent_id: x\n").expect("a record");
        record.set_identity(&Identity {
            cluster_id: Some("no".into()),
            ..Identity::default()
        });
        let again = Record::parse(&record.to_yaml().expect("yaml")).expect("a record");
        assert_eq!(again.0.get("future"), record.0.get("future"));
        // YAML 1.1 would have read a bare `no` as false.
        assert_eq!(again.identity().cluster_id.as_deref(), Some("no"));
        assert_eq!(again.identity().agent_id, None);
    }

    #[test]
    fn values_of_the_wrong_type_count_as_absent() {
        let record = Record::parse("agent_id: [a]\ncluster_id: 17\n").expect("a record");
        assert_eq!(record.identity().agent_id, None);
        assert_eq!(record.identity().cluster_id.as_deref(), Some("17"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,200}") {
            if let Ok(mut record) = Record::parse(&text) {
                let identity = record.identity();
                record.set_identity(&identity);
                let _ = record.to_yaml();
            }
        }

        #[test]
        fn an_identity_comes_back(agent_id in "[ -~]{0,30}", cluster_id in "\\PC{0,30}") {
            let clean = |text: &str| {
                let text = text.trim();
                (!text.is_empty()).then(|| text.to_owned())
            };
            let identity = Identity {
                agent_id: clean(&agent_id),
                cluster_id: clean(&cluster_id),
                ..Identity::default()
            };
            let mut record = Record::default();
            record.set_identity(&identity);
            let text = record.to_yaml().expect("yaml");
            prop_assert_eq!(Record::parse(&text).expect("own text").identity(), identity);
        }
    }
}
