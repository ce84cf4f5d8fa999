//! What a command answers with: tables for people at a terminal.

use std::path::Path;

use super::{Command, entry};
use crate::plane::admin::{self, Answer};
use crate::plane::hub::ClusterView;
use crate::plane::registry::Token;
use crate::plane::table::{ago, bytes, table};
use crate::plane::{Exposure, ExposureState, ExposureView, PlaneError};

/// The result, for standard output, and what else a person wants to know, for
/// standard error: `TOKEN=$(… token create …)` holds a token and nothing else.
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) note: String,
}

pub(super) fn shown(answer: Answer, command: &Command) -> Result<Shown, PlaneError> {
    let now = jiff::Timestamp::now().as_second();
    let mut note = String::new();
    let text = match answer {
        Answer::Created { token, text } => {
            note = format!(
                "Token {id} ({grant}). Its text is shown this once.\n\
                 To take it back: pipeops-agent plane token revoke {id} --data {data}\n",
                id = token.id,
                grant = token.grant,
                data = data(command).display(),
            );
            text + "\n"
        }
        Answer::Tokens(tokens) => tokens_table(&tokens, now),
        Answer::Revoked(Some(token)) => format!("revoked {} ({})\n", token.id, token.grant),
        Answer::Revoked(None) => return Err(PlaneError::NoSuchToken),
        Answer::Clusters(clusters) => clusters_table(&clusters, now),
        Answer::Exposed {
            exposure,
            open,
            known,
        } => {
            if !known {
                let cluster = exposure.cluster.as_str();
                note = format!("No cluster has registered as {cluster:?} yet.\n");
            }
            if !open {
                note.push_str("It opens when the plane runs on this data.\n");
            }
            exposed(&exposure)
        }
        Answer::Unexposed(Some(exposure)) => format!("closed {}\n", exposure.entry),
        Answer::Unexposed(None) => {
            let Command::Unexpose {
                kind, entry: text, ..
            } = command
            else {
                unreachable!("only that is answered so")
            };
            return Err(PlaneError::NotExposed(entry(kind, text)?));
        }
        Answer::Exposures(exposures) => exposures_table(&exposures),
        Answer::Failed(text) => return Err(admin::AdminError::Refused(text).into()),
    };
    Ok(Shown { text, note })
}

fn data(command: &Command) -> &Path {
    match command {
        Command::Run(args) => &args.data,
        Command::CreateToken(create) => &create.data,
        Command::ListTokens { data }
        | Command::RevokeToken { data, .. }
        | Command::Clusters { data }
        | Command::Unexpose { data, .. }
        | Command::Tunnels { data } => data,
        Command::Expose(expose) => &expose.data,
    }
}

fn exposed(exposure: &Exposure) -> String {
    format!(
        "{} leads to {} of {}\n",
        exposure.entry,
        exposure.service,
        exposure.cluster.as_str()
    )
}

fn exposures_table(exposures: &[ExposureView]) -> String {
    let head = [
        "ENTRY", "CLUSTER", "SERVICE", "CLIENTS", "SO FAR", "REFUSED", "DOWN", "UP", "STATE",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(exposures.iter().map(|view| {
        [
            view.exposure.entry.to_string(),
            view.exposure.cluster.to_string(),
            view.exposure.service.to_string(),
            view.clients.to_string(),
            view.total.to_string(),
            view.refused.to_string(),
            bytes(view.down),
            bytes(view.up),
            match &view.state {
                ExposureState::Resting => "the plane doesn't run".to_owned(),
                ExposureState::Open => "open".to_owned(),
                ExposureState::Away => "agent away".to_owned(),
                ExposureState::NoTunnels => "the agent has no tunnels".to_owned(),
                ExposureState::Failed(why) => why.clone(),
            },
        ]
    }));
    table(&rows)
}

fn tokens_table(tokens: &[Token], now: i64) -> String {
    let mut rows = vec![["ID", "FOR", "LABEL", "CREATED", "LAST USED"].map(str::to_owned)];
    rows.extend(tokens.iter().map(|token| {
        [
            token.id.clone(),
            token.grant.to_string(),
            token.label.clone().unwrap_or_default(),
            ago(token.created, now) + " ago",
            token
                .last_used
                .map_or_else(|| "never".to_owned(), |used| ago(used, now) + " ago"),
        ]
    }));
    table(&rows)
}

fn clusters_table(clusters: &[ClusterView], now: i64) -> String {
    let head = [
        "NAME",
        "CONNECTED",
        "LAST SEEN",
        "NODES",
        "PODS",
        "KUBERNETES",
        "AGENT",
        "ID",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(clusters.iter().map(|view| {
        let cluster = &view.cluster;
        [
            cluster.name.to_string(),
            match view.since {
                Some(since) => format!("for {}", ago(since, now)),
                None => "no".to_owned(),
            },
            ago(cluster.last_seen, now) + " ago",
            cluster.nodes.to_string(),
            cluster.pods.to_string(),
            cluster.agent.kubernetes.clone(),
            cluster.agent.version.clone(),
            cluster.id.clone(),
        ]
    }));
    table(&rows)
}
