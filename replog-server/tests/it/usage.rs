//! Command-line usage: exit codes, environment, and the single line that says what is wrong.

use std::{net::TcpListener, process::Output};

use crate::nodes::{Cluster, Process, client, program};

fn output(args: &[&str], variables: &[(&str, &str)]) -> Output {
    program()
        .args(args)
        .envs(variables.iter().copied())
        .output()
        .expect("the program runs")
}

/// Returns the last line on stderr that is not a log line.
fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().last().unwrap_or_default().to_owned();
    assert!(line.starts_with("replog-server: "), "{text}");
    line
}

#[test]
fn wrong_usage_ends_with_2_and_one_line() {
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let too_large = &[("REPLOG_MAX_REQUEST_BYTES", "8388609")];
    let table: [(&[&str], Variables<'_>); 11] = [
        (&[], &[]),
        (&["fly"], &[]),
        (&["master"], &[]),
        (&["secondary", "--name", "a/b"], &[]),
        (&["cluster", "--key-horizon", "0"], &[]),
        (&["cluster"], &[("REPLOG_HEARTBEAT_INTERVAL", "often")]),
        (&["master"], &[("REPLOG_SECONDARY", "a=a:1,a=b:1")]),
        (&["cluster", "--max-request-bytes", "64MiB"], &[]),
        (&["cluster", "--max-message-bytes", "64MiB"], &[]),
        (&["cluster"], too_large),
        (&["check-config", "cluster"], too_large),
    ];
    for (args, variables) in table {
        let output = output(args, variables);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr).lines().count(),
            1,
            "{args:?}"
        );
        assert!(output.stdout.is_empty(), "{args:?}");
        let said = reason(&output);
        let is_too_large = variables == too_large || args.contains(&"64MiB");
        assert_eq!(
            said.contains("one append may have at most 8MiB (8388608 bytes)"),
            is_too_large,
            "{said}"
        );
    }
    let helpful = [
        &["--help"][..],
        &["--version"],
        &["master", "--help"],
        &["help", "master"],
    ];
    for args in helpful {
        let output = output(args, &[]);
        assert_eq!(
            (output.status.code(), output.stderr.len()),
            (Some(0), 0),
            "{args:?}"
        );
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn a_start_that_fails_ends_with_1_and_the_reason() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let data = directory.path().join("data").display().to_string();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let refused = output(
        &[
            "secondary",
            "--name",
            "a",
            "--listen",
            &address,
            "--data-dir",
            &data,
        ],
        &[],
    );
    assert_eq!(refused.status.code(), Some(1));
    assert!(reason(&refused).contains(&address), "{refused:?}");

    let args = [
        "secondary",
        "--name",
        "a",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        &data,
    ];
    let first = Process::start(&args, &directory.path().join("log"));
    assert!(first.line().starts_with("a http://127.0.0.1:"));
    let second = output(&args, &[]);
    assert_eq!(second.status.code(), Some(1), "the directory is in use");
    assert!(reason(&second).contains("in use"), "{second:?}");
    assert_eq!(first.terminate().code(), Some(0));

    let file = directory.path().join("file");
    std::fs::write(&file, "x").expect("a file");
    let below = file.join("data").display().to_string();
    let refused = output(
        &[
            "secondary",
            "--name",
            "a",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            &below,
        ],
        &[],
    );
    assert_eq!(refused.status.code(), Some(1));
    reason(&refused);
}

#[test]
fn the_environment_sets_what_flags_do_not() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let log = directory.path().join("log");
    let mut command = program();
    command
        .args(["secondary", "--name", "from-flag"])
        .env("REPLOG_NAME", "from-environment")
        .env("REPLOG_LISTEN", "127.0.0.1:0")
        .env("REPLOG_MEMORY", "true")
        .env("REPLOG_CLUSTER_SECRET_FILE", "cluster.secret")
        .current_dir(directory.path());
    let process = Process::run(command, &log);
    assert!(
        process.line().starts_with("from-flag http://127.0.0.1:"),
        "{}",
        process.log_text()
    );
    assert_eq!(process.terminate().code(), Some(0));
    assert!(
        !directory.path().join("replog-data").exists(),
        "--memory keeps nothing"
    );
}

