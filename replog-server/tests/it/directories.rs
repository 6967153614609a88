//! A node's directory: lost while the node runs, unreadable, in the way, or owned by another user.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Output},
};

use crate::nodes::{Cluster, Process, eventually, program};

/// The user `nobody`.
const NOBODY: u32 = 65534;

/// Builds the command of a secondary that keeps its log in this directory.
fn secondary(data: &Path) -> Command {
    let mut command = program();
    let name = ["secondary", "--name", "secondary-1"];
    command.args(name).args(["--listen", "127.0.0.1:0"]);
    // Without a secret, whose file would need the right owner, too.
    command.args(["--cluster-listen", "127.0.0.1:0", "--cluster-insecure"]);
    command.arg("--data-dir").arg(data);
    command
}

/// Returns the message of a start that fails.
fn refusal(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{text}");
    text
}

/// Reports whether the tests run as root, who may start processes as another user.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_node_whose_directory_is_removed_ends_with_the_reason() {
    let mut cluster = Cluster::start(2, &[]);
    assert_eq!(cluster.append("held by all", 3).status, 201);
    for node in cluster.secondaries.iter().chain([&cluster.master]) {
        fs::remove_dir_all(&node.directory).expect("it is there");
    }
    let [first, second] = &mut cluster.secondaries[..] else {
        panic!("two secondaries");
    };
    for node in [first, second, &mut cluster.master] {
        let mut process: Process = node.take();
        let status = eventually("it ends", || process.ended());
        assert_eq!(status.code(), Some(1), "{}", node.name);
        let log = process.log_text();
        let reason = "the directory was removed, moved or replaced while the node ran";
        assert!(log.contains(reason), "{}: {log}", node.name);
    }
}

#[test]
fn a_start_without_a_meta_file_that_can_be_read_says_what_to_do() {
    let mut cluster = Cluster::start(1, &[]);
    assert_eq!(cluster.append("kept", 2).status, 201);
    cluster.secondaries[0].terminate();
    let data = cluster.secondaries[0].directory.clone();
    let meta = data.join("meta.json");
    for (what, says) in [
        ("gone", "is missing, and the directory has a log"),
        ("empty", "is not a meta file"),
    ] {
        match what {
            "gone" => fs::remove_file(&meta).expect("it is there"),
            _ => fs::write(&meta, "").expect("room for it"),
        }
        let text = refusal(secondary(&data));
        assert!(text.contains(says), "{what}: {text}");
        assert!(
            text.contains("Move the directory away and start with an empty one"),
            "{what}: {text}"
        );
    }
    // The advice that it gives works.
    fs::rename(&data, data.with_extension("away")).expect("a free name");
    cluster.secondaries[0].start();
    assert_eq!(cluster.append("and more", 2).status, 201);
    cluster.wait_equal();
}

#[test]
fn a_file_where_the_directory_should_be_is_named() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, "x").expect("room for it");
    for data in [file.clone(), file.join("data")] {
        let text = refusal(secondary(&data));
        assert!(
            text.contains("is a file, and a directory is needed"),
            "{text}"
        );
    }
}

#[test]
fn a_link_in_the_directory_is_not_followed() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let (data, victim) = (
        directory.path().join("data"),
        directory.path().join("victim"),
    );
    fs::create_dir(&data).expect("a directory");
    fs::write(&victim, "theirs").expect("room for it");
    symlink(&victim, data.join("mark")).expect("a link");
    let text = refusal(secondary(&data));
    assert!(text.contains("is a symbolic link"), "{text}");
    assert_eq!(fs::read(&victim).expect("a file"), b"theirs");
}

#[test]
fn a_parent_directory_that_cannot_be_read_does_not_prevent_a_start() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let (parent, log) = (
        directory.path().join("parent"),
        directory.path().join("log"),
    );
    let data = parent.join("data");
    fs::create_dir_all(&data).expect("a directory");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    let mut command = secondary(&data);
    if is_root() {
        // Root reads everything.
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("root may");
        mode(directory.path(), 0o711);
        mode(&parent, 0o711);
        command.uid(NOBODY).gid(NOBODY);
    } else {
        mode(&parent, 0o311);
    }
    let process = Process::run(command, &log);
    assert!(process.line().starts_with("secondary-1 http://"));
    assert_eq!(process.terminate().code(), Some(0));
    mode(&parent, 0o755);
}

#[test]
fn a_loose_mode_without_write_permission_is_tightened_where_the_directory_is_the_nodes_own() {
    for (mode, content, starts) in [
        (0o555, &[][..], true),
        (0o555, &["lock", "something"], true),
        (0o555, &["something"], false),
        (0o1555, &["lock"], false),
        (0o500, &["lock"], false),
    ] {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let data = directory.path().join("data");
        fs::create_dir(&data).expect("a directory");
        for name in content {
            fs::write(data.join(name), "").expect("room for it");
        }
        let set_mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        let mut command = secondary(&data);
        if is_root() {
            // Root writes everywhere.
            for path in content.iter().map(|name| data.join(name)) {
                chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
            }
            chown(&data, Some(NOBODY), Some(NOBODY)).expect("root may");
            set_mode(directory.path(), 0o711);
            command.uid(NOBODY).gid(NOBODY);
        }
        set_mode(&data, mode);
        if starts {
            let process = Process::run(command, &directory.path().join("log"));
            assert!(process.line().starts_with("secondary-1 http://"));
            let tightened = fs::metadata(&data).expect("it is there").permissions();
            assert_eq!(tightened.mode() & 0o7777, 0o700);
            assert_eq!(process.terminate().code(), Some(0));
        } else {
            let text = refusal(command);
            assert!(text.contains("cannot be written to"), "{mode:o}: {text}");
        }
        set_mode(&data, 0o700);
    }
}

