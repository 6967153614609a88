//! Access to the files of a [`FileStorage`](super::FileStorage), and checks that they are still in place.
//!
//! Owns modes, owners and symbolic links of a node's directory, and the identity of files: device and inode. Never
//! reads or writes their content. A log holds everything that clients ever sent, and anyone who can replace one of
//! its files can change acknowledged messages; so only the user that runs the node has access (rule 10).

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{Access, AtFlags, CWD, OFlags, PROC_SUPER_MAGIC, accessat, statfs},
    io::Errno,
};
use tracing::{debug, info, warn};

use super::LOCK_FILE;

/// Mode of every new file.
const FILE_MODE: u32 = 0o600;
/// Mode of every new directory.
const DIRECTORY_MODE: u32 = 0o700;
/// Mode bits that give access to anyone but the owner.
const OTHERS: u32 = 0o077;
/// Sticky bit: a directory that has it is shared on purpose.
const STICKY: u32 = 0o1000;
/// Subdirectories of a node's directory.
const OWN_DIRECTORIES: [&str; 2] = ["log", "quarantine"];
/// Directory that the system creates in the root of a new file system.
const LOST_AND_FOUND: &str = "lost+found";

/// Identity of a file, independent of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> FileId {
        FileId {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Returns the options for opening a file: symbolic links are not followed, and new files are readable by their
/// owner only.
pub(super) fn options() -> OpenOptions {
    let mut options = File::options();
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    options.mode(FILE_MODE).custom_flags(flags);
    options
}

/// Creates a directory and its missing parents.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
}

/// Checks the owner of a directory and tightens its mode. Once it is closed to other users, they cannot reach
/// anything below it, whatever its mode.
///
/// # Errors
///
/// [`io::ErrorKind::PermissionDenied`] where it is another user's; otherwise the error of the file system, with the
/// directory named.
pub(super) fn check_directory(root: &Path) -> io::Result<()> {
    let metadata = fs::metadata(root)?;
    check_owner(root, &metadata)?;
    if metadata.uid() != 0 && metadata.uid() != rustix::process::geteuid().as_raw() {
        let owner = metadata.uid();
        warn!(path = %root.display(), owner, "the data directory belongs to another user, who can change its content");
    }
    if !may_tighten(&metadata) {
        return Ok(());
    }
    let named = |error| named(root, &error);
    if !is_own(root).map_err(named)? {
        warn!(
            path = %root.display(), mode = format!("{:o}", metadata.mode() & 0o7777),
            "other users have access to this directory, and its mode is left as it is, because it holds files that \
             are not a node's: give the node a directory of its own"
        );
        return Ok(());
    }
    info!(path = %root.display(), "others could use this directory: its mode is tightened");
    // The root may be reached through a symbolic link that an operator chose.
    let directory = File::open(root).map_err(named)?;
    let mode = Permissions::from_mode(DIRECTORY_MODE);
    directory.set_permissions(mode).map_err(named)
}

/// Returns `true` if the mode of a directory is to be tightened, provided that it is a node's own.
fn may_tighten(directory: &Metadata) -> bool {
    is_loose(directory) && directory.mode() & STICKY == 0
}

