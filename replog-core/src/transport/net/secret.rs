//! [`ClusterSecret`]: the 32 random bytes that all nodes of a cluster share, and their file.
//!
//! Owns the file's format, its creation, and the checks on its permissions. The secret is
//! never sent, never logged, and never part of an error's text.
//!
//! The file is 64 hexadecimal digits and a line end, mode 0600. It is created atomically: written and
//! synced under a temporary name, then renamed unless the file exists. Of several nodes that start at
//! once, one creates it and the others read it.

use std::{
    fmt::{self, Write as _},
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::{
    fs::{CWD, OFlags, RenameFlags, renameat_with},
    process::geteuid,
};

use super::IdentityError;
use crate::storage::sync_entry;

/// Length of a secret in bytes.
pub const SECRET_BYTES: usize = 32;

/// The most bytes read of a secret's file: a longer one holds no secret.
const FILE_BYTES_MAX: u64 = 256;

/// The secret that makes a process a node of a cluster. Nodes with the same secret derive the same
/// certificate authority from it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret([u8; SECRET_BYTES]);

impl ClusterSecret {
    /// Draws a new secret, for a cluster that lives in one process and stores nothing.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] if the system gives no random bytes.
    pub fn random() -> Result<ClusterSecret, IdentityError> {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| IdentityError::new("the system gives no random bytes"))?;
        Ok(ClusterSecret(bytes))
    }

    /// Wraps a secret that was drawn elsewhere.
    #[must_use]
    pub fn from_bytes(bytes: [u8; SECRET_BYTES]) -> ClusterSecret {
        ClusterSecret(bytes)
    }

    /// Reads the secret from a file.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] if there is no such file, if it is a link, belongs to another user, may be read by
    /// others, or holds no secret.
    pub fn load(path: &Path) -> Result<ClusterSecret, IdentityError> {
        match read(path) {
            Ok(secret) => secret,
            Err(error) => Err(IdentityError::io("cannot read", path, error)),
        }
    }

    /// Reads the secret from a file, and creates the file first if it does not exist. Missing parent
    /// directories are created too, mode 0700.
    ///
    /// # Errors
    ///
    /// The same as for [`ClusterSecret::load`], and [`IdentityError`] if the file cannot be created.
    pub fn load_or_create(path: &Path) -> Result<ClusterSecret, IdentityError> {
        // A file that keeps appearing and disappearing is a mistake elsewhere: do not loop forever.
        for _ in 0..3 {
            match read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(IdentityError::io("cannot read", path, error)),
                Ok(secret) => return secret,
            }
            let secret = ClusterSecret::random()?;
            match create(path, &secret) {
                Ok(()) => return Ok(secret),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(IdentityError::io("cannot create", path, error)),
            }
        }
        let path = path.display();
        Err(IdentityError::new(format!(
            "{path} is repeatedly created and removed by another process"
        )))
    }

    /// Returns the secret itself.
    pub(super) fn bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    fn to_text(&self) -> String {
        let mut text = String::with_capacity(2 * SECRET_BYTES + 1);
        for byte in self.0 {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        }
        text.push('\n');
        text
    }

    fn from_text(text: &[u8]) -> Option<ClusterSecret> {
        let digits = text.trim_ascii();
        if digits.len() != 2 * SECRET_BYTES {
            return None;
        }
        let mut bytes = [0; SECRET_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).expect("two digits are a byte");
        }
        Some(ClusterSecret(bytes))
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(...)")
    }
}

/// Reads and checks the file. The outer error is the system's.
fn read(path: &Path) -> io::Result<Result<ClusterSecret, IdentityError>> {
    let refuse = |why: &str| {
        let path = path.display();
        Ok(Err(IdentityError::new(format!("{path} {why}"))))
    };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
        .open(path);
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return refuse("is a symbolic link: give the path of the cluster secret's file itself");
        }
        opened => opened?,
    };
    let about = file.metadata()?;
    if !about.is_file() {
        return refuse("is not a file: the cluster secret must be a regular file");
    }
    if about.uid() != geteuid().as_raw() {
        return refuse(
            "belongs to another user: the cluster secret must belong to the user that runs the node",
        );
    }
    let mode = about.mode() & 0o777;
    if mode & 0o077 != 0 {
        return refuse(&format!(
            "may be read or written by others (mode {mode:04o}): chmod 600, and draw a new secret if they did"
        ));
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    match ClusterSecret::from_text(&text) {
        Some(secret) => Ok(Ok(secret)),
        None => refuse("holds no cluster secret: 64 hexadecimal digits and a line end"),
    }
}

