//! The proof of a node's identity to others: files of an operator's own authority, or the cluster's secret.
//!
//! Owns the decision when a secret is drawn: for a node that is new, and for no other. If the file is missing for a
//! node that belongs to a cluster, the node has lost the cluster's secret, and another one would only separate it from
//! the others.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use replog_core::{
    NodeName,
    check::{self, DirectoryOwner},
    storage::FileStorage,
    transport::net::{ClusterIdentity, ClusterSecret, PemFiles},
};

use crate::args::CommonArgs;

/// The file of the cluster's secret, unless a flag names another one.
const SECRET_FILE: &str = "cluster.secret";

/// Place of a node's secret.
pub(crate) struct SecretPlace {
    file: PathBuf,
    /// A flag names it.
    is_named: bool,
    /// The node's directory; `None` where it says nothing about what others know.
    directory: Option<PathBuf>,
}

impl SecretPlace {
    /// Returns the place for a node that has a process to itself.
    pub(crate) fn of_node(common: &CommonArgs, directory: &Path) -> SecretPlace {
        SecretPlace {
            directory: (!common.memory).then(|| directory.to_owned()),
            ..SecretPlace::at(common, beside(directory))
        }
    }

    /// Returns the place for nodes that are all in this process and have their directories in this one: no other node
    /// has to know the same secret.
    pub(crate) fn of_cluster(common: &CommonArgs, directory: &Path) -> SecretPlace {
        SecretPlace::at(common, directory.join(SECRET_FILE))
    }

    fn at(common: &CommonArgs, default: PathBuf) -> SecretPlace {
        SecretPlace {
            is_named: common.cluster_secret_file.is_some(),
            file: common.cluster_secret_file.clone().unwrap_or(default),
            directory: None,
        }
    }

    /// Returns the secret; `None` if one is to be drawn.
    fn look(&self) -> Result<Option<ClusterSecret>, String> {
        let file = self.file.display();
        match fs::symlink_metadata(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => {
                let loaded = ClusterSecret::load(&self.file);
                return loaded.map(Some).map_err(|error| error.to_string());
            }
        }
        let parent = self
            .file
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| self.is_named && !parent.is_dir()) {
            return Err(format!(
                "the secret file {file} cannot be made: there is no directory {}",
                parent.display()
            ));
        }
        if let Some(directory) = &self.directory
            && let Some(cluster) = owner(directory)?.and_then(|owner| owner.cluster_id)
        {
            return Err(format!(
                "the cluster's secret is missing: {} belongs to cluster {cluster}, and there is no {file}; copy the \
                 secret file of another node there, mode 0600. If no node has it any more, stop all of them and give \
                 each the same new one, made by openssl rand -hex 32",
                directory.display()
            ));
        }
        Ok(None)
    }
}

/// Returns the identity that a node shows to others. Draws the cluster's secret if there is none yet.
///
/// # Errors
///
/// The file, and what is wrong with it.
pub(crate) fn identity(
    common: &CommonArgs,
    name: &NodeName,
    secret: &SecretPlace,
) -> Result<ClusterIdentity, String> {
    let told = |what: String| format!("{name}: {what}");
    if let Some(without) = without_secret(common, name) {
        return without.map_err(told);
    }
    let drawn = match secret.look().map_err(told)? {
        Some(found) => Ok(found),
        None => ClusterSecret::load_or_create(&secret.file),
    };
    drawn
        .and_then(|drawn| ClusterIdentity::from_secret(&drawn, name))
        .map(|identity| identity.kept_in(&secret.file))
        .map_err(|error| told(error.to_string()))
}

/// Checks the files that [`identity`] would read, and creates nothing.
pub(crate) fn check_identity(
    common: &CommonArgs,
    name: &NodeName,
    secret: &SecretPlace,
) -> Result<(), String> {
    match without_secret(common, name) {
        Some(without) => without.map(drop),
        None => secret.look().map(drop),
    }
}

/// Returns the identity of a node that uses no secret.
fn without_secret(common: &CommonArgs, name: &NodeName) -> Option<Result<ClusterIdentity, String>> {
    if common.cluster_insecure {
        return Some(Ok(ClusterIdentity::insecure(name)));
    }
    let files = PemFiles {
        cert: common.cluster_cert.clone()?,
        key: common.cluster_key.clone()?,
        ca: common.cluster_ca.clone()?,
    };
    let identity = ClusterIdentity::from_pem(files, name);
    Some(identity.map_err(|error| error.to_string()))
}

/// Returns the owner of a directory; `None` if no node has run in it.
///
/// # Errors
///
/// The directory, and the reason why its owner is not known.
pub(crate) fn owner(directory: &Path) -> Result<Option<DirectoryOwner>, String> {
    let told = |what: String| format!("{}: {what}", directory.display());
    if !directory.exists() {
        return Ok(None);
    }
    let storage =
        FileStorage::open_read_only(directory).map_err(|error| told(error.to_string()))?;
    check::owner(&storage).map_err(|error| told(error.to_string()))
}

/// Returns the default place of the cluster's secret: nodes with directories side by side share it.
fn beside(directory: &Path) -> PathBuf {
    // `.` and `..` have a name elsewhere.
    let resolved = match directory.file_name() {
        Some(_) => None,
        None => fs::canonicalize(directory).ok(),
    };
    resolved
        .as_deref()
        .unwrap_or(directory)
        .with_file_name(SECRET_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_next_to_the_directory_however_the_path_is_written() {
        let table = [
            ("replog-data/master", "replog-data/cluster.secret"),
            ("replog-data/master/", "replog-data/cluster.secret"),
            ("replog-data/master/.", "replog-data/cluster.secret"),
            ("master", "cluster.secret"),
            ("/data", "/cluster.secret"),
        ];
        for (directory, expected) in table {
            assert_eq!(beside(Path::new(directory)), Path::new(expected));
        }
        let here = std::env::current_dir().expect("there is one");
        let here = fs::canonicalize(here).expect("it is there");
        assert_eq!(beside(Path::new(".")), here.with_file_name(SECRET_FILE));
    }
}