#[test]
fn a_node_that_listens_on_every_address_says_so_besides_its_url_on_this_machine() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let mut command = program();
    command
        .args([
            "secondary",
            "--name",
            "a",
            "--listen",
            "0.0.0.0:0",
            "--memory",
        ])
        .args(["--cluster-listen", "127.0.0.1:0", "--cluster-insecure"])
        .current_dir(directory.path());
    let process = Process::run(command, &directory.path().join("log"));
    let line = process.line();
    let port = line
        .strip_prefix("a http://localhost:")
        .expect("its URL here");
    // Log lines are written asynchronously, and all of them before it ends.
    assert_eq!(process.terminate().code(), Some(0));
    let log = std::fs::read_to_string(directory.path().join("log")).expect("its log");
    let expected = format!(
        "a: listening on 0.0.0.0:{port}, which is every IPv4 address of this machine; here it is \
         http://localhost:{port}"
    );
    assert!(log.contains(&expected), "{log}");
}

#[test]
fn the_default_directory_is_the_nodes_own_below_the_current_one() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let mut command = program();
    command
        .args(["secondary", "--name", "b", "--listen", "127.0.0.1:0"])
        .current_dir(directory.path());
    let process = Process::run(command, &directory.path().join("log"));
    process.line();
    assert!(directory.path().join("replog-data/b").is_dir());
    assert_eq!(process.terminate().code(), Some(0));
}

#[test]
fn a_probe_tells_a_ready_node_from_others() {
    let mut cluster = Cluster::start(1, &["--memory"]);
    for address in [cluster.master.address, cluster.secondaries[0].address] {
        let ready = output(&["probe", &format!("http://{address}")], &[]);
        assert_eq!(ready.status.code(), Some(0), "{ready:?}");
        assert!(ready.stdout.is_empty());
    }
    cluster.secondaries[0].kill();
    let url = format!("http://{}", cluster.secondaries[0].address);
    let gone = output(&["probe", &url], &[]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(reason(&gone).contains(&url));
    for nonsense in ["no sense", "ftp://nonsense", "http://a:65536"] {
        assert_eq!(output(&["probe", nonsense], &[]).status.code(), Some(2));
    }
    // In a container the node's own settings give its address.
    let ready = cluster.master.address;
    for (variable, value) in [
        ("REPLOG_LISTEN", format!("0.0.0.0:{}", ready.port())),
        ("REPLOG_LISTEN", ready.to_string()),
        ("REPLOG_URL", format!("HTTP://{ready}")),
    ] {
        let asked = output(&["probe"], &[(variable, value.as_str())]);
        assert_eq!(
            asked.status.code(),
            Some(0),
            "{variable}={value}: {asked:?}"
        );
    }
}

#[test]
fn a_file_sets_what_neither_flags_nor_the_environment_do() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let file = directory.path().join("replog.toml");
    let text = "name = \"from-file\"\nlisten = \"127.0.0.1:0\"\nmemory = true\n\
                retry-min = \"11ms\"\nretry-max = \"12s\"\ncluster-secret-file = \"cluster.secret\"\n";
    std::fs::write(&file, text).expect("written");
    let path = file.display().to_string();
    let mut command = program();
    command
        .arg("secondary")
        .env("REPLOG_CONFIG", &path)
        .current_dir(directory.path());
    let process = Process::run(command, &directory.path().join("log"));
    assert!(process.line().starts_with("from-file http://127.0.0.1:"));
    assert_eq!(process.terminate().code(), Some(0));
    assert!(!directory.path().join("replog-data").exists(), "in memory");

    let args = [
        "secondary",
        "--config",
        &path,
        "--retry-max",
        "14s",
        "--print-config",
    ];
    let variables = [("REPLOG_RETRY_MIN", "13ms"), ("REPLOG_RETRY_MAX", "13s")];
    let printed = output(&args, &variables);
    assert_eq!((printed.status.code(), printed.stderr.len()), (Some(0), 0));
    let printed = String::from_utf8(printed.stdout).expect("text");
    let lines: Vec<&str> = printed.lines().collect();
    for line in [
        "retry-max = \"14s\" # --retry-max".to_owned(),
        "retry-min = \"13ms\" # REPLOG_RETRY_MIN".to_owned(),
        format!("name = \"from-file\" # {path}"),
        "suspect-after = \"1s\"".to_owned(),
    ] {
        assert!(lines.contains(&&*line), "{line}\n---\n{printed}");
    }
    let secret = std::fs::read_to_string(directory.path().join("cluster.secret"));
    let secret = secret.expect("it was made at the first start");
    assert!(!printed.contains(secret.trim()), "{printed}");

    std::fs::write(&file, "name = \"s\"\nretry_min = \"11ms\"\n").expect("written");
    let wrong = output(&["secondary", "--config", &path], &[]);
    assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(2), 0));
    let said = reason(&wrong);
    assert!(said.contains("replog.toml line 2: "), "{said}");
    assert!(said.contains("it is retry-min"), "{said}");
}

