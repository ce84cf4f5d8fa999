//! Services that are only another name (`type: ExternalName`). Where they point to
//! is judged too, or a harmless name would open what the policy closes.

use super::super::policy::{Ask, Target};
use crate::net::{Cancel, Deadline};

/// Reads Services, to find those that are another name. Asked once or more per
/// stream: whoever implements it keeps answers for a while, and old ones while the
/// API server is away.
pub trait ExternalNames: Send + Sync {
    /// The `spec.externalName` of a Service of type ExternalName. `None` when it is
    /// of another type, doesn't exist (404) or may not be read (403). An error, one
    /// clause, when it can't be known: the stream is refused.
    fn external_name(
        &self,
        namespace: &str,
        service: &str,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<Option<String>, String>;
}

/// Where a Service leads beyond its own name.
#[derive(Debug, Default)]
pub(super) struct Alias {
    /// Other Services (namespace, name) on the way.
    services: Vec<(String, String)>,
    /// The name outside the cluster at the end.
    outside: Option<String>,
}

/// Follows a Service to where it leads.
pub(super) fn follow(
    names: &dyn ExternalNames,
    domain: &str,
    (namespace, service): (&str, &str),
    deadline: Deadline,
    cancel: &Cancel,
) -> Result<Alias, String> {
    let mut alias = Alias::default();
    let (mut namespace, mut service) = (namespace.to_owned(), service.to_owned());
    loop {
        let name = names
            .external_name(&namespace, &service, deadline, cancel)
            .map_err(|why| format!("the Service {service}.{namespace} can't be read: {why}"))?;
        let Some(name) = name else {
            return Ok(alias);
        };
        let Some(next) = inside(&name, domain) else {
            alias.outside = Some(name);
            return Ok(alias);
        };
        if alias.services.len() == MAX_ALIASES {
            return Err(format!(
                "more than {MAX_ALIASES} Services point to each other"
            ));
        }
        alias.services.push(next.clone());
        (namespace, service) = next;
    }
}

impl Alias {
    /// It leads nowhere else.
    pub(super) fn is_none(&self) -> bool {
        self.services.is_empty() && self.outside.is_none()
    }

    /// The question once for each Service on the way; all have to be allowed.
    pub(super) fn asks<'a>(&'a self, ask: Ask<'a>) -> Vec<Ask<'a>> {
        let others = self.services.iter().map(|(namespace, service)| Ask {
            namespace,
            service,
            ..ask
        });
        let mut asks: Vec<Ask<'a>> = std::iter::once(ask).chain(others).collect();
        if let Some(name) = &self.outside {
            for ask in &mut asks {
                ask.target = Target::ExternalService(name);
            }
        }
        asks
    }
}

/// Namespace and name, if this is the name of a Service or of one of its pods.
fn inside(name: &str, domain: &str) -> Option<(String, String)> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let labels = name
        .strip_suffix(&domain.to_ascii_lowercase())?
        .strip_suffix(".svc.")?;
    let mut labels = labels.rsplit('.');
    let namespace = labels.next().filter(|label| !label.is_empty())?;
    let service = labels.next().filter(|label| !label.is_empty())?;
    Some((namespace.to_owned(), service.to_owned()))
}

/// Names that point to names that point to names; one is usual.
const MAX_ALIASES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_inside_the_cluster() {
        let found = |name| inside(name, "cluster.local");
        let web = Some(("shop".to_owned(), "web".to_owned()));
        assert_eq!(found("web.shop.svc.cluster.local"), web);
        assert_eq!(found("Web.Shop.svc.cluster.local."), web);
        assert_eq!(found("pod-0.web.shop.svc.cluster.local"), web);
        for outside in [
            "example.test",
            "shop.svc.cluster.local",
            "svc.cluster.local",
            "a.b.svc.cluster.local.evil.test",
            "a.b.svccluster.local",
            "a.b.pod.cluster.local",
            "",
        ] {
            assert_eq!(found(outside), None, "{outside}");
        }
    }
}
