//! The database file: opening, schema, loading, one durable commit at a time.
//!
//! Everything is small and read at start; the file is what survives a crash. A
//! commit returns after the data is on disk (redb's default durability), so what
//! has been acknowledged is there after kill -9 and after a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::{Cluster, ServiceToken, Token};
use crate::plane::expose::{Entry, Exposure};
use crate::plane::token::TokenHash;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{path}: {cause}")]
    File { path: PathBuf, cause: io::Error },
    /// Only one process can have the database open.
    #[error("{path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("{path} can't be opened: {cause}")]
    Open { path: PathBuf, cause: redb::Error },
    #[error(
        "{path} was written by a newer version (schema {found}; this one knows {SCHEMA}): \
         use that version, or another data directory"
    )]
    Schema { path: PathBuf, found: u64 },
    #[error("the database: {0}")]
    Store(redb::Error),
    #[error("the database has an unreadable record in {table}: {cause}")]
    Record {
        table: &'static str,
        cause: serde_json::Error,
    },
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// Everything that was on disk.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) clusters: Vec<Cluster>,
    pub(super) tokens: Vec<(TokenHash, Token)>,
    pub(super) service_tokens: Vec<(String, ServiceToken)>,
    pub(super) exposures: Vec<Exposure>,
}

pub(super) struct Store {
    database: Database,
}

impl Store {
    /// Opens or creates the database in `directory`, which is created if missing.
    pub(super) fn open(directory: &Path) -> Result<(Self, Loaded), RegistryError> {
        let path = path_in(directory);
        let file = open_private(directory, &path).map_err(|cause| RegistryError::File {
            path: path.clone(),
            cause,
        })?;
        let database = Builder::new()
            .set_cache_size(CACHE)
            .create_file(file)
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => RegistryError::InUse { path: path.clone() },
                other => RegistryError::Open {
                    path: path.clone(),
                    cause: other.into(),
                },
            })?;
        let store = Self { database };
        store.ensure_schema(&path)?;
        let loaded = store.load()?;
        Ok((store, loaded))
    }

    fn ensure_schema(&self, path: &Path) -> Result<(), RegistryError> {
        self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get("schema")?.map(|value| value.value());
            match found {
                Some(SCHEMA) => {}
                Some(found) => {
                    let path = path.to_owned();
                    return Err(RegistryError::Schema { path, found });
                }
                None => drop(meta.insert("schema", SCHEMA)?),
            }
            transaction.open_table(CLUSTERS)?;
            transaction.open_table(TOKENS)?;
            transaction.open_table(SERVICE_TOKENS)?;
            transaction.open_table(EXPOSURES)?;
            Ok(())
        })
    }

    fn load(&self) -> Result<Loaded, RegistryError> {
        let transaction = self.database.begin_read()?;
        let mut loaded = Loaded::default();
        for entry in transaction.open_table(CLUSTERS)?.iter()? {
            loaded.clusters.push(record("clusters", entry?.1.value())?);
        }
        for entry in transaction.open_table(TOKENS)?.iter()? {
            let (hash, token) = entry?;
            let token = record("tokens", token.value())?;
            loaded.tokens.push((TokenHash(*hash.value()), token));
        }
        for entry in transaction.open_table(SERVICE_TOKENS)?.iter()? {
            let (id, token) = entry?;
            if let Some(token) = ServiceToken::new(token.value()) {
                loaded.service_tokens.push((id.value().to_owned(), token));
            }
        }
        for entry in transaction.open_table(EXPOSURES)?.iter()? {
            let exposure = record("exposures", entry?.1.value())?;
            loaded.exposures.push(exposure);
        }
        Ok(loaded)
    }

    /// One transaction: all of `change` is on disk when this returns, or none of it.
    pub(super) fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), RegistryError>,
    ) -> Result<(), RegistryError> {
        let transaction = self.database.begin_write()?;
        // An early return drops the transaction, which takes it back.
        change(&transaction)?;
        Ok(transaction.commit()?)
    }
}

pub(super) fn path_in(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

pub(super) fn put_cluster(to: &WriteTransaction, cluster: &Cluster) -> Result<(), RegistryError> {
    let name = cluster.name.as_str();
    to.open_table(CLUSTERS)?
        .insert(name, json("clusters", cluster)?.as_slice())?;
    Ok(())
}

pub(super) fn put_token(
    to: &WriteTransaction,
    hash: TokenHash,
    token: &Token,
) -> Result<(), RegistryError> {
    to.open_table(TOKENS)?
        .insert(&hash.0, json("tokens", token)?.as_slice())?;
    Ok(())
}

pub(super) fn delete_token(to: &WriteTransaction, hash: TokenHash) -> Result<(), RegistryError> {
    to.open_table(TOKENS)?.remove(&hash.0)?;
    Ok(())
}

pub(super) fn put_exposure(to: &WriteTransaction, one: &Exposure) -> Result<(), RegistryError> {
    to.open_table(EXPOSURES)?.insert(
        one.entry.to_string().as_str(),
        json("exposures", one)?.as_slice(),
    )?;
    Ok(())
}

pub(super) fn delete_exposure(to: &WriteTransaction, entry: &Entry) -> Result<(), RegistryError> {
    to.open_table(EXPOSURES)?
        .remove(entry.to_string().as_str())?;
    Ok(())
}

pub(super) fn put_service_token(
    to: &WriteTransaction,
    cluster_id: &str,
    token: &ServiceToken,
) -> Result<(), RegistryError> {
    to.open_table(SERVICE_TOKENS)?
        .insert(cluster_id, token.reveal())?;
    Ok(())
}

pub(super) fn delete_service_token(
    to: &WriteTransaction,
    cluster_id: &str,
) -> Result<(), RegistryError> {
    to.open_table(SERVICE_TOKENS)?.remove(cluster_id)?;
    Ok(())
}

fn json(table: &'static str, value: &impl Serialize) -> Result<Vec<u8>, RegistryError> {
    serde_json::to_vec(value).map_err(|cause| RegistryError::Record { table, cause })
}

fn record<T: DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Result<T, RegistryError> {
    serde_json::from_slice(bytes).map_err(|cause| RegistryError::Record { table, cause })
}

/// The file is the owner's alone from its first moment: it holds credentials.
fn open_private(directory: &Path, path: &Path) -> io::Result<File> {
    create_private_dir(directory)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    // A copy or a restore may have widened it.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Creates a directory that only its owner can enter; an existing one stays as it is.
pub(in crate::plane) fn create_private_dir(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for RegistryError {
            fn from(error: redb::$error) -> Self {
                Self::Store(error.into())
            }
        })*
    };
}

from_redb!(TransactionError, TableError, StorageError, CommitError);

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// By name.
const CLUSTERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("clusters");
/// By the hash of the text.
const TOKENS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("tokens");
/// By cluster id; apart from the records that are listed.
const SERVICE_TOKENS: TableDefinition<'_, &str, &str> = TableDefinition::new("service_tokens");
/// By entry, as it is shown.
const EXPOSURES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("exposures");

/// Raised when a record changes so that older versions can't read it.
const SCHEMA: u64 = 1;

const FILE: &str = "plane.redb";

/// redb's default is 1 GiB; all we ever hold fits in a corner of this.
const CACHE: usize = 4 * 1024 * 1024;