#[cfg(not(feature = "otel"))]
#[test]
fn a_program_without_telemetry_says_so_if_spans_are_expected() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let mut command = program();
    command
        .args(["secondary", "--name", "s", "--listen", "127.0.0.1:0"])
        .arg("--memory")
        .args(["--cluster-secret-file", "cluster.secret"])
        .current_dir(directory.path())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let process = Process::run(command, &directory.path().join("log"));
    process.line();
    let said = process.log_text();
    assert!(
        said.contains("OTEL_EXPORTER_OTLP_ENDPOINT is set"),
        "{said}"
    );
    assert_eq!(process.terminate().code(), Some(0));
}

#[test]
fn an_empty_variable_or_one_of_a_kubernetes_service_counts_as_unset_and_a_wrong_one_is_named() {
    let fine = output(
        &["check-config", "cluster"],
        &[
            ("REPLOG_APPEND_TIMEOUT", ""),
            ("REPLOG_MEMORY", ""),
            ("REPLOG_PORT", "tcp://10.96.0.1:5000"),
            ("REPLOG_PORT_5000_TCP", "tcp://10.96.0.1:5000"),
            ("REPLOG_SERVICE_HOST", "10.96.0.1"),
            // Variables of the systemd unit, and of a probe in the same environment.
            ("REPLOG_KIND", "cluster"),
            ("REPLOG_WRITE", "true"),
        ],
    );
    assert_eq!(fine.status.code(), Some(0), "{fine:?}");
    assert_eq!(
        String::from_utf8_lossy(&fine.stdout),
        "the settings are fine\n"
    );
    let of_another = output(
        &[
            "check-config",
            "secondary",
            "--name",
            "s",
            "--memory",
            "--cluster-insecure",
        ],
        &[("REPLOG_PORT", "5000")],
    );
    assert_eq!(
        String::from_utf8_lossy(&of_another.stdout),
        "REPLOG_PORT is a setting of cluster only and is ignored\nthe settings are fine\n"
    );
    let unknown = output(&["check-config", "cluster"], &[("REPLOG_RETRY_MINN", "1s")]);
    let said = String::from_utf8_lossy(&unknown.stdout).into_owned();
    assert!(
        said.starts_with("REPLOG_RETRY_MINN is not a setting"),
        "{said}"
    );
    for (variable, value, expected) in [
        (
            "REPLOG_RETRY_MIN",
            "3",
            "REPLOG_RETRY_MIN: expected a duration",
        ),
        ("REPLOG_PORT", "99999", "REPLOG_PORT: "),
        ("REPLOG_MEMORY", "maybe", "REPLOG_MEMORY: "),
        // No Kubernetes service has that name.
        (
            "REPLOG_SECONDARIES",
            "tcp://10.96.0.1:5000",
            "REPLOG_SECONDARIES: ",
        ),
    ] {
        for args in [&["cluster"][..], &["check-config", "cluster"]] {
            let wrong = output(args, &[(variable, value)]);
            assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
            let said = reason(&wrong);
            assert!(said.contains(expected), "{said}");
        }
    }
}

