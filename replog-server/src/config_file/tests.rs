//! Files of settings in; out come settings, or one line with the mistake.

use super::*;
use crate::args::{self, Command};

/// A directory with a file of settings.
struct Case(tempfile::TempDir);

impl Case {
    fn new(text: &str) -> Case {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        fs::write(directory.path().join("replog.toml"), text).expect("written");
        Case(directory)
    }

    fn path(&self) -> String {
        self.0.path().join("replog.toml").display().to_string()
    }

    fn args(&self, line: &str) -> Vec<String> {
        let mut args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        args.insert(0, "replog-server".to_owned());
        args.extend(["--config".to_owned(), self.path()]);
        args
    }

    fn parse(&self, line: &str) -> Result<Command, String> {
        args::parse(self.args(line)).map_err(|error| args::message_of(&error))
    }

    /// Returns the output for a valid command.
    fn printed(&self, line: &str) -> String {
        let args = self.args(&format!("{line} --print-config"));
        let (_, printed) = args::parse_settings(args).expect("good settings");
        printed.expect("asked for")
    }
}

#[test]
fn a_file_sets_what_flags_do_not() {
    let case = Case::new(
        r#"
# What a master needs.
secondary = ["a=a:1", "b=b:2"]
name = "from-file"
public-url = "http://public:80"
heartbeat-interval = "200ms"
max-message-bytes = 65_536
max-queued-bytes = "0x10"
key-horizon = 0x100
memory = true
existing = false
sync = "interval:50ms"
cluster-secret-file = "x/cluster.secret"
"#,
    );
    let wrong = case.parse("master").expect_err("no such size");
    assert!(
        wrong.contains("line 8: max-queued-bytes: expected a size"),
        "{wrong}"
    );

    let text = fs::read_to_string(case.path()).expect("the file");
    let case = Case::new(&text.replace("0x10\"", "16MiB\""));
    let line = "master --name from-flag --heartbeat-interval 100ms";
    let command = case.parse(line).expect("good settings");
    let Command::Master(args) = command else {
        panic!("{command:?}")
    };
    let names: Vec<&str> = args
        .secondaries
        .iter()
        .map(|peer| peer.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(args.name.as_str(), "from-flag");
    let public_url = args.public_url.map(|url| url.to_string());
    assert_eq!(public_url.as_deref(), Some("http://public:80"));
    assert_eq!(args.listen.to_string(), "127.0.0.1:5000");
    assert!(args.common.memory);
    assert_eq!(
        args.common.cluster_secret_file.as_deref(),
        Some(Path::new("x/cluster.secret"))
    );
    let config = args.common.master_config(args.name, args.secondaries);
    assert_eq!(config.timing.heartbeat_interval.as_millis(), 100);
    assert_eq!(
        (config.max_message_bytes, config.key_horizon),
        (65_536, 256)
    );
    assert_eq!(config.max_queued_bytes, 16 << 20);

    let command = case
        .parse("master --secondary c=c:3")
        .expect("good settings");
    let Command::Master(args) = command else {
        panic!("{command:?}")
    };
    assert_eq!(
        args.secondaries.len(),
        1,
        "flags replace it, they do not add to it"
    );
}

#[test]
fn a_required_flag_may_be_in_the_file() {
    let case = Case::new(r#"name = "s""#);
    assert!(matches!(case.parse("secondary"), Ok(Command::Secondary(_))));
    let case = Case::new(r#"secondary = "a=a:1,b=b:2""#);
    let Ok(Command::Master(args)) = case.parse("master") else {
        panic!("a string is read as the flag's value")
    };
    assert_eq!(args.secondaries.len(), 2);
    let case = Case::new("port = 0\nsecondaries = \"3\"\n");
    let Ok(Command::Cluster(args)) = case.parse("cluster") else {
        panic!("good settings")
    };
    assert_eq!((args.port, args.secondaries), (0, 3));
    let missing = Case::new("").parse("secondary").expect_err("no name");
    assert!(missing.contains("--name"), "{missing}");
}

#[test]
fn a_switch_that_is_on_in_the_file_is_switched_off_by_its_flag() {
    let case = Case::new("memory = true\nexisting = true\n");
    let Ok(Command::Cluster(args)) = case.parse("cluster --memory=false") else {
        panic!("good settings")
    };
    assert!(!args.common.memory);
    let printed = case.printed("cluster --memory=false");
    let path = case.path();
    for line in [
        "memory = false # --memory".to_owned(),
        format!("existing = true # {path}"),
        "allow-faults = false".to_owned(),
    ] {
        assert!(
            printed.lines().any(|own| own == line),
            "{line}\n---\n{printed}"
        );
    }
    // The printed settings give the same again.
    let again = Case::new(&printed);
    let Ok(Command::Cluster(args)) = again.parse("cluster") else {
        panic!("good settings")
    };
    assert!(!args.common.memory);
}

#[test]
fn a_mistake_in_a_file_is_reported_with_its_line() {
    let table = [
        (
            "secondary --name s",
            "\n\nnonsense = 1",
            "line 3: there is no setting \"nonsense\" for secondary",
        ),
        (
            "secondary --name s",
            "retry_max = \"1s\"",
            "line 1: there is no setting \"retry_max\" for secondary: it is retry-max",
        ),
        (
            "secondary --name s",
            "secondary = []",
            "line 1: there is no setting \"secondary\" for secondary, but for master",
        ),
        (
            "cluster",
            "config = \"x\"",
            "line 1: there is no setting \"config\" for cluster",
        ),
        (
            "cluster",
            "print-config = true",
            "line 1: there is no setting \"print-config\"",
        ),
        (
            "cluster",
            "help = true",
            "line 1: there is no setting \"help\"",
        ),
        (
            "cluster",
            "[cluster]\nport = 1",
            "line 1: there is no setting \"cluster\"",
        ),
        ("cluster", "port = 1\nport = 2", "line 2: duplicate key"),
        ("cluster", "port = 0\nsync = always", "line 2: "),
        (
            "cluster",
            "retry-min = 50",
            "line 1: retry-min: expected a string, as in \"50ms\", not an integer",
        ),
        (
            "cluster",
            "retry-min = \"50\"",
            "line 1: retry-min: expected a duration",
        ),
        (
            "cluster",
            "memory = \"yes\"",
            "line 1: memory: expected true or false, not a string",
        ),
        (
            "cluster",
            "port = 65536",
            "line 1: port: 65536 is not in 0..=65535",
        ),
        (
            "cluster",
            "port = -1",
            "line 1: port: -1 is not in 0..=65535",
        ),
        (
            "cluster",
            "port = 1.5",
            "line 1: port: expected an integer or a string, as in \"5000\", not a number with a point",
        ),
        (
            "cluster",
            "port = \"x\"",
            "line 1: port: expected an integer, not \"x\"",
        ),
        ("cluster", "port = true", "not a boolean"),
        ("cluster", "port = [1]", "not an array"),
        ("cluster", "port.a = 1", "not a table"),
        ("cluster", "port = 1979-05-27", "not a date"),
        (
            "cluster",
            "key-horizon = 99999999999999999999999999999999999999999999",
            "line 1: ",
        ),
        (
            "master",
            "secondary = [1]",
            "line 1: secondary: expected strings in the array, not an integer",
        ),
        (
            "master",
            "secondary = 1",
            "line 1: secondary: expected an array of strings, not an integer",
        ),
        (
            "master",
            "secondary = [\"a\"]",
            "line 1: secondary: expected NAME=HOST:PORT",
        ),
        (
            "master",
            "name = \"m\"\nsecondary = []",
            "line 2: secondary: expected at least one",
        ),
        ("master", "name = \"m\"", "--secondary"),
        ("cluster --retry-min 3", "nonsense = 1", "--retry-min"),
        (
            "cluster",
            "max-request-bytes = 1",
            "--max-message-bytes must be at most --max-request-bytes: 1048576 is more than 1",
        ),
        (
            "cluster",
            "max-request-bytes = 8_388_609",
            "line 1: max-request-bytes: one append may have at most 8MiB",
        ),
        (
            "cluster",
            "key-horizon = 1\nmax-request-bytes = \"64MiB\"",
            "line 2: max-request-bytes: one append may have at most 8MiB",
        ),
    ];
    for (line, text, expected) in table {
        let said = Case::new(text).parse(line).expect_err(text);
        assert!(said.contains(expected), "{text}: {said}");
        assert!(!said.contains('\n'), "{text}: {said}");
    }
    let url = Case::new("name = \"a\"\nmaster = \"http://user:hush@a\"").parse("secondary");
    let said = url.expect_err("no password");
    assert!(
        said.contains("a password") && !said.contains("hush"),
        "{said}"
    );
    let gone = [
        "replog-server",
        "cluster",
        "--config",
        "/nonexistent/replog.toml",
    ];
    let said = args::parse(gone).expect_err("no such file").to_string();
    assert!(said.contains("/nonexistent/replog.toml: "), "{said}");
}

#[test]
fn all_settings_in_effect_are_printed_as_a_file_that_gives_the_same() {
    let case = Case::new(
        "secondary = [\"a=a:1\", \"b=b:2\"]\nretry-max = \"4s\"\nmemory = true\n\
         cluster-secret-file = \"s\"\nkey-horizon = 77\ndata-dir = 'a \"b\\c'\n",
    );
    let printed = case.printed("master --retry-min 20ms");
    let lines: Vec<&str> = printed.lines().collect();
    let path = case.path();
    for line in [
        "# replog-server master".to_owned(),
        format!("secondary = [\"a=a:1\", \"b=b:2\"] # {path}"),
        "name = \"master\"".to_owned(),
        format!("data-dir = \"a \\\"b\\\\c\" # {path}"),
        "# public-url is not set".to_owned(),
        "heartbeat-interval = \"500ms\"".to_owned(),
        "retry-min = \"20ms\" # --retry-min".to_owned(),
        format!("retry-max = \"4s\" # {path}"),
        "max-message-bytes = \"1MiB\"".to_owned(),
        format!("key-horizon = 77 # {path}"),
        "max-waiting-appends = 100000".to_owned(),
        format!("memory = true # {path}"),
        "existing = false".to_owned(),
        "take-over = false".to_owned(),
        format!("cluster-secret-file = \"s\" # {path}"),
    ] {
        assert!(lines.contains(&&*line), "{line}\n---\n{printed}");
    }
    assert!(!printed.contains("config ="), "{printed}");

    for (line, given) in [
        ("master", case.printed("master --retry-min 20ms")),
        ("secondary", Case::new("").printed("secondary --name s")),
        ("cluster", Case::new("").printed("cluster")),
    ] {
        let values = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines
                .map(|line| line.split(" # ").next().unwrap_or_default().to_owned())
                .collect()
        };
        let again = Case::new(&given).printed(line);
        assert_eq!(values(&again), values(&given), "{line}");
    }
}

#[test]
fn a_flag_for_one_way_to_prove_identity_wins_over_another_way_in_the_file() {
    let case = Case::new("cluster-secret-file = \"s\"\n");
    let pem = "--cluster-cert c --cluster-key k --cluster-ca a";
    for (line, uses_secret) in [
        ("secondary --name s".to_owned(), true),
        (format!("secondary --name s {pem}"), false),
        ("secondary --name s --cluster-insecure".to_owned(), false),
        (
            "secondary --name s --cluster-insecure=false".to_owned(),
            true,
        ),
    ] {
        let Ok(Command::Secondary(args)) = case.parse(&line) else {
            panic!("{line}");
        };
        let common = args.common;
        assert_eq!(common.cluster_secret_file.is_some(), uses_secret, "{line}");
        // The printed settings give the same again.
        let again = Case::new(&case.printed(&line));
        let Ok(Command::Secondary(args)) = again.parse("secondary") else {
            panic!("{line}");
        };
        assert_eq!(
            (args.common.cluster_secret_file, args.common.cluster_cert),
            (common.cluster_secret_file, common.cluster_cert),
            "{line}"
        );
    }
    let both = Case::new("cluster-secret-file = \"s\"\ncluster-insecure = true\n");
    let said = both.parse("secondary --name s").expect_err("both");
    assert!(said.contains("contradict each other"), "{said}");
}

#[test]
fn every_setting_can_be_in_a_file_except_those_about_the_file() {
    let printed = Case::new("").printed("master --secondary a=a:1");
    let program = args::program();
    let master = program.find_subcommand("master").expect("a command");
    for arg in master.get_arguments() {
        let key = arg.get_long().expect("only flags");
        let is_there = printed.lines().any(|line| {
            line.trim_start_matches("# ")
                .starts_with(&format!("{key} "))
        });
        assert_eq!(is_there, !NOT_IN_A_FILE.contains(&key), "{key}");
    }
}
