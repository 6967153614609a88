//! Who may touch the files of a [`FileStorage`](super::FileStorage), and whether they are still there.
//!
//! Owns modes, owners and symbolic links of a node's directory, and the identity of files: device and
//! inode. Never reads or writes what is in them. A log holds everything that clients ever sent, and
//! whoever can replace a file of it changes what was acknowledged; so the user that runs the node is
//! the only one who may (rule 10).

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

/// Mode of every file that is made.
const FILE_MODE: u32 = 0o600;
/// Mode of every directory that is made.
const DIRECTORY_MODE: u32 = 0o700;
/// What a mode lets others than the owner do.
const OTHERS: u32 = 0o077;
/// Whoever set this bit shares the directory on purpose.
const STICKY: u32 = 0o1000;
/// Directories of a node, below its own.
const OWN_DIRECTORIES: [&str; 2] = ["log", "quarantine"];
/// What the system puts into the root of a file system that it makes.
const LOST_AND_FOUND: &str = "lost+found";

/// What makes a file the one that it is, whatever its name.
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

/// How a file is opened: no symbolic link is followed, and nobody else may read what is made.
pub(super) fn options() -> OpenOptions {
    let mut options = File::options();
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    options.mode(FILE_MODE).custom_flags(flags);
    options
}

/// Makes a directory, and those above it that are missing.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
}

/// Checks whose directory it is, and tightens its own mode. With it closed to others, nothing below can be
/// reached by them, whatever its mode is.
///
/// # Errors
///
/// [`io::ErrorKind::PermissionDenied`] where it is another user's; else what the file system says, naming the
/// directory.
pub(super) fn check_directory(root: &Path) -> io::Result<()> {
    let metadata = fs::metadata(root)?;
    check_owner(root, &metadata)?;
    if metadata.uid() != 0 && metadata.uid() != rustix::process::geteuid().as_raw() {
        let owner = metadata.uid();
        warn!(path = %root.display(), owner, "it belongs to another user, who can change what it holds");
    }
    if !is_loose(&metadata) || metadata.mode() & STICKY != 0 {
        return Ok(());
    }
    let named = |error| named(root, &error);
    if !is_own(root).map_err(named)? {
        warn!(
            path = %root.display(), mode = format!("{:o}", metadata.mode() & 0o7777),
            "others may use this directory, and its mode is left as it is, since there are files in it that \
             are no node's: give the node a directory of its own"
        );
        return Ok(());
    }
    info!(path = %root.display(), "others could use this directory: its mode is tightened");
    // The root may be reached through a link, which an operator chose.
    let directory = File::open(root).map_err(named)?;
    let mode = Permissions::from_mode(DIRECTORY_MODE);
    directory.set_permissions(mode).map_err(named)
}

/// Whether a node lived in this directory, or nobody did.
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

/// Tightens the modes of a node's directories below `root` and of the files in them, once the directory is
/// locked. Files of the root are tightened when they are opened; what else is there is nobody's business.
/// Where something cannot be tightened, that is said, and stops nothing.
pub(super) fn tighten_below(root: &Path) {
    for name in OWN_DIRECTORIES {
        let directory = root.join(name);
        tighten_or_say(&directory);
        let files = match fs::read_dir(&directory) {
            Ok(files) => files,
            Err(error) => {
                debug!(path = %directory.display(), %error, "its files are not looked at");
                continue;
            }
        };
        for file in files.flatten() {
            tighten_or_say(&file.path());
        }
    }
}

fn tighten_or_say(path: &Path) {
    match tighten(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!(path = %path.display(), %error, "its mode cannot be tightened"),
    }
}

/// Checks whose file it is, and tightens its mode.
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

/// Whether others may use it, and this process may change that.
fn is_loose(metadata: &Metadata) -> bool {
    metadata.mode() & OTHERS != 0 && metadata.uid() == rustix::process::geteuid().as_raw()
}

/// Takes away what others may do. What somebody else put there is left as it is.
fn tighten(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    if !is_loose(&metadata) || !(kind.is_file() || kind.is_dir()) {
        return Ok(());
    }
    // Whatever takes its place meanwhile, the mode of that very file is changed: a link is not followed.
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

/// Root owns what it makes for others, as mounted volumes; and root itself may use everything.
/// Checks what can be known of a directory before it is made or used: no file is in the way, it belongs to nobody else, and
/// this process may write in it, or in the one where it would be made.
///
/// # Errors
///
/// The directory or file, and what is wrong with it.
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
    if present == root {
        check_owner(root, &fs::metadata(root)?)?;
    }
    if statfs(present).is_ok_and(|system| system.f_type == PROC_SUPER_MAGIC) {
        let text = format!(
            "{} is a view of the system's processes, and nothing can be kept in it: name another path",
            present.display()
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let may = Access::WRITE_OK | Access::EXEC_OK;
    match accessat(CWD, present, may, AtFlags::EACCESS) {
        Err(error @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
            let error = io::Error::from(error);
            let text = match present == root {
                true => format!("{} cannot be written to: {error}", root.display()),
                false => format!("it cannot be made in {}: {error}", present.display()),
            };
            Err(io::Error::new(error.kind(), text))
        }
        // Anything else is no answer: an old system cannot tell for another effective user.
        Ok(()) | Err(_) => Ok(()),
    }
}

fn check_owner(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let (owner, own) = (metadata.uid(), rustix::process::geteuid());
    if owner == own.as_raw() || owner == 0 || own.is_root() {
        return Ok(());
    }
    let text = format!(
        "{} belongs to user {owner}, and this process runs as user {}: whoever owns it can change \
         what it holds; give it to the user that runs the node (chown)",
        path.display(),
        own.as_raw()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Refuses a symbolic link; what does not exist is none.
pub(super) fn refuse_link(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(is_link(path)),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Says plainly what the system calls too many levels of symbolic links.
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
/// [`io::ErrorKind::NotFound`] where it leads nowhere, or to another one. Whatever else keeps it from
/// being looked at says nothing about it.
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

/// Makes the entry of a directory in its `parent` durable, on the way to `root`. A parent that may be
/// passed but not read (mode 0711) cannot be opened to be synced: then the whole file system is.
///
/// # Errors
///
/// What the file system says, naming the parent.
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
                // It was there before: its entry has long been written back.
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
