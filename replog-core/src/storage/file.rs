//! [`Storage`] on a directory of the operating system's file system.
//!
//! Owns the translation of each operation to a system call, and access control for the files (`access.rs`). It
//! keeps no content, and retries nothing that the system refused, except interrupted calls. Keeps rule 10: every
//! failure is returned as the system reported it, and a directory that is no longer where it was opened is noticed.

mod access;

use std::{
    fs::{self, File},
    io::{self, IoSlice, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use access::FileId;
#[cfg(feature = "net")]
pub(crate) use access::sync_entry;

use super::{OpenHow, Storage, StorageFile, StorageLock};

/// Most parts per system call: `IOV_MAX` on Linux. A longer list is written by several calls.
const PARTS_PER_CALL_MAX: usize = 1024;
/// Bytes of zeros written per call.
const ZEROS_BYTES: usize = 64 << 10;

/// Name of the lock file, which keeps a second process out.
pub(crate) const LOCK_FILE: &str = "lock";

/// A [`Storage`] in a directory of the file system.
///
/// Two instances on one directory see the same files; only [`Storage::lock`] keeps two nodes apart.
#[derive(Clone, Debug)]
pub struct FileStorage {
    root: Arc<Path>,
    access: Access,
    /// Identity of the lock file, once it was locked.
    lock_file: Arc<Mutex<Option<FileId>>>,
}

/// Kinds of access to the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Change,
    ReadOnly,
}

impl FileStorage {
    /// Opens `dir` and creates it, with its parents, where it does not exist.
    ///
    /// Only the user that runs the process may read it: files get mode 0600 and directories 0700. Looser modes from
    /// before are tightened: that of `dir` at once, those below it when it is locked. They are left alone where
    /// `dir` belongs to another user, has the sticky bit, as `/tmp` has, or holds files and was never a node's.
    /// Symbolic links below `dir` are never followed; `dir` itself may be one.
    ///
    /// # Errors
    ///
    /// The file system's error when a directory cannot be created or its entry cannot be synced;
    /// [`io::ErrorKind::NotADirectory`] where a file is in its place, and [`io::ErrorKind::PermissionDenied`] where
    /// it belongs to another user than root and the one that runs the process, unless that is root.
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<FileStorage> {
        let root = std::path::absolute(dir.into())?;
        access::check_usable(&root)?;
        let missing: Vec<&Path> = root.ancestors().take_while(|dir| !dir.exists()).collect();
        access::make_directory(&root)?;
        access::check_directory(&root)?;
        // An entry is durable once its parent directory is synced. The root's own entry is synced even if the root
        // existed: an earlier start may have been cut off before doing so.
        for made in missing.iter().copied().chain([root.as_path()]) {
            if let Some(parent) = made.parent() {
                access::sync_entry(parent, &root, missing.contains(&made))?;
            }
        }
        Ok(FileStorage::at(root, Access::Change))
    }

    /// Checks whether [`FileStorage::open`] would refuse `dir`, and creates nothing. Reasons are a file in its
    /// place, another user's directory, or a place where this process may not write.
    ///
    /// # Errors
    ///
    /// Like [`FileStorage::open`]. Success is no promise: only a real attempt shows whether the file system has
    /// space.
    pub fn check(dir: impl Into<PathBuf>) -> io::Result<()> {
        access::check_usable(&std::path::absolute(dir.into())?)
    }

    fn at(root: PathBuf, access: Access) -> FileStorage {
        FileStorage {
            root: root.into(),
            access,
            lock_file: Arc::default(),
        }
    }

    /// Resolves `path` below the root. Its directory must not be a symbolic link; the last component is checked by
    /// the call that opens it.
    fn resolve(&self, path: &str) -> io::Result<PathBuf> {
        if let Some((dir, _)) = path.split_once('/') {
            access::refuse_link(&self.root.join(dir))?;
        }
        Ok(self.root.join(path))
    }

    fn resolve_directory(&self, dir: &str) -> io::Result<PathBuf> {
        let path = self.resolve(dir)?;
        if !dir.is_empty() {
            access::refuse_link(&path)?;
        }
        Ok(path)
    }

    /// Opens `dir`, which must exist, for reading. Nothing is created or changed there, not even a lock file, and
    /// every operation that would do so is refused; `dir` may be on a read-only medium. Its lock keeps nodes out,
    /// but not other readers.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] and [`io::ErrorKind::NotADirectory`], or any other error of the file system.
    pub fn open_read_only(dir: impl Into<PathBuf>) -> io::Result<FileStorage> {
        let root = std::path::absolute(dir.into())?;
        if !fs::metadata(&root)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(FileStorage::at(root, Access::ReadOnly))
    }

    /// Returns the path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn changeable(&self) -> io::Result<()> {
        match self.access {
            Access::Change => Ok(()),
            Access::ReadOnly => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    /// Takes a shared lock on the lock file without writing to it. Where there is no such file, no node ever ran
    /// here.
    fn lock_read_only(&self) -> io::Result<Box<dyn StorageLock>> {
        let file = match access::options().read(true).open(self.root.join(LOCK_FILE)) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        match file.as_ref().map_or(Ok(()), File::try_lock_shared) {
            Ok(()) => Ok(Box::new(SystemLock { _file: file })),
            Err(refused) => Err(refused.into()),
        }
    }
}

impl Storage for FileStorage {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.resolve_directory(dir)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.changeable()?;
        access::make_directory(&self.resolve_directory(dir)?)
    }

    fn open(&self, path: &str, how: OpenHow) -> io::Result<Arc<dyn StorageFile>> {
        if how != OpenHow::Existing {
            self.changeable()?;
        }
        let mut options = access::options();
        options.read(true).write(self.access == Access::Change);
        match how {
            OpenHow::Existing => {}
            OpenHow::Truncated => {
                options.create(true).truncate(true);
            }
            OpenHow::Create => {
                options.create(true).truncate(false);
            }
        }
        let resolved = self.resolve(path)?;
        let file = options
            .open(&resolved)
            .map_err(|error| access::explain_link(&resolved, error))?;
        let metadata = file.metadata()?;
        if self.access == Access::Change {
            access::check_file(&file, &metadata, &resolved)?;
        }
        Ok(Arc::new(SystemFile {
            root: self.root.clone(),
            id: FileId::of(&metadata),
            end: AtomicU64::new(metadata.len()),
            file,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.changeable()?;
        fs::rename(self.resolve(from)?, self.resolve(to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.changeable()?;
        fs::remove_file(self.resolve(path)?)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        access::sync_directory(&self.resolve_directory(dir)?)
    }

    fn lock(&self) -> io::Result<Box<dyn StorageLock>> {
        if self.access == Access::ReadOnly {
            return self.lock_read_only();
        }
        let path = self.root.join(LOCK_FILE);
        let file = access::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| access::explain_link(&path, error))?;
        let metadata = file.metadata()?;
        access::check_file(&file, &metadata, &path)?;
        file.try_lock()?;
        access::tighten_below(&self.root);
        let mut known = self
            .lock_file
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Some(FileId::of(&metadata));
        Ok(Box::new(SystemLock { _file: Some(file) }))
    }

    fn check_place(&self) -> io::Result<()> {
        let known = *self
            .lock_file
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match known {
            Some(id) => access::check_place(&self.root.join(LOCK_FILE), id),
            None => Ok(()),
        }
    }

    fn survives_the_process(&self) -> bool {
        true
    }
}

/// An open file and the position after its last byte, as far as this handle has moved it.
#[derive(Debug)]
struct SystemFile {
    /// The storage's directory.
    root: Arc<Path>,
    id: FileId,
    file: File,
    /// Position of the next append. Only the one writer changes it.
    end: AtomicU64,
}

impl StorageFile for SystemFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self
                .file
                .read_at(&mut buffer[done..], position + done as u64)
            {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut file = &self.file;
        // The cursor is used by appends only; reads pass their position. It is set each time, since the end may
        // have moved without it.
        file.seek(SeekFrom::Start(self.end.load(Ordering::Relaxed)))?;
        let mut parts = parts.to_vec();
        let mut parts = &mut parts[..];
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let call = &parts[..parts.len().min(PARTS_PER_CALL_MAX)];
            match file.write_vectored(call) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.end.fetch_add(written as u64, Ordering::Relaxed);
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, position)?;
        self.end
            .fetch_max(position + bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn write_parts_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut parts = parts.to_vec();
        let mut parts = &mut parts[..];
        let mut at = position;
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let call = &parts[..parts.len().min(PARTS_PER_CALL_MAX)];
            match rustix::io::pwritev(&self.file, call, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    self.end.fetch_max(at, Ordering::Relaxed);
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        // Written, not only reserved: reserved space becomes content by a change of metadata, which a sync would
        // have to make durable each time.
        let zeros = [0; ZEROS_BYTES];
        let mut at = self.size()?;
        while at < size {
            let length =
                usize::try_from(size - at).map_or(ZEROS_BYTES, |left| left.min(ZEROS_BYTES));
            self.file.write_all_at(&zeros[..length], at)?;
            at += length as u64;
            self.end.fetch_max(at, Ordering::Relaxed);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // fdatasync: it covers the length and leaves out timestamps, which nothing reads.
        self.file.sync_data()
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)?;
        self.end.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn check_place(&self, path: &str) -> io::Result<()> {
        access::check_place(&self.root.join(path), self.id)
    }
}

/// A lock of the operating system, released when the file is closed or the process ends.
#[derive(Debug)]
struct SystemLock {
    _file: Option<File>,
}

impl StorageLock for SystemLock {}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn fresh() -> (Arc<dyn Storage>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Arc::new(FileStorage::open(dir.path()).unwrap()), dir)
    }

    crate::storage::suite::conformance!(super::fresh());

    #[test]
    fn opening_creates_the_directory_and_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        let storage = FileStorage::open(&path).unwrap();
        assert!(path.is_dir());
        assert_eq!(storage.list("").unwrap(), Vec::<String>::new());
        FileStorage::open(&path).unwrap();
    }

    #[test]
    fn opening_where_a_file_is_in_the_way_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        assert!(FileStorage::open(path.join("below")).is_err());
        assert!(FileStorage::open(&path).is_err());
    }

    #[test]
    fn written_content_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(dir.path()).unwrap();
        let file = storage.open("file", OpenHow::Create).unwrap();
        file.append(&[IoSlice::new(b"one "), IoSlice::new(b"two")])
            .unwrap();
        file.sync().unwrap();
        drop((file, storage));
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"one two");
    }

    #[test]
    fn a_directory_opened_read_only_stays_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let refused = FileStorage::open_read_only(dir.path().join("nowhere")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        fs::write(dir.path().join("file"), "content").unwrap();
        let refused = FileStorage::open_read_only(dir.path().join("file")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotADirectory);

        let storage = FileStorage::open_read_only(dir.path()).unwrap();
        let _lock = storage.lock().unwrap();
        let refused = [
            storage.create_dir("log").unwrap_err(),
            storage.open("new", OpenHow::Create).unwrap_err(),
            storage.open("file", OpenHow::Truncated).unwrap_err(),
            storage.rename("file", "other").unwrap_err(),
            storage.remove("file").unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        let file = storage.open("file", OpenHow::Existing).unwrap();
        assert!(file.append(&[IoSlice::new(b"more")]).is_err());
        assert!(file.write_at(0, b"other").is_err());
        assert!(file.allocate(100).is_err());
        assert!(file.truncate(0).is_err());
        let mut read = [0; 10];
        assert_eq!(file.read_at(0, &mut read).unwrap(), 7);
        assert_eq!(storage.list("").unwrap(), ["file"]);
    }

    #[test]
    fn nodes_and_readers_keep_each_other_out() {
        let dir = tempfile::tempdir().unwrap();
        let node = FileStorage::open(dir.path()).unwrap();
        let lock = node.lock().unwrap();
        let reader = FileStorage::open_read_only(dir.path()).unwrap();
        assert_eq!(reader.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        let first = reader.lock().unwrap();
        let second = reader.lock().unwrap();
        drop(first);
        assert_eq!(node.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(second);
        node.lock().unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn a_directory_that_is_removed_moved_or_replaced_is_noticed() {
        let above = tempfile::tempdir().unwrap();
        let (dir, moved) = (above.path().join("data"), above.path().join("moved"));
        let storage = FileStorage::open(&dir).unwrap();
        let lock = storage.lock().unwrap();
        storage.create_dir("log").unwrap();
        let file = storage.open("log/1", OpenHow::Create).unwrap();
        let gone = |result: io::Result<()>| {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        };
        storage.check_place().unwrap();
        file.check_place("log/1").unwrap();

        fs::rename(&dir, &moved).unwrap();
        gone(storage.check_place());
        gone(file.check_place("log/1"));
        // A directory that looks the same is a different one.
        fs::create_dir_all(dir.join("log")).unwrap();
        fs::write(dir.join("lock"), "").unwrap();
        fs::write(dir.join("log/1"), "").unwrap();
        gone(storage.check_place());
        gone(file.check_place("log/1"));
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(&moved, &dir).unwrap();
        storage.check_place().unwrap();
        file.check_place("log/1").unwrap();

        fs::remove_file(dir.join("log/1")).unwrap();
        gone(file.check_place("log/1"));
        storage.check_place().unwrap();
        fs::remove_dir_all(&dir).unwrap();
        gone(storage.check_place());
        drop(lock);
    }

    #[test]
    fn new_files_and_directories_are_private_to_their_owner() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("a/data");
        let storage = FileStorage::open(&dir).unwrap();
        let _lock = storage.lock().unwrap();
        storage.create_dir("log").unwrap();
        storage.open("log/1", OpenHow::Create).unwrap();
        storage.open("meta", OpenHow::Truncated).unwrap();
        for made in [dir.clone(), dir.join("log"), above.path().join("a")] {
            assert_eq!(mode(&made), 0o700, "{made:?}");
        }
        for made in ["lock", "log/1", "meta"] {
            assert_eq!(mode(&dir.join(made)), 0o600, "{made}");
        }
    }

    #[test]
    fn loose_modes_from_before_are_tightened() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("data");
        fs::create_dir_all(dir.join("log")).unwrap();
        for path in ["lock", "meta", "log/1"] {
            fs::write(dir.join(path), "x").unwrap();
            set_mode(&dir.join(path), 0o644);
        }
        for path in [dir.join("log"), dir.clone()] {
            set_mode(&path, 0o755);
        }
        FileStorage::open_read_only(&dir).unwrap();
        assert_eq!(mode(&dir), 0o755, "opening read-only changes nothing");
        let storage = FileStorage::open(&dir).unwrap();
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(
            mode(&dir.join("log")),
            0o755,
            "another process may hold the lock"
        );
        let _lock = storage.lock().unwrap();
        assert_eq!(mode(&dir.join("log")), 0o700);
        for path in ["lock", "log/1"] {
            assert_eq!(mode(&dir.join(path)), 0o600, "{path}");
        }
        storage.open("meta", OpenHow::Existing).unwrap();
        assert_eq!(mode(&dir.join("meta")), 0o600);
        // A directory that is shared on purpose, and one where no node ever ran.
        set_mode(&dir, 0o1777);
        FileStorage::open(&dir).unwrap();
        assert_eq!(mode(&dir), 0o1777);
        let others = above.path().join("others");
        fs::create_dir(&others).unwrap();
        fs::write(others.join("something"), "x").unwrap();
        set_mode(&others, 0o755);
        FileStorage::open(&others).unwrap();
        assert_eq!(mode(&others), 0o755);
    }

    /// The root of a file system has a directory that only root may read; snapshots and the like come and go.
    #[test]
    fn files_that_are_not_the_nodes_are_left_alone_and_do_not_prevent_a_start() {
        let above = tempfile::tempdir().unwrap();
        let (dir, victim) = (above.path().join("data"), above.path().join("victim"));
        fs::create_dir_all(dir.join("lost+found")).unwrap();
        set_mode(&dir.join("lost+found"), 0o000);
        fs::write(&victim, "theirs").unwrap();
        set_mode(&victim, 0o644);
        set_mode(&dir, 0o755);
        for start in 0..3 {
            let storage = FileStorage::open(&dir).unwrap();
            assert_eq!(mode(&dir), 0o700, "start {start}");
            let _lock = storage.lock().unwrap();
            storage.create_dir("log").unwrap();
            if start == 1 {
                std::os::unix::fs::symlink(&victim, dir.join("log/1")).unwrap();
                fs::create_dir(dir.join("other")).unwrap();
                set_mode(&dir.join("other"), 0o755);
                set_mode(&dir.join("log"), 0o755);
                set_mode(&dir, 0o755);
            }
        }
        assert_eq!(mode(&dir.join("log")), 0o700);
        assert_eq!(mode(&dir.join("lost+found")), 0o000);
        assert_eq!(mode(&dir.join("other")), 0o755);
        assert_eq!(mode(&victim), 0o644);
    }

    #[test]
    fn links_are_not_followed() {
        let above = tempfile::tempdir().unwrap();
        let (dir, victim) = (above.path().join("data"), above.path().join("victim"));
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("file"), "theirs").unwrap();
        let storage = FileStorage::open(&dir).unwrap();
        std::os::unix::fs::symlink(victim.join("file"), dir.join("mark")).unwrap();
        std::os::unix::fs::symlink(victim.join("file"), dir.join("lock")).unwrap();
        std::os::unix::fs::symlink(&victim, dir.join("log")).unwrap();
        for how in [OpenHow::Existing, OpenHow::Create, OpenHow::Truncated] {
            for path in ["mark", "log/file", "log/new"] {
                let error = storage.open(path, how).unwrap_err();
                assert!(error.to_string().contains("is a symbolic link"), "{error}");
            }
        }
        assert!(storage.lock().is_err());
        assert!(storage.list("log").is_err());
        assert!(storage.create_dir("log").is_err());
        assert!(storage.sync_dir("log").is_err());
        assert!(storage.remove("log/file").is_err());
        assert!(storage.rename("log/file", "other").is_err());
        assert_eq!(fs::read(victim.join("file")).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
        // The directory itself may be one: an operator chose it.
        let link = above.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        fs::remove_file(dir.join("lock")).unwrap();
        let through = FileStorage::open(&link).unwrap();
        through.lock().unwrap();
        through.check_place().unwrap();
    }

    #[test]
    fn an_unreadable_parent_directory_does_not_prevent_opening() {
        let above = tempfile::tempdir().unwrap();
        let parent = above.path().join("parent");
        fs::create_dir(&parent).unwrap();
        FileStorage::open(parent.join("there")).unwrap();
        set_mode(&parent, 0o311);
        // Root can read it regardless; a system test covers the complete case.
        FileStorage::open(parent.join("there")).unwrap();
        if !is_root() {
            FileStorage::open(parent.join("made")).unwrap();
        }
        set_mode(&parent, 0o700);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        for path in [path.clone(), path.join("below")] {
            let error = FileStorage::open(path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
            let text = error.to_string();
            assert!(
                text.contains("file is a file, and a directory is needed"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_full_disk_is_reported_as_full() {
        // A device that refuses every write because it is full, where the system has one.
        let Ok(full) = File::options().write(true).open("/dev/full") else {
            return;
        };
        let file = SystemFile {
            root: Path::new("/dev").into(),
            id: FileId::of(&full.metadata().unwrap()),
            file: full,
            end: AtomicU64::new(0),
        };
        let error = file.append(&[IoSlice::new(b"x")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let error = file.write_at(0, b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