#[test]
fn a_wrong_variable_is_named_by_the_probe_and_by_the_client_too() {
    let table = [
        ("REPLOG_URL", "ftp://x", "REPLOG_URL: "),
        ("REPLOG_LISTEN", "0.0.0.0:0", "REPLOG_LISTEN: "),
    ];
    for (variable, value, expected) in table {
        let wrong = output(&["probe"], &[(variable, value)]);
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
        assert!(reason(&wrong).contains(expected), "{wrong:?}");
    }
    // A value given on the command line is named by its flag.
    let wrong = output(&["probe", "ftp://x"], &[("REPLOG_URL", "http://x")]);
    assert!(!reason(&wrong).contains("REPLOG_URL"), "{wrong:?}");

    let asked = |variables: &[(&str, &str)], args: &[&str]| {
        let output = client().args(args).envs(variables.iter().copied()).output();
        let output = output.expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = asked(&[("REPLOG_URL", "ftp://x")], &["status"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.starts_with("replog: REPLOG_URL: "), "{said}");
    let (code, said) = asked(
        &[("REPLOG_URL", "http://x")],
        &["--url", "ftp://x", "status"],
    );
    assert_eq!(code, Some(2), "{said}");
    assert!(said.starts_with("replog: --url: "), "{said}");
    // As Compose makes it of `${X:-}`, and a variable that the server knows.
    let variables = [("REPLOG_URL", ""), ("REPLOG_DATA_DIR", "/data")];
    assert_eq!(asked(&variables, &["man"]), (Some(0), String::new()));
    let (code, said) = asked(&[("REPLOG_URLL", "http://x")], &["man"]);
    let expected = "replog: REPLOG_URLL is not a setting of this program and is ignored\n";
    assert_eq!((code, &*said), (Some(0), expected));
}

#[test]
fn an_identity_flag_wins_over_the_environment_of_an_image() {
    let image = [("REPLOG_CLUSTER_SECRET_FILE", "/var/lib/x/cluster.secret")];
    let pem = [
        "--cluster-cert",
        "c",
        "--cluster-key",
        "k",
        "--cluster-ca",
        "a",
    ];
    let printed = |flags: &[&str]| {
        let args = [&["secondary", "--name", "s", "--print-config"], flags].concat();
        let printed = output(&args, &image);
        assert_eq!(printed.status.code(), Some(0), "{printed:?}");
        String::from_utf8(printed.stdout).expect("text")
    };
    for flags in [&pem[..], &["--cluster-insecure"]] {
        let printed = printed(flags);
        assert!(
            printed.contains("# cluster-secret-file is not used"),
            "{printed}"
        );
    }
    assert!(printed(&[]).contains("cluster-secret-file = \"/var/lib/x/cluster.secret\""));
    let mut both = image.to_vec();
    both.push(("REPLOG_CLUSTER_INSECURE", "true"));
    let wrong = output(&["secondary", "--name", "s"], &both);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let said = reason(&wrong);
    let expected = "REPLOG_CLUSTER_SECRET_FILE and REPLOG_CLUSTER_INSECURE contradict each other";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn check_config_names_settings_that_have_no_effect_on_a_secondary() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let file = directory.path().join("replog.toml").display().to_string();
    std::fs::write(&file, "suspect-after = \"2s\"\nsync = \"never\"\n").expect("written");
    let data = directory.path().join("data").display().to_string();
    let args = [
        "check-config",
        "secondary",
        "--name",
        "s",
        "--data-dir",
        &data,
        "--config",
        &file,
        "--heartbeat-interval",
        "10s",
    ];
    let said = output(&args, &[("REPLOG_RETRY_MAX", "1s")]);
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    let expected: String = ["--heartbeat-interval", "suspect-after", "REPLOG_RETRY_MAX"]
        .map(|name| format!("{name} changes what a master does and has no effect on a secondary\n"))
        .concat();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(said, expected + "the settings are fine\n");
}

#[test]
fn check_config_refuses_what_a_start_would() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(at("no.secret"), "x").expect("written");
    let (data, missing) = (at("data"), at("missing"));
    let (no_secret, secret) = (at("no.secret"), at("missing/cluster.secret"));
    let node = [
        "check-config",
        "secondary",
        "--name",
        "s",
        "--data-dir",
        &data,
    ];
    let table = [
        (&["--cluster-secret-file", &no_secret][..], "no.secret"),
        (&["--cluster-secret-file", &secret], "there is no directory"),
        (
            &[
                "--cluster-cert",
                &missing,
                "--cluster-key",
                &missing,
                "--cluster-ca",
                &missing,
            ],
            "missing",
        ),
    ];
    for (flags, expected) in table {
        let wrong = output(&[&node[..], flags].concat(), &[]);
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
        let said = reason(&wrong);
        assert!(said.contains(expected), "{said}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let on_the_port = output(&[&node[..], &["--listen", &taken]].concat(), &[]);
    assert_eq!(
        on_the_port.status.code(),
        Some(0),
        "it may run: {on_the_port:?}"
    );
    let below_a_file = at("no.secret/data");
    let places = [
        (
            ["--listen", "nowhere.invalid:5000"],
            "cannot listen on nowhere.invalid:5000",
        ),
        (
            ["--listen", "192.0.2.1:5000"],
            "cannot listen on 192.0.2.1:5000",
        ),
        (
            ["--cluster-listen", "nowhere.invalid:6000"],
            "(--cluster-listen)",
        ),
        (["--data-dir", "/proc/replog"], "/proc/replog: "),
        (
            ["--data-dir", &below_a_file],
            "is a file, and a directory is needed",
        ),
    ];
    for (flags, expected) in places {
        let node = ["secondary", "--name", "s"];
        let wrong = output(&[&["check-config"], &node[..], &flags].concat(), &[]);
        assert_eq!(wrong.status.code(), Some(2), "{flags:?}: {wrong:?}");
        assert!(reason(&wrong).contains(expected), "{wrong:?}");
        // A start refuses it with the same words. If it gets further, it is given a port.
        let port: &[&str] = match flags[0] {
            "--listen" => &[],
            _ => &["--listen", "127.0.0.1:0"],
        };
        let refused = output(&[&node[..], &flags, port].concat(), &[]);
        assert_eq!(refused.status.code(), Some(1), "{flags:?}: {refused:?}");
        assert!(reason(&refused).contains(expected), "{refused:?}");
    }
    let fine = output(&node, &[]);
    assert_eq!(fine.status.code(), Some(0), "{fine:?}");
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .expect("it is there")
        .collect();
    assert_eq!(left.len(), 1, "it makes nothing: {left:?}");
}

#[test]
fn the_probe_takes_the_url_as_a_flag_too_and_no_other_command_has_its_advice() {
    // Nobody listens on these ports: the reason names the URL that was asked.
    let (one, other) = ("http://127.0.0.1:1", "http://127.0.0.1:2");
    for (args, variable, asked) in [
        (&["probe", "--url", one][..], "", one),
        (&["probe", "--url", one], other, one),
        (&["probe", one], other, one),
        (&["probe", other, "--url", one], "", one),
    ] {
        let variables = [("REPLOG_URL", variable)];
        let given = !variable.is_empty();
        let probe = output(args, &variables[..usize::from(given)]);
        assert_eq!(probe.status.code(), Some(1), "{args:?}: {probe:?}");
        let said = reason(&probe);
        assert!(said.contains(&format!("{asked}: ")), "{args:?}: {said}");
    }
    let wrong = output(&["probe", "--url", "ftp://x"], &[]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(reason(&wrong).contains("--url"), "{wrong:?}");

    let secondary = ["secondary", "--name", "s", "--url", "http://m:5000"];
    let wrong = output(&secondary, &[]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let said = reason(&wrong);
    assert!(said.contains("unexpected argument '--url'"), "{said}");
    assert!(!said.contains("probe"), "{said}");
}
