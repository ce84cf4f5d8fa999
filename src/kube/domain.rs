//! The domain under which a cluster's Services have their names.

use std::fs;

/// What follows `svc.` in the search list that a pod gets, else `cluster.local`
/// (control-channel.md §8.3).
pub fn cluster_domain() -> String {
    fs::read_to_string("/etc/resolv.conf")
        .ok()
        .and_then(|text| from_resolv_conf(&text))
        .unwrap_or_else(|| "cluster.local".to_owned())
}

fn from_resolv_conf(text: &str) -> Option<String> {
    // The last list is the one that counts (resolv.conf(5)).
    let mut list = text.lines().rev().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("search")).then_some(words)
    })?;
    list.find_map(|entry| {
        let entry = entry.trim_end_matches('.').to_ascii_lowercase();
        let domain = match entry.strip_prefix("svc.") {
            Some(domain) => domain,
            None => entry.split_once(".svc.")?.1,
        };
        let is_name = (1..=MAX_DOMAIN).contains(&domain.len())
            && domain.split('.').all(|label| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            });
        is_name.then(|| domain.to_owned())
    })
}

/// Leaves room in a name for a Service, its namespace and `svc`.
const MAX_DOMAIN: usize = 253 - 64 - 64 - 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tt15_the_domain_is_found_in_the_search_list() {
        for (text, domain) in [
            (
                "nameserver 10.96.0.10\nsearch web.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
                Some("cluster.local"),
            ),
            (
                "search a.svc.prod.example.test.\n",
                Some("prod.example.test"),
            ),
            (
                "search corp.test svc.K8S.corp.test\n",
                Some("k8s.corp.test"),
            ),
            ("search corp.test\n", None),
            ("search a.svc.x\nsearch corp.test\n", None),
            ("search svc.\n", None),
            ("search svc.a..b svc.a/b\n", None),
            ("# search a.svc.x\n", None),
            ("", None),
        ] {
            assert_eq!(from_resolv_conf(text).as_deref(), domain, "{text:?}");
        }
    }
}