#[test]
fn the_directory_of_another_user_is_refused() {
    if !is_root() {
        println!("skipped: only root gives directories to others");
        return;
    }
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let data = directory.path().join("data");
    fs::create_dir(&data).expect("a directory");
    let open = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("it is ours");
    };
    open(directory.path());
    open(&data);
    chown(&data, Some(12_345), Some(12_345)).expect("root may");
    let mut command = secondary(&data);
    command.uid(NOBODY).gid(NOBODY);
    let text = refusal(command);
    assert!(text.contains("belongs to user 12345"), "{text}");
}

#[test]
fn a_node_of_a_cluster_whose_secret_is_lost_creates_no_new_one() {
    let mut cluster = Cluster::start(1, &[]);
    assert_eq!(cluster.append("kept", 2).status, 201);
    let secret = cluster.secret_file();
    let secondary = &mut cluster.secondaries[0];
    secondary.terminate();
    let away = secret.with_extension("away");
    fs::rename(&secret, &away).expect("it is there");
    secondary.launch();
    let mut process = secondary.take();
    assert_eq!(process.wait().code(), Some(1));
    let log = process.log_text();
    assert!(log.contains("the cluster's secret is missing"), "{log}");
    assert!(!secret.exists());
    // With the file of another node, as the message says, it is back.
    fs::rename(&away, &secret).expect("a free name");
    secondary.start();
    cluster.wait_alive(2);

    // A blank directory has nothing to lose; a path that does not exist is a typing error.
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let node = |file: &Path| {
        let mut command = program();
        command.args(["secondary", "--name", "new", "--listen", "127.0.0.1:0"]);
        command.args(["--cluster-listen", "127.0.0.1:0", "--cluster-secret-file"]);
        command
            .arg(file)
            .arg("--data-dir")
            .arg(directory.path().join("data"));
        command
    };
    let file = directory.path().join("mistyped").join("cluster.secret");
    let text = refusal(node(&file));
    assert!(text.contains("there is no directory"), "{text}");
    let file = directory.path().join("cluster.secret");
    let process = Process::run(node(&file), &directory.path().join("log"));
    assert!(process.line().starts_with("new http://"));
    assert!(file.exists());
}

#[test]
fn a_refused_start_creates_nothing() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let data = directory.path().join("data");
    let cluster = |kind: &[&str], secondaries: &str| {
        let mut command = program();
        command
            .args(kind)
            .args(["--port", "0", "--secondaries", secondaries]);
        command.arg("--data-dir").arg(&data);
        command
    };
    let process = Process::run(cluster(&["cluster"], "2"), &directory.path().join("log"));
    let lines: Vec<String> = (0..4).map(|_| process.line()).collect();
    assert_eq!(lines[3], "ready");
    assert_eq!(process.terminate().code(), Some(0));
    let entries = || {
        let entries = fs::read_dir(&data).expect("it is there");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    let before = entries();
    assert_eq!(before.len(), 4, "three nodes and a secret: {before:?}");
    for secondaries in ["1", "3"] {
        let text = refusal(cluster(&["cluster"], secondaries));
        assert!(text.contains("the list of nodes is fixed"), "{text}");
        assert_eq!(entries(), before, "{secondaries}");
        let checked = cluster(&["check-config", "cluster"], secondaries).output();
        let checked = checked.expect("it runs");
        assert_eq!(checked.status.code(), Some(2), "{checked:?}");
    }
    // A node under another node's name, which has no secret yet, creates none.
    let own = directory.path().join("own");
    let node = |name: &str| {
        let mut command = program();
        command.args(["secondary", "--name", name, "--listen", "127.0.0.1:0"]);
        command
            .args(["--cluster-listen", "127.0.0.1:0", "--data-dir"])
            .arg(own.join("a"));
        command
    };
    let process = Process::run(node("a"), &directory.path().join("log"));
    process.line();
    assert_eq!(process.terminate().code(), Some(0));
    fs::remove_file(own.join("cluster.secret")).expect("it was drawn");
    let text = refusal(node("b"));
    assert!(text.contains("one directory is one node"), "{text}");
    assert!(!own.join("cluster.secret").exists());
}

#[test]
fn a_secondary_in_a_masters_directory_says_so() {
    let mut cluster = Cluster::start(1, &[]);
    cluster.master.terminate();
    let mut command = program();
    command.args(["secondary", "--name", "master", "--listen", "127.0.0.1:0"]);
    command.args(["--cluster-listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(&cluster.master.directory);
    let log = cluster.secret_file().with_extension("log");
    let process = Process::run(command, &log);
    process.line();
    let said = process.log_text();
    assert!(said.contains("was a master's directory"), "{said}");
}