/// Returns `true` if a node ran in this directory, or if it is empty.
fn is_own(root: &Path) -> io::Result<bool> {
    if root.join(LOCK_FILE).exists() {
        return Ok(true);
    }
    for entry in fs::read_dir(root)? {
        if entry?.file_name() != LOST_AND_FOUND {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Tightens the modes of a node's directories below `root` and of the files in them, once the directory is locked.
/// Files in the root are tightened when they are opened; anything else there is not the node's to change. A mode
/// that cannot be tightened is logged and does not prevent the start.
pub(super) fn tighten_below(root: &Path) {
    for name in OWN_DIRECTORIES {
        let directory = root.join(name);
        tighten_or_log(&directory);
        let files = match fs::read_dir(&directory) {
            Ok(files) => files,
            Err(error) => {
                debug!(path = %directory.display(), %error, "its files cannot be listed, and their modes are not checked");
                continue;
            }
        };
        for file in files.flatten() {
            tighten_or_log(&file.path());
        }
    }
}

fn tighten_or_log(path: &Path) {
    match tighten(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!(path = %path.display(), %error, "its mode cannot be tightened"),
    }
}

/// Checks the owner of a file and tightens its mode.
///
/// # Errors
///
/// [`io::ErrorKind::PermissionDenied`] where it is another user's.
pub(super) fn check_file(file: &File, metadata: &Metadata, path: &Path) -> io::Result<()> {
    check_owner(path, metadata)?;
    if metadata.is_file() && is_loose(metadata) {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(())
}

/// Returns `true` if other users have access and this process may take it away.
fn is_loose(metadata: &Metadata) -> bool {
    metadata.mode() & OTHERS != 0 && metadata.uid() == rustix::process::geteuid().as_raw()
}

/// Removes the access of other users. A file that belongs to somebody else is left as it is.
fn tighten(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    if !is_loose(&metadata) || !(kind.is_file() || kind.is_dir()) {
        return Ok(());
    }
    // If the file is replaced meanwhile, the mode of the very file that is opened is changed: a link is not
    // followed.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    let mode = match metadata.file_type() {
        kind if kind.is_file() => FILE_MODE,
        kind if kind.is_dir() => DIRECTORY_MODE,
        _ => return Ok(()),
    };
    match is_loose(&metadata) {
        true => file.set_permissions(Permissions::from_mode(mode)),
        false => Ok(()),
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Checks as much of a directory as can be known before it is created or used: no file is in the way, it belongs to
/// nobody else, and this process may write in it, or in the parent where it would be created.
///
/// # Errors
///
/// Names the directory or file, and the problem.
pub(super) fn check_usable(root: &Path) -> io::Result<()> {
    if let Some(file) = root.ancestors().find(|dir| dir.is_file()) {
        let text = format!(
            "{} is a file, and a directory is needed: move the file away, or name another path",
            file.display()
        );
        return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
    }
    let Some(present) = root.ancestors().find(|dir| dir.exists()) else {
        return Ok(());
    };
    let mut is_tightened_first = false;
    if present == root {
        let metadata = fs::metadata(root)?;
        check_owner(root, &metadata)?;
        is_tightened_first = may_tighten(&metadata) && is_own(root).is_ok_and(|is_own| is_own);
    }
    if statfs(present).is_ok_and(|system| system.f_type == PROC_SUPER_MAGIC) {
        let text = format!(
            "{} is the system's process file system, and nothing can be stored in it: name another path",
            present.display()
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let may = Access::WRITE_OK | Access::EXEC_OK;
    match accessat(CWD, present, may, AtFlags::EACCESS) {
        // `check_directory` gives it a mode with which the owner may write, as it does for 0555.
        Err(Errno::ACCESS) if is_tightened_first => Ok(()),
        Err(error @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
            let error = io::Error::from(error);
            let text = match present == root {
                true => format!("{} cannot be written to: {error}", root.display()),
                false => format!("it cannot be created in {}: {error}", present.display()),
            };
            Err(io::Error::new(error.kind(), text))
        }
        // Any other error is no answer: an old system cannot check for another effective user.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Refuses a file that belongs to another user. Root's files pass, because root creates some for others, such as
/// mounted volumes; and root itself may use everything.
fn check_owner(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let (owner, own) = (metadata.uid(), rustix::process::geteuid());
    if owner == own.as_raw() || owner == 0 || own.is_root() {
        return Ok(());
    }
    let text = format!(
        "{} belongs to user {owner}, and this process runs as user {}: its owner can change \
         what it holds; give it to the user that runs the node (chown)",
        path.display(),
        own.as_raw()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Refuses a symbolic link; a path that does not exist passes.
pub(super) fn refuse_link(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(is_link(path)),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Replaces the system's "too many levels of symbolic links" with a plain error.
pub(super) fn explain_link(path: &Path, error: io::Error) -> io::Error {
    match refuse_link(path) {
        Err(link) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::LOOP) => {
            link
        }
        _ => error,
    }
}

fn is_link(path: &Path) -> io::Error {
    let text = format!(
        "{} is a symbolic link, and links in a node's directory are not followed: put the file itself \
         there (the directory as a whole may be a link)",
        path.display()
    );
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Checks that `path` still leads to this file.
///
/// # Errors
///
/// [`io::ErrorKind::NotFound`] where it leads nowhere, or to another file. Any other error that prevents the check
/// says nothing about the file.
pub(super) fn check_place(path: &Path, id: FileId) -> io::Result<()> {
    let what = match fs::symlink_metadata(path) {
        Ok(metadata) if FileId::of(&metadata) == id => return Ok(()),
        Ok(_) => "another file is in its place",
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::StaleNetworkFileHandle => "it is gone",
            _ => return Ok(()),
        },
    };
    let text = format!(
        "the directory was removed, moved or replaced while the node ran: {}: {what}",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the entry of a directory in its `parent` durable, on the way to `root`. A parent that may be traversed but
/// not read (mode 0711) cannot be opened for a sync: then the whole file system is synced.
///
/// # Errors
///
/// The error of the file system, with the parent named.
pub(crate) fn sync_entry(parent: &Path, root: &Path, was_made: bool) -> io::Result<()> {
    match sync_directory(parent) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            match sync_file_system(root) {
                Err(error) if was_made => Err(io::Error::new(
                    error.kind(),
                    format!(
                        "{} cannot be opened to make a new directory in it durable: {error}",
                        parent.display()
                    ),
                )),
                // The directory existed before: its entry was written back long ago.
                _ => Ok(()),
            }
        }
        synced => synced,
    }
}

#[cfg(target_os = "linux")]
fn sync_file_system(root: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(root)?)?)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_: &Path) -> io::Result<()> {
    Err(io::ErrorKind::PermissionDenied.into())
}
