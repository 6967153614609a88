//! How a node proves to others who it is: by files of an operator's own authority, or by the cluster's secret.
//!
//! Owns when a secret is drawn: for a node that is new, and for no other. A node that belongs to a cluster has lost
//! the cluster's secret where its file is missing, and another one would only part it from the others.

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

/// Where the secret of a node is.
pub(crate) struct SecretPlace {
    file: PathBuf,
    /// Whether a flag names it.
    is_named: bool,
    /// The node's directory; `None` where that says nothing of what others know.
    directory: Option<PathBuf>,
}

impl SecretPlace {
    /// That of a node that has a process to itself.
    pub(crate) fn of_node(common: &CommonArgs, directory: &Path) -> SecretPlace {
        SecretPlace {
            directory: (!common.memory).then(|| directory.to_owned()),
            ..SecretPlace::at(common, beside(directory))
        }
    }

    /// That of nodes that are all in this process and have their directories in this one: no other node has to know
    /// the same secret.
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

    /// The secret; `None` where one is to be drawn.
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

/// The identity that a node shows to others. Draws the cluster's secret where there is none yet.
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

/// Checks what [`identity`] would read, and makes nothing.
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

/// The identity of a node that uses no secret.
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

/// Whose directory it is; `None` where no node has run in it.
///
/// # Errors
///
/// The directory, and why that cannot be told.
pub(crate) fn owner(directory: &Path) -> Result<Option<DirectoryOwner>, String> {
    let told = |what: String| format!("{}: {what}", directory.display());
    if !directory.exists() {
        return Ok(None);
    }
    let storage =
        FileStorage::open_read_only(directory).map_err(|error| told(error.to_string()))?;
    check::owner(&storage).map_err(|error| told(error.to_string()))
}

/// Where the cluster's secret is kept by default: nodes with directories side by side share it.
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
    fn the_secret_is_beside_the_directory_however_that_is_written() {
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
