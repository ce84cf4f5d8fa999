//! How the sample cluster shows its objects: discovery, lists, tables.

use serde_json::{Value, json};

use super::objects::{Kind, VERSION};

/// `GET /version`.
pub(super) fn version() -> Value {
    json!({ "major": "1", "minor": "36", "gitVersion": VERSION, "platform": "linux/amd64" })
}

/// `GET /api`.
pub(super) fn api_versions() -> Value {
    json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
}

/// `GET /apis`: the core group is all there is.
pub(super) fn api_groups() -> Value {
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] })
}

/// `GET /api/v1`.
pub(super) fn resources() -> Value {
    let kinds = Kind::ALL.map(|kind| {
        json!({
            "name": kind.plural(), "singularName": kind.name().to_lowercase(), "namespaced": kind.namespaced(),
            "kind": kind.name(), "verbs": ["get", "list", "watch"], "shortNames": [kind.short()],
        })
    });
    let mut resources = kinds.to_vec();
    resources.push(json!({
        "name": "pods/log", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get"],
    }));
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": resources })
}

/// `{kind}List`.
pub(super) fn list(kind: Kind, version: u64, items: &[Value], remaining: Option<u64>) -> Value {
    json!({
        "kind": format!("{}List", kind.name()), "apiVersion": "v1",
        "metadata": list_metadata(version, remaining), "items": items,
    })
}

/// A `meta.k8s.io/v1` Table, which kubectl asks for to print columns.
pub(super) fn table(kind: Kind, version: u64, items: &[Value], remaining: Option<u64>) -> Value {
    let columns: &[(&str, &str)] = match kind {
        Kind::Node => &[
            ("Name", "name"),
            ("Status", ""),
            ("Roles", ""),
            ("Age", ""),
            ("Version", ""),
        ],
        Kind::Namespace => &[("Name", "name"), ("Status", ""), ("Age", "")],
        Kind::Pod => &[
            ("Name", "name"),
            ("Ready", ""),
            ("Status", ""),
            ("Restarts", ""),
            ("Age", ""),
        ],
    };
    let columns = columns.iter().map(|(name, format)| {
        json!({ "name": name, "type": "string", "format": format, "description": "", "priority": 0 })
    });
    let rows = items
        .iter()
        .map(|item| json!({ "cells": cells(kind, item), "object": partial(item) }));
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata(version, remaining),
        "columnDefinitions": columns.collect::<Vec<_>>(), "rows": rows.collect::<Vec<_>>(),
    })
}

fn list_metadata(version: u64, remaining: Option<u64>) -> Value {
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if let Some(remaining) = remaining.filter(|n| *n > 0) {
        metadata["remainingItemCount"] = json!(remaining);
        metadata["continue"] = json!("sample");
    }
    metadata
}

fn partial(item: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"] })
}

fn cells(kind: Kind, item: &Value) -> Value {
    let name = &item["metadata"]["name"];
    let age = age(item["metadata"]["creationTimestamp"]
        .as_str()
        .unwrap_or_default());
    match kind {
        Kind::Node => {
            let labels = item["metadata"]["labels"].as_object();
            let roles = labels
                .into_iter()
                .flatten()
                .filter_map(|(l, _)| l.strip_prefix("node-role.kubernetes.io/"));
            let roles = roles.collect::<Vec<_>>().join(",");
            json!([
                name,
                "Ready",
                roles,
                age,
                item["status"]["nodeInfo"]["kubeletVersion"]
            ])
        }
        Kind::Namespace => json!([name, item["status"]["phase"], age]),
        Kind::Pod => json!([name, "1/1", item["status"]["phase"], 0, age]),
    }
}

fn age(created: &str) -> String {
    let Ok(created) = created.parse::<jiff::Timestamp>() else {
        return "<unknown>".to_owned();
    };
    let seconds = (jiff::Timestamp::now().as_second() - created.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A `Status` failure.
pub(super) fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

#[cfg(test)]
mod tests {
    use super::super::objects::Store;
    use super::*;

    #[test]
    fn a_table_has_a_cell_for_each_column() {
        let store = Store::new();
        for kind in Kind::ALL {
            let (version, items) = store.list(kind, None);
            let table = table(kind, version, &items, None);
            let columns = table["columnDefinitions"].as_array().map(Vec::len);
            for row in table["rows"].as_array().expect("rows") {
                assert_eq!(row["cells"].as_array().map(Vec::len), columns, "{row}");
            }
        }
    }

    #[test]
    fn a_cut_list_says_how_many_remain() {
        assert_eq!(
            list(Kind::Pod, 1, &[], Some(4))["metadata"]["remainingItemCount"],
            4
        );
        assert!(
            list(Kind::Pod, 1, &[], Some(0))["metadata"]
                .get("remainingItemCount")
                .is_none()
        );
    }
}