/// Creates the file; fails with `AlreadyExists` if there is one.
fn create(path: &Path, secret: &ClusterSecret) -> io::Result<()> {
    let directory = parent_of(path);
    let missing: Vec<&Path> = directory
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .collect();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    for made in missing {
        sync_entry(parent_of(made), directory, true)?;
    }
    let Some(name) = path.file_name() else {
        return Err(io::Error::other("the path names no file"));
    };
    let mut draft = Draft {
        path: directory.join(format!(
            ".{}.{}.{:016x}",
            name.to_string_lossy(),
            std::process::id(),
            rand::random::<u64>()
        )),
        taken_over: false,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft.path)?;
    file.write_all(secret.to_text().as_bytes())?;
    file.sync_all()?;
    match renameat_with(CWD, &draft.path, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => draft.taken_over = true,
        // Not every file system supports it; a hard link never replaces a file either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(&draft.path, path)?;
        }
        Err(error) => return Err(error.into()),
    }
    drop(draft);
    sync_entry(directory, path, true)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A file under a temporary name, removed on drop unless it was renamed.
struct Draft {
    path: PathBuf,
    taken_over: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.taken_over {
            // An error means that it was never created.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn refusal(path: &Path) -> String {
        ClusterSecret::load_or_create(path).unwrap_err().to_string()
    }

    #[test]
    fn the_file_is_created_once_and_only_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/cluster.secret");
        let secret = ClusterSecret::load_or_create(&path).unwrap();
        assert_eq!(ClusterSecret::load_or_create(&path).unwrap(), secret);
        assert_eq!(ClusterSecret::load(&path).unwrap(), secret);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!((text.len(), text.ends_with('\n')), (65, true));
        // No temporary file is left.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(!format!("{secret:?}").contains(&text[..8]));
    }

    #[test]
    fn nodes_that_start_at_once_all_get_the_same_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/cluster.secret");
        let start = std::sync::Barrier::new(16);
        let secrets: Vec<_> = std::thread::scope(|scope| {
            let starters: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        ClusterSecret::load_or_create(&path).unwrap()
                    })
                })
                .collect();
            starters
                .into_iter()
                .map(|starter| starter.join().unwrap())
                .collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_advice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.secret");
        ClusterSecret::load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = refusal(&path);
            assert!(refused.contains("chmod 600"), "{refused}");
            assert!(refused.contains(&format!("{mode:04o}")), "{refused}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        ClusterSecret::load(&path).unwrap();
    }

    #[test]
    fn links_directories_and_other_contents_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.secret");
        let link = directory.path().join("link");
        ClusterSecret::load_or_create(&path).unwrap();
        symlink(&path, &link).unwrap();
        assert!(refusal(&link).contains("symbolic link"));
        // The file is not created through a dangling link either.
        fs::remove_file(&link).unwrap();
        symlink(directory.path().join("nowhere"), &link).unwrap();
        assert!(refusal(&link).contains("symbolic link"));
        assert!(refusal(directory.path()).contains("not a file"));
        for text in [
            "",
            "\n",
            "abc",
            &"g".repeat(64),
            &"a".repeat(63),
            &"a".repeat(66),
        ] {
            fs::write(&path, text).unwrap();
            let refused = refusal(&path);
            assert!(refused.contains("holds no cluster secret"), "{refused}");
            assert!(
                text.trim().is_empty() || !refused.contains(text),
                "{refused}"
            );
        }
        fs::write(&path, format!("{}\r\n", "aB".repeat(32))).unwrap();
        let expected = ClusterSecret::from_bytes([0xab; SECRET_BYTES]);
        assert_eq!(ClusterSecret::load(&path).unwrap(), expected);
    }

    #[test]
    fn the_error_names_a_missing_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.secret");
        let error = ClusterSecret::load(&path).unwrap_err().to_string();
        assert!(error.contains("cluster.secret"), "{error}");
        assert!(!path.exists());
    }
}
