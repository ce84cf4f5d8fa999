//! State of earlier versions (config-and-state.md §7.3): read once, left in place.

use std::path::{Path, PathBuf};

use super::Identity;
use super::file::read_limited;
use super::record::Record;
use crate::config::Secret;

/// The first earlier state there is, and where it was found. `root` is `/` and
/// `working` the working directory (tests have their own).
pub(super) fn import(root: &Path, working: &Path) -> Option<(Identity, PathBuf)> {
    let consolidated = [
        root.join("var/lib/pipeops/agent-state.yaml"),
        root.join("etc/pipeops/agent-state.yaml"),
        working.join("tmp/agent-state.yaml"),
        working.join(".pipeops-agent-state.yaml"),
    ];
    for path in consolidated {
        let Ok(text) = read_limited(&path) else {
            continue;
        };
        match Record::parse(&text) {
            Ok(record) if record.identity() != Identity::default() => {
                return Some((record.identity(), path));
            }
            Ok(_) => {}
            Err(error) => log::warn!("{}: not imported: {error}", path.display()),
        }
    }
    separate(root, working)
}

/// One value per file: the first that isn't empty, for each value by itself.
fn separate(root: &Path, working: &Path) -> Option<(Identity, PathBuf)> {
    let mut found = None;
    let mut value = |name: &str| {
        let places = [
            root.join("var/lib/pipeops").join(name),
            root.join("etc/pipeops").join(name),
            working.join(format!(".pipeops-{name}")),
        ];
        places.into_iter().find_map(|path| {
            let text = read_limited(&path).ok()?;
            let text = text.trim();
            if text.is_empty() {
                return None;
            }
            found.get_or_insert(path);
            Some(text.to_owned())
        })
    };
    let identity = Identity {
        agent_id: value("agent-id"),
        cluster_id: value("cluster-id"),
        cluster_token: value("cluster-token").map(Secret::new),
        ..Identity::default()
    };
    found.map(|path| (identity, path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(path, text).expect("file");
    }

    #[test]
    fn consolidated_files_go_first_in_their_order() {
        let (root, working) = (
            tempfile::tempdir().expect("a"),
            tempfile::tempdir().expect("b"),
        );
        assert_eq!(import(root.path(), working.path()), None);
        write(&root.path().join("var/lib/pipeops/agent-id"), "from-file\n");
        write(
            &working.path().join(".pipeops-agent-state.yaml"),
            "agent_id: d\n",
        );
        write(
            &root.path().join("etc/pipeops/agent-state.yaml"),
            "agent_id: b\n",
        );
        let (identity, path) = import(root.path(), working.path()).expect("found");
        assert_eq!(identity.agent_id.as_deref(), Some("b"));
        assert!(path.ends_with("etc/pipeops/agent-state.yaml"));
        // A broken or empty one is passed over.
        write(&root.path().join("var/lib/pipeops/agent-state.yaml"), "{{{");
        let (identity, _) = import(root.path(), working.path()).expect("found");
        assert_eq!(identity.agent_id.as_deref(), Some("b"));
    }

    #[test]
    fn separate_files_are_merged_by_value() {
        let (root, working) = (
            tempfile::tempdir().expect("a"),
            tempfile::tempdir().expect("b"),
        );
        write(&root.path().join("var/lib/pipeops/agent-id"), "  \n");
        write(&root.path().join("etc/pipeops/agent-id"), "a-1\n");
        write(&working.path().join(".pipeops-cluster-id"), "c-1");
        let (identity, _) = import(root.path(), working.path()).expect("found");
        assert_eq!(identity.agent_id.as_deref(), Some("a-1"));
        assert_eq!(identity.cluster_id.as_deref(), Some("c-1"));
    }
}
