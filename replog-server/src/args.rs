//! The command line: flags, their environment variables, and the settings that they mean.
//!
//! Owns the names, defaults and formats of flags; every flag `--some-flag` may be given as
//! `REPLOG_SOME_FLAG`, and the flag wins. Starts nothing. Wrong usage ends with exit code 2 and
//! one line that says what is wrong.

use std::{
    error::Error as _,
    ffi::OsString,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{
    ArgAction, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    builder::BoolishValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
    value_parser,
};
use replog_core::{
    Founding, MasterConfig, NodeName, Peer, SecondaryConfig, SyncPolicy, TakeOver, Timing,
    address::{BadAddress, BadUrl, HostPort, NodeUrl, check_peers, cluster_port_of},
    client::Client,
    limits::{FRAME_BYTES_MAX, KEY_HORIZON_MAX},
};

use crate::{
    config_file::{self, Settings},
    preflight,
    stderr::{self, one_line},
    variables::{self, Ignored},
    words::counted,
};

/// Exit code of wrong usage.
const USAGE: u8 = 2;
/// Message for a missing command.
const COMMANDS: &str = "say what to run: master, secondary, cluster, demo, probe or check-config";
/// Maximum number of secondaries of `cluster`: the library supports clusters of up to 64 nodes.
const SECONDARIES_MAX: u64 = 63;

/// A replicated log over HTTP.
#[derive(Debug, Parser)]
#[command(name = "replog-server", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The program's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Takes appends and copies the log to its secondaries.
    Master(MasterArgs),
    /// Holds a copy of the log and serves reads.
    Secondary(SecondaryArgs),
    /// Runs a master and its secondaries in this one process: the quick start.
    Cluster(ClusterArgs),
    /// Shows what the log does, step by step, with nodes in this process.
    Demo,
    /// Asks a node whether it is ready: exit code 0 or 1.
    Probe(ProbeArgs),
    /// Checks the settings of a command as its start would, without starting anything: exit code 0 or 2.
    CheckConfig(CheckConfigArgs),
}

/// Flags of `master`.
#[derive(Debug, Args)]
pub(crate) struct MasterArgs {
    /// A secondary's name and the host and port of its cluster listener, such as `secondary-1=10.0.0.2:6000`; repeat
    /// the flag for each secondary.
    #[arg(long = "secondary", env = "REPLOG_SECONDARY", value_name = "NAME=HOST:PORT", required = true,
          value_delimiter = ',', value_parser = parse_peer)]
    pub(crate) secondaries: Vec<Peer>,
    /// The master's own name.
    #[arg(long, env = "REPLOG_NAME", default_value = "master", value_parser = parse_name)]
    pub(crate) name: NodeName,
    /// Address and port to listen on for clients; port 0 takes a free one.
    #[arg(long, env = "REPLOG_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:5000",
          value_parser = parse_listen)]
    pub(crate) listen: HostPort,
    /// Address and port to listen on for other nodes; port 0 takes a free one [default: the address of --listen, port +
    /// 1000].
    #[arg(long, env = "REPLOG_CLUSTER_LISTEN", value_name = "HOST:PORT", value_parser = parse_listen)]
    pub(crate) cluster_listen: Option<HostPort>,
    /// The directory of the log [default: ./replog-data/NAME].
    #[arg(long, env = "REPLOG_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The URL at which clients reach this master: secondaries redirect them to it.
    #[arg(long, env = "REPLOG_PUBLIC_URL", value_name = "URL", value_parser = parse_url)]
    pub(crate) public_url: Option<NodeUrl>,
    /// If no majority answers within --unhealthy-after, recover from the nodes that do. Messages that only the other
    /// nodes hold are lost, acknowledged or not: use it only when those nodes are lost for good. Nothing is forced
    /// where a majority answers; remove the flag once the cluster is complete again.
    #[arg(long, env = "REPLOG_FORCE_RECOVERY_AND_LOSE_ACKNOWLEDGED_MESSAGES", action = ArgAction::Set, value_parser = BoolishValueParser::new(),
          num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_name = "BOOL")]
    pub(crate) force_recovery_and_lose_acknowledged_messages: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Flags of `secondary`.
#[derive(Debug, Args)]
pub(crate) struct SecondaryArgs {
    /// This node's name, as in its master's `--secondary`.
    #[arg(long, env = "REPLOG_NAME", value_parser = parse_name)]
    pub(crate) name: NodeName,
    /// The URL at which clients reach this node; the master shows it.
    #[arg(long, env = "REPLOG_PUBLIC_URL", value_name = "URL", value_parser = parse_url)]
    pub(crate) public_url: Option<NodeUrl>,
    /// The master's URL: returned to clients, and used for nothing else.
    #[arg(long, env = "REPLOG_MASTER", value_name = "URL", value_parser = parse_url)]
    pub(crate) master: Option<NodeUrl>,
    /// Address and port to listen on for clients; port 0 takes a free one.
    #[arg(long, env = "REPLOG_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:5000",
          value_parser = parse_listen)]
    pub(crate) listen: HostPort,
    /// Address and port to listen on for other nodes; port 0 takes a free one [default: the
    /// address of --listen, port + 1000].
    #[arg(long, env = "REPLOG_CLUSTER_LISTEN", value_name = "HOST:PORT", value_parser = parse_listen)]
    pub(crate) cluster_listen: Option<HostPort>,
    /// The directory of the log [default: ./replog-data/NAME].
    #[arg(long, env = "REPLOG_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Flags of `cluster`.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Number of secondaries.
    #[arg(long, env = "REPLOG_SECONDARIES", default_value_t = 2,
          value_parser = value_parser!(u16).range(0..=SECONDARIES_MAX as i64))]
    pub(crate) secondaries: u16,
    /// The master's port for clients; the secondaries take the ports after it. The ports for other nodes are 1000
    /// higher. 0: each node takes free ports.
    #[arg(long, env = "REPLOG_PORT", default_value_t = 5000)]
    pub(crate) port: u16,
    /// The directory that contains one directory for each node.
    #[arg(long, env = "REPLOG_DATA_DIR", default_value = "./replog-data")]
    pub(crate) data_dir: PathBuf,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Arguments of `check-config`.
#[derive(Debug, Args)]
pub(crate) struct CheckConfigArgs {
    /// The command and its flags, exactly as they would be used to start it.
    #[arg(value_name = "COMMAND", required = true, num_args = 1.., trailing_var_arg = true,
          allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// Ask whether the node takes appends, which only a master does, instead of whether it serves reads.
    #[arg(long, env = "REPLOG_WRITE", action = ArgAction::Set, value_parser = BoolishValueParser::new(),
          num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_name = "BOOL")]
    pub(crate) write: bool,
    /// The node to ask [default: the address of --listen, else http://localhost:5000].
    #[arg(env = "REPLOG_URL", value_parser = parse_http_url)]
    url: Option<String>,
    /// The same, as `replog` has it: people type that more often. It wins over the other two.
    #[arg(long = "url", value_parser = parse_http_url, value_name = "URL", hide = true)]
    url_flag: Option<String>,
    /// The address that the node listens on, used where no URL is given: a container's environment already has it.
    #[arg(long, env = "REPLOG_LISTEN", value_name = "HOST:PORT")]
    listen: Option<String>,
}

impl ProbeArgs {
    /// Returns the URL of the node to ask.
    pub(crate) fn url(&self) -> Result<String, String> {
        match (self.url_flag.as_ref().or(self.url.as_ref()), &self.listen) {
            (Some(url), _) => Ok(url.clone()),
            (None, None) => Ok("http://localhost:5000".to_owned()),
            (None, Some(listen)) => {
                let address: HostPort = listen
                    .parse()
                    .map_err(|error| format!("{error}; give the URL of the node instead"))?;
                let address = match address.is_unspecified() {
                    true => address.with_host_localhost(),
                    false => address,
                };
                Ok(NodeUrl::http(address).to_string())
            }
        }
    }
}

/// Flags that every node knows. Those about replication change what a master does and have no effect on a secondary.
#[derive(Clone, Debug, Args)]
pub(crate) struct CommonArgs {
    /// A TOML file with settings, one key per flag, as in `retry-max = "1s"`. Flags and the environment override it.
    #[arg(long, env = "REPLOG_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print all settings in effect as such a file, and exit.
    #[arg(long, env = "REPLOG_PRINT_CONFIG", action = ArgAction::Set, value_parser = BoolishValueParser::new(),
          num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_name = "BOOL")]
    print_config: bool,
    /// Format of log lines: `text` for people, `json` for programs, one object per line.
    #[arg(long, env = "REPLOG_LOG_FORMAT", default_value = "text", value_parser = parse_log_format,
          value_name = "FORMAT")]
    log_format: LogFormat,
    /// Interval between the master's heartbeats to each secondary.
    #[arg(long, env = "REPLOG_HEARTBEAT_INTERVAL", default_value = "500ms",
          value_parser = parse_duration, value_name = "DURATION")]
    heartbeat_interval: Duration,
    /// Time that the master waits for a secondary's answer.
    #[arg(long, env = "REPLOG_REQUEST_TIMEOUT", default_value = "1s",
          value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) request_timeout: Duration,
    /// A secondary is Suspected after this long without contact.
    #[arg(long, env = "REPLOG_SUSPECT_AFTER", default_value = "1s",
          value_parser = parse_duration, value_name = "DURATION")]
    suspect_after: Duration,
    /// A secondary is Unhealthy after this long without contact.
    #[arg(long, env = "REPLOG_UNHEALTHY_AFTER", default_value = "3s",
          value_parser = parse_duration, value_name = "DURATION")]
    unhealthy_after: Duration,
    /// The first delay before a failed batch is retried.
    #[arg(long, env = "REPLOG_RETRY_MIN", default_value = "50ms",
          value_parser = parse_duration, value_name = "DURATION")]
    retry_min: Duration,
    /// The longest delay before a failed batch is retried.
    #[arg(long, env = "REPLOG_RETRY_MAX", default_value = "5s",
          value_parser = parse_duration, value_name = "DURATION")]
    retry_max: Duration,
    /// Time that an append waits for its concern when the request does not set one [default: for ever].
    #[arg(long, env = "REPLOG_APPEND_TIMEOUT", value_parser = parse_duration,
          value_name = "DURATION")]
    pub(crate) append_timeout: Option<Duration>,
    /// Maximum size of the request for one message, and of each line of a batch; at most `--max-request-bytes`.
    #[arg(long, env = "REPLOG_MAX_MESSAGE_BYTES", default_value = "1MiB",
          value_parser = parse_append_size, value_name = "SIZE")]
    pub(crate) max_message_bytes: usize,
    /// Maximum size of a batch, all its lines together; at most 8MiB, which is the most that one append may have. Up
    /// to this many bytes of the rest of a request that is too large are read, so that its sender sees the answer.
    #[arg(long, env = "REPLOG_MAX_REQUEST_BYTES", default_value = "8MiB",
          value_parser = parse_append_size, value_name = "SIZE")]
    pub(crate) max_request_bytes: usize,
    /// Maximum number of waiting appends, for each concern.
    #[arg(long, env = "REPLOG_MAX_WAITING_APPENDS", default_value_t = 100_000,
          value_parser = parse_count, value_name = "COUNT")]
    pub(crate) max_waiting_appends: usize,
    /// Maximum number of bytes queued for the disk.
    #[arg(long, env = "REPLOG_MAX_QUEUED_BYTES", default_value = "256MiB",
          value_parser = parse_size, value_name = "SIZE")]
    pub(crate) max_queued_bytes: usize,
    /// An idempotency key is remembered while its message is among this many most recent ones.
    #[arg(long, env = "REPLOG_KEY_HORIZON", default_value_t = 1_000_000,
          value_parser = value_parser!(u64).range(1..=KEY_HORIZON_MAX), value_name = "COUNT")]
    key_horizon: u64,
    /// The point at which a message counts as held: `always` (synced), `interval:50ms` or `never`.
    #[arg(long, env = "REPLOG_SYNC", default_value = "always", value_parser = parse_sync,
          value_name = "POLICY")]
    sync: SyncPolicy,
    /// Keep everything in memory and nothing on disk.
    #[arg(long, env = "REPLOG_MEMORY", action = ArgAction::Set, value_parser = BoolishValueParser::new(),
          num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_name = "BOOL")]
    pub(crate) memory: bool,
    /// Never found a new cluster: a blank master waits for the existing one.
    #[arg(long, env = "REPLOG_EXISTING", action = ArgAction::Set, value_parser = BoolishValueParser::new(),
          num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_name = "BOOL")]
    existing: bool,
    /// Take over at once if this node's own directory is blank, even from a master that other nodes can hear.
    #[arg(long, env = "REPLOG_TAKE_OVER", action = ArgAction::Set, value_parser = BoolishValueParser::new(),
          num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_name = "BOOL")]
    take_over: bool,
    /// Accept `/faults`: make this node fail on purpose.
    #[arg(long, env = "REPLOG_ALLOW_FAULTS", action = ArgAction::Set, value_parser = BoolishValueParser::new(),
          num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_name = "BOOL")]
    pub(crate) allow_faults: bool,
    /// A name by which clients may reach this node, such as `log.example.com`; repeat the flag for each name. Requests
    /// for other names are refused, except for `localhost`, addresses, the machine's own name and that of --public-url:
    /// otherwise a page of another site could read the node through a name that resolves to it (DNS rebinding). Without
    /// this flag, a node that does not listen on a loopback address also accepts names that no stranger can register:
    /// without a dot, or below `.internal`, `.svc` and `.cluster.local`.
    #[arg(long = "allowed-host", env = "REPLOG_ALLOWED_HOST", value_name = "NAME",
          value_delimiter = ',', value_parser = parse_host)]
    pub(crate) allowed_hosts: Vec<String>,
    /// The file with the cluster's secret, by which nodes authenticate each other: the same on all nodes, created if it
    /// is missing and the node is new [default: cluster.secret next to the data directory].
    #[arg(long, env = "REPLOG_CLUSTER_SECRET_FILE", value_name = "FILE")]
    pub(crate) cluster_secret_file: Option<PathBuf>,
    /// Instead of a secret: this node's certificate, issued by your own authority for the node's name, as a PEM file.
    /// Read again when it changes.
    #[arg(long, env = "REPLOG_CLUSTER_CERT", value_name = "FILE")]
    pub(crate) cluster_cert: Option<PathBuf>,
    /// The private key of --cluster-cert, as a PEM file.
    #[arg(long, env = "REPLOG_CLUSTER_KEY", value_name = "FILE")]
    pub(crate) cluster_key: Option<PathBuf>,
    /// The certificate of the authority that signed the certificates of all nodes, as a PEM file.
    #[arg(long, env = "REPLOG_CLUSTER_CA", value_name = "FILE")]
    pub(crate) cluster_ca: Option<PathBuf>,
    /// No encryption and no authentication between nodes, for measurements: only if every address between nodes is a
    /// loopback address.
    #[arg(long, env = "REPLOG_CLUSTER_INSECURE", action = ArgAction::Set, value_parser = BoolishValueParser::new(),
          num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_name = "BOOL")]
    pub(crate) cluster_insecure: bool,
}

/// Reads the arguments and the environment of this process. If they ask for help or the version, or are wrong, prints
/// the text and returns the exit code.
pub(crate) fn from_process() -> Result<Command, ExitCode> {
    match parse_settings(std::env::args_os()) {
        Ok((command, None)) => Ok(command),
        Ok((_, Some(printed))) => {
            // A closed pipe is no reason to fail.
            let _ = std::io::stdout().write_all(printed.as_bytes());
            Err(ExitCode::SUCCESS)
        }
        Err(error) => Err(explain("replog-server", COMMANDS, &error)),
    }
}

/// Prints clap's message to the user of a program whose commands are `commands`, and returns the exit code: help and
/// version go to stdout, wrong usage to stderr.
pub(crate) fn explain(program: &str, commands: &str, error: &clap::Error) -> ExitCode {
    if error.exit_code() == 0 {
        // A closed pipe is no reason to fail.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    stderr::say(program, &usage_line(commands, error));
    ExitCode::from(USAGE)
}

/// Reads these arguments, the environment of this process, and the file that they name.
#[cfg(test)]
pub(crate) fn parse(
    args: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Command, clap::Error> {
    parse_settings(args).map(|(command, _)| command)
}

/// Returns the program as a clap command.
pub(crate) fn program() -> clap::Command {
    Cli::command()
}

/// Does what `parse` does, and returns all settings as text if that was requested.
pub(crate) fn parse_settings(
    args: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<(Command, Option<String>), clap::Error> {
    let parsed = parse_all(args.into_iter().map(Into::into).collect())?;
    Ok((parsed.command, parsed.printed))
}

/// Result of reading a command line, the environment and a file.
struct Parsed {
    command: Command,
    printed: Option<String>,
    /// Settings that are given but have no effect, by the names under which they were given.
    without_effect: Vec<String>,
}

fn parse_all(args: Vec<OsString>) -> Result<Parsed, clap::Error> {
    let settings = config_file::parse(&Cli::command(), &args)?;
    let mut command = Cli::from_arg_matches(&settings.matches)?.command;
    let refused = |what| clap::Error::raw(ErrorKind::ValueValidation, what);
    if let Command::CheckConfig(check) = &command {
        let program = OsString::from("replog-server");
        let checked = std::iter::once(&program).chain(&check.command);
        let checked = parse_all(checked.cloned().collect())?;
        preflight::check(&checked.command).map_err(refused)?;
        let said = settings_are_fine(&checked);
        return Ok(Parsed {
            printed: Some(said),
            ..checked
        });
    }
    if let Some((_, matches)) = settings.matches.subcommand() {
        check_identity_ways(matches).map_err(refused)?;
        command.remove_overruled(&overruled(matches));
    }
    validate(&command, &settings.matches)?;
    check_directory(&settings.matches, &command).map_err(refused)?;
    Ok(Parsed {
        without_effect: without_effect(&command, &settings),
        command,
        printed: settings.printed,
    })
}

/// Settings of every node that change what a master does and have no effect on a secondary.
const MASTER_SETTINGS: [&str; 11] = [
    "heartbeat_interval",
    "request_timeout",
    "suspect_after",
    "unhealthy_after",
    "retry_min",
    "retry_max",
    "append_timeout",
    "max_waiting_appends",
    "key_horizon",
    "existing",
    "take_over",
];

/// Returns the settings that are given but have no effect for this command.
fn without_effect(command: &Command, settings: &Settings) -> Vec<String> {
    let Command::Secondary(_) = command else {
        return Vec::new();
    };
    let Some((_, matches)) = settings.matches.subcommand() else {
        return Vec::new();
    };
    let named = |id: &&str| match matches.value_source(id)? {
        ValueSource::CommandLine | ValueSource::EnvVariable => Some(named(matches, id)),
        _ => {
            let key = id.replace('_', "-");
            settings.keys_of_file.contains(&key).then_some(key)
        }
    };
    MASTER_SETTINGS.iter().filter_map(named).collect()
}

/// Returns the name under which a setting is given: its flag, or its variable.
fn named(matches: &ArgMatches, id: &str) -> String {
    match matches.value_source(id) {
        Some(ValueSource::EnvVariable) => format!("REPLOG_{}", id.to_uppercase()),
        _ => format!("--{}", id.replace('_', "-")),
    }
}

/// Returns the message for settings that are valid.
fn settings_are_fine(checked: &Parsed) -> String {
    let mut text = String::new();
    for ignored in ignored_variables(&checked.command) {
        text.push_str(&format!("{ignored}\n"));
    }
    for name in &checked.without_effect {
        text.push_str(&format!(
            "{name} changes what a master does and has no effect on a secondary\n"
        ));
    }
    text.push_str("the settings are fine\n");
    text
}

/// Returns the variables named `REPLOG_…` that have no effect for this command. Those of `probe` and of `replog` belong
/// in the same environments.
pub(crate) fn ignored_variables(command: &Command) -> Vec<Ignored> {
    let program = Cli::command();
    let probe = program.find_subcommand("probe");
    let others: Vec<&clap::Command> = probe.into_iter().collect();
    variables::ignored(&program, command.name(), &others)
}

/// The ways in which a node may prove its identity, by their settings. They exclude each other.
const IDENTITY_WAYS: [&[&str]; 3] = [
    &["cluster_secret_file"],
    &["cluster_cert", "cluster_key", "cluster_ca"],
    &["cluster_insecure"],
];

/// Returns the weight of a setting: a flag wins over the environment, which a container image may set, and the
/// environment over a file. `None`: it is not given.
fn weight(matches: &ArgMatches, id: &str) -> Option<u8> {
    let is_given = match id {
        "cluster_insecure" => matches.try_get_one::<bool>(id).ok()?.copied()?,
        _ => matches.try_get_raw(id).ok()?.is_some(),
    };
    let source = matches.value_source(id).filter(|_| is_given)?;
    Some(match source {
        ValueSource::CommandLine => 2,
        ValueSource::EnvVariable => 1,
        _ => 0,
    })
}

/// Returns the weight of each way that is given, and the setting with that weight.
fn given_identity_ways(matches: &ArgMatches) -> Vec<(usize, u8, &'static str)> {
    let ways = IDENTITY_WAYS.iter().enumerate();
    ways.filter_map(|(nth, ids)| {
        let weights = ids
            .iter()
            .filter_map(|id| Some((weight(matches, id)?, *id)));
        let (weight, id) = weights.max_by_key(|(weight, _)| *weight)?;
        Some((nth, weight, id))
    })
    .collect()
}

/// Returns the settings for identity that are overruled by another way of greater weight.
pub(crate) fn overruled(matches: &ArgMatches) -> Vec<&'static str> {
    let given = given_identity_ways(matches);
    let most = given.iter().map(|(_, weight, _)| *weight).max();
    let lighter = given.iter().filter(|(_, weight, _)| Some(*weight) < most);
    lighter
        .flat_map(|(nth, ..)| IDENTITY_WAYS[*nth])
        .copied()
        .collect()
}

/// Refuses two ways of the same weight.
fn check_identity_ways(matches: &ArgMatches) -> Result<(), String> {
    let mut given = given_identity_ways(matches);
    given.sort_by_key(|(_, weight, _)| std::cmp::Reverse(*weight));
    match given[..] {
        [(_, one, id), (_, other, other_id), ..] if one == other => Err(format!(
            "{} and {} contradict each other",
            named(matches, id),
            named(matches, other_id)
        )),
        _ => Ok(()),
    }
}

/// Refuses a directory for a node that keeps everything in memory. One in the environment, as container images set it,
/// only says where the directory would be, and is accepted.
fn check_directory(matches: &ArgMatches, command: &Command) -> Result<(), String> {
    let in_memory = match command {
        Command::Master(args) => args.common.memory,
        Command::Secondary(args) => args.common.memory,
        Command::Cluster(args) => args.common.memory,
        _ => false,
    };
    let source = matches
        .subcommand()
        // Only for commands that have such a flag.
        .filter(|(_, matches)| matches.try_contains_id("data_dir").is_ok())
        .and_then(|(_, matches)| matches.value_source("data_dir"));
    match in_memory && source == Some(ValueSource::CommandLine) {
        true => Err(
            "--memory keeps nothing on disk, so --data-dir has no effect: leave one of them out"
                .to_owned(),
        ),
        false => Ok(()),
    }
}

/// Treats settings that contradict each other as wrong usage, like those that cannot be parsed.
fn validate(command: &Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let checked = match command {
        Command::Master(args) => args.check(),
        Command::Secondary(args) => args.check(),
        Command::Cluster(args) => args.common.check().and_then(|()| args.check_ports()),
        Command::Demo => Ok(()),
        Command::Probe(args) => args.url().map(drop).map_err(|what| {
            let matches = matches.subcommand().map(|(_, matches)| matches);
            let source = matches.and_then(|matches| matches.value_source("listen"));
            match source {
                Some(ValueSource::EnvVariable) => format!("REPLOG_LISTEN: {what}"),
                _ => format!("--listen: {what}"),
            }
        }),
        Command::CheckConfig(_) => Ok(()),
    };
    checked.map_err(|what| clap::Error::raw(ErrorKind::ValueValidation, what))?;
    let checked = match command {
        Command::Master(args) => args
            .common
            .master_config(args.name.clone(), args.secondaries.clone())
            .validate()
            .and_then(|()| check_peers(&args.secondaries)),
        Command::Secondary(args) => args.common.secondary_config(args.name.clone()).validate(),
        Command::Cluster(args) => {
            let name = NodeName::new("master").expect("letters");
            args.common.master_config(name, Vec::new()).validate()
        }
        _ => Ok(()),
    };
    checked.map_err(|what| clap::Error::raw(ErrorKind::ValueValidation, what))
}

/// Returns clap's message in one line.
fn usage_line(commands: &str, error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return format!("{commands} (see --help)");
    }
    format!("{} (see --help)", message_of(error))
}

/// Returns clap's message without the usage and the hints below it.
pub(crate) fn message_of(error: &clap::Error) -> String {
    // An address with an `@` may contain a password, which must not be repeated.
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && value.contains('@')
        && let (Some(what), Some(ContextValue::String(arg))) =
            (error.source(), error.get(ContextKind::InvalidArg))
    {
        return one_line(&format!("{arg}: {what}"));
    }
    let text = error.render().to_string();
    let mut parts = text.split("\n\n");
    let message = parts.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    // Suggestions for what was meant; a value that looks like a flag is never one.
    let tips = parts
        .flat_map(str::lines)
        .filter_map(|line| line.trim().strip_prefix("tip: "))
        .filter(|tip| !tip.starts_with("to pass "));
    let tips: String = tips.map(|tip| format!("; {tip}")).collect();
    one_line(&format!("{message}{tips}"))
}

impl MasterArgs {
    fn check(&self) -> Result<(), String> {
        self.common.check()?;
        let own = cluster_listen(&self.listen, self.cluster_listen.as_ref())?;
        let addresses = self.secondaries.iter().map(|peer| peer.address.parse());
        let addresses: Vec<HostPort> = addresses.filter_map(Result::ok).collect();
        for (peer, address) in self.secondaries.iter().zip(&addresses) {
            if is_listener(address, &own) {
                return Err(format!(
                    "--secondary {}={address}: this master itself listens there for other nodes: give the address of {}",
                    peer.name, peer.name
                ));
            }
        }
        self.common
            .check_between_nodes(addresses.into_iter().chain([own]))?;
        self.common.check_alone()
    }
}

/// Returns `true` if a connection to `address` from this machine reaches `listener`.
fn is_listener(address: &HostPort, listener: &HostPort) -> bool {
    let ip = |of: &HostPort| match of.host() {
        "localhost" => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
        _ => of.ip(),
    };
    let is_there = listener.host() == address.host()
        || (ip(listener).is_some() && ip(listener) == ip(address))
        || (listener.is_unspecified() && address.is_loopback());
    is_there && listener.port() == address.port() && listener.port() != 0
}

impl SecondaryArgs {
    fn check(&self) -> Result<(), String> {
        self.common.check()?;
        let own = cluster_listen(&self.listen, self.cluster_listen.as_ref())?;
        self.common.check_between_nodes([own])?;
        self.common.check_alone()
    }
}

/// Returns the address at which a node listens for other nodes.
pub(crate) fn cluster_listen(
    listen: &HostPort,
    given: Option<&HostPort>,
) -> Result<HostPort, String> {
    let address = match given {
        Some(given) => given.clone(),
        None => match cluster_port_of(listen.port()) {
            Some(port) => listen.clone().with_port(port),
            None => {
                return Err(format!(
                    "there is no port 1000 above {}: say --cluster-listen HOST:PORT",
                    listen.port()
                ));
            }
        },
    };
    if address == *listen && address.port() != 0 {
        return Err(format!(
            "--listen and --cluster-listen are both {address}: nodes and clients need a listener each"
        ));
    }
    Ok(address)
}

impl ClusterArgs {
    fn check_ports(&self) -> Result<(), String> {
        let last = self.port.checked_add(self.secondaries);
        if self.port != 0 && last.and_then(cluster_port_of).is_none() {
            return Err(format!(
                "there are no {} after {}, or none 1000 above them",
                counted(self.secondaries, "port"),
                self.port
            ));
        }
        Ok(())
    }
}

impl CommonArgs {
    fn check(&self) -> Result<(), String> {
        if self.max_request_bytes < self.max_message_bytes {
            return Err(format!(
                "--max-message-bytes must be at most --max-request-bytes: {} is more than {}",
                self.max_message_bytes, self.max_request_bytes
            ));
        }
        let files = [&self.cluster_cert, &self.cluster_key, &self.cluster_ca];
        let given = files.iter().filter(|file| file.is_some()).count();
        if ![0, files.len()].contains(&given) {
            return Err(
                "--cluster-cert, --cluster-key and --cluster-ca must be given all three or not at all"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Refuses addresses beyond this machine between nodes without encryption.
    fn check_between_nodes(
        &self,
        addresses: impl IntoIterator<Item = HostPort>,
    ) -> Result<(), String> {
        let mut addresses = addresses.into_iter();
        match addresses.find(|address| !address.is_loopback()) {
            Some(far) if self.cluster_insecure => Err(format!(
                "--cluster-insecure is for loopback addresses only, and {far} is not one"
            )),
            _ => Ok(()),
        }
    }

    /// Refuses a node that keeps nothing on disk and is given no secret: it has no place for one of its own, and one in
    /// its memory would be known to no other process.
    fn check_alone(&self) -> Result<(), String> {
        let proves = self.cluster_secret_file.is_some()
            || self.cluster_cert.is_some()
            || self.cluster_insecure;
        match self.memory && !proves {
            true => Err(
                "--memory keeps no cluster secret: say --cluster-secret-file FILE, the same for all \
                 nodes; the file is made where it is missing"
                    .to_owned(),
            ),
            false => Ok(()),
        }
    }

    /// Returns the settings of a master, except for the limit that open files put on waiting appends.
    pub(crate) fn master_config(&self, name: NodeName, secondaries: Vec<Peer>) -> MasterConfig {
        let mut config = MasterConfig::new(name, secondaries);
        config.founding = if self.existing {
            Founding::Never
        } else {
            Founding::Allowed
        };
        config.take_over = match self.take_over {
            true => TakeOver::AtOnce,
            false => TakeOver::WhenSilent,
        };
        config.timing = Timing {
            heartbeat_interval: self.heartbeat_interval,
            request_timeout: self.request_timeout,
            suspect_after: self.suspect_after,
            unhealthy_after: self.unhealthy_after,
            retry_min: self.retry_min,
            retry_max: self.retry_max,
        };
        config.sync = self.sync;
        config.max_message_bytes = self.max_message_bytes;
        config.max_waiting_appends = self.max_waiting_appends;
        config.max_queued_bytes = self.max_queued_bytes;
        config.key_horizon = self.key_horizon;
        config
    }

    /// Returns the settings of a secondary.
    pub(crate) fn secondary_config(&self, name: NodeName) -> SecondaryConfig {
        let mut config = SecondaryConfig::new(name);
        config.sync = self.sync;
        config
    }
}

/// Parses a name without a port, as in the header `Host`.
fn parse_host(text: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    match text.strip_suffix('.').unwrap_or(text) {
        "" => Err("expected a name".to_owned()),
        name if name.bytes().all(is_name) => Ok(name.to_ascii_lowercase()),
        _ => Err("expected a name without a scheme and a port, such as log.example.com".to_owned()),
    }
}

fn parse_name(text: &str) -> Result<NodeName, String> {
    NodeName::new(text).map_err(|error| error.to_string())
}

fn parse_peer(text: &str) -> Result<Peer, String> {
    let (name, address) = text
        .split_once('=')
        .ok_or("expected NAME=HOST:PORT, as in secondary-1=10.0.0.2:6000")?;
    let parsed_name = parse_name(name)?;
    match address.parse::<HostPort>() {
        Ok(address) => Ok(Peer {
            name: parsed_name,
            address: address.to_string(),
        }),
        Err(BadAddress::Url { instead }) => Err(format!(
            "a node is named by the host and port of its cluster listener, as in {name}={instead}, \
             and not by a URL"
        )),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_listen(text: &str) -> Result<HostPort, String> {
    HostPort::parse_listen(text).map_err(|error| match error {
        BadAddress::Form(_) | BadAddress::Url { .. } => {
            format!("expected HOST:PORT, as in 127.0.0.1:5000, not {text:?}")
        }
        error => error.to_string(),
    })
}

/// Parses the URL at which clients reach a node.
fn parse_url(text: &str) -> Result<NodeUrl, BadUrl> {
    text.parse()
}

/// Checks an `http` URL of a host and removes a slash at its end: paths are appended to it.
fn parse_http_url(text: &str) -> Result<String, String> {
    match Client::new(text) {
        Ok(client) => Ok(client.url().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses `500ms`, `3s`, `2m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration such as 500ms, 3s or 2m, not {text:?}");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    let total_ms = number
        .checked_mul(unit_ms)
        .ok_or_else(|| format!("{text} is too long"))?;
    Ok(Duration::from_millis(total_ms))
}

/// Parses `64MiB`, `16KiB`, `1024`.
fn parse_size(text: &str) -> Result<usize, String> {
    let expected = || format!("expected a size as in 64MiB, 16KiB or 1024, not {text:?}");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: usize = number.parse().map_err(|_| expected())?;
    let unit_bytes = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(expected()),
    };
    let bytes = number
        .checked_mul(unit_bytes)
        .ok_or_else(|| format!("{text} is too large"))?;
    if bytes == 0 {
        Err("a size is at least 1".to_owned())
    } else {
        Ok(bytes)
    }
}

/// Parses the limit on requests that append: no append may be longer than [`FRAME_BYTES_MAX`].
fn parse_append_size(text: &str) -> Result<usize, String> {
    match parse_size(text)? {
        bytes if bytes <= FRAME_BYTES_MAX => Ok(bytes),
        _ => Err(format!(
            "one append may have at most {}MiB ({}), and so may --max-request-bytes",
            FRAME_BYTES_MAX >> 20,
            counted(FRAME_BYTES_MAX, "byte")
        )),
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!("expected a number of at least 1, not {text:?}")),
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Command {
    /// Returns its name on the command line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Command::Master(_) => "master",
            Command::Secondary(_) => "secondary",
            Command::Cluster(_) => "cluster",
            Command::Demo => "demo",
            Command::Probe(_) => "probe",
            Command::CheckConfig(_) => "check-config",
        }
    }

    /// Removes settings that are overruled by others.
    fn remove_overruled(&mut self, overruled: &[&str]) {
        let common = match self {
            Command::Master(args) => &mut args.common,
            Command::Secondary(args) => &mut args.common,
            Command::Cluster(args) => &mut args.common,
            Command::Demo | Command::Probe(_) | Command::CheckConfig(_) => return,
        };
        for id in overruled {
            match *id {
                "cluster_secret_file" => common.cluster_secret_file = None,
                "cluster_cert" => common.cluster_cert = None,
                "cluster_key" => common.cluster_key = None,
                "cluster_ca" => common.cluster_ca = None,
                _ => common.cluster_insecure = false,
            }
        }
    }

    /// Returns the format of its nodes' log lines.
    pub(crate) fn log_format(&self) -> LogFormat {
        match self {
            Command::Master(args) => args.common.log_format,
            Command::Secondary(args) => args.common.log_format,
            Command::Cluster(args) => args.common.log_format,
            Command::Demo | Command::Probe(_) | Command::CheckConfig(_) => LogFormat::Text,
        }
    }
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("expected text or json, not {text:?}")),
    }
}

/// Parses `always`, `interval:50ms`, `never`.
fn parse_sync(text: &str) -> Result<SyncPolicy, String> {
    match (text, text.strip_prefix("interval:")) {
        ("always", _) => Ok(SyncPolicy::Always),
        ("never", _) => Ok(SyncPolicy::Never),
        (_, Some(interval)) => match parse_duration(interval)? {
            Duration::ZERO => Err("a sync interval is at least 1ms".to_owned()),
            interval => Ok(SyncPolicy::Interval(interval)),
        },
        _ => Err(format!(
            "expected always, interval:50ms or never, not {text:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace()).map_err(|error| usage_line(COMMANDS, &error))
    }

    #[test]
    fn a_master_has_the_documented_defaults() {
        let command = parsed("replog-server master --secondary secondary-1=B:6000");
        let Ok(Command::Master(args)) = command else {
            panic!("{command:?}")
        };
        assert_eq!(args.name.as_str(), "master");
        assert_eq!(args.listen.to_string(), "127.0.0.1:5000");
        let nodes = cluster_listen(&args.listen, args.cluster_listen.as_ref());
        assert_eq!(
            nodes.map(|nodes| nodes.to_string()),
            Ok("127.0.0.1:6000".to_owned())
        );
        assert_eq!(args.secondaries[0].address, "b:6000");
        assert_eq!(args.data_dir, None);
        let config = args.common.master_config(args.name, args.secondaries);
        let defaults = MasterConfig::new(config.name.clone(), Vec::new());
        assert_eq!(
            format!("{:?}", config.timing),
            format!("{:?}", defaults.timing)
        );
        assert_eq!(config.max_message_bytes, 1 << 20);
        assert_eq!(config.max_queued_bytes, 256 << 20);
        assert_eq!(config.max_waiting_appends, 100_000);
        assert_eq!(config.key_horizon, 1_000_000);
        assert_eq!(config.sync, SyncPolicy::Always);
        assert_eq!(config.founding, Founding::Allowed);
        assert_eq!(args.common.max_request_bytes, FRAME_BYTES_MAX);
        assert_eq!(args.common.append_timeout, None);
    }

    #[test]
    fn secondaries_are_given_one_by_one_or_after_commas() {
        let lines = [
            "replog-server master --secondary a=a:1 --secondary b=b:1",
            "replog-server master --secondary a=a:1,b=b:1",
        ];
        for line in lines {
            let command = parsed(line);
            let Ok(Command::Master(args)) = command else {
                panic!("{command:?}")
            };
            let names: Vec<&str> = args
                .secondaries
                .iter()
                .map(|peer| peer.name.as_str())
                .collect();
            assert_eq!(names, ["a", "b"], "{line}");
        }
    }

    #[test]
    fn a_probe_asks_the_given_url_else_the_address_that_the_node_listens_on() {
        let table = [
            ("", "http://localhost:5000"),
            ("http://a:7", "http://a:7"),
            ("HTTP://A:7/", "http://a:7"),
            ("--listen 0.0.0.0:7000", "http://localhost:7000"),
            ("--listen [::]:7000", "http://localhost:7000"),
            ("--listen 10.0.0.2:7000", "http://10.0.0.2:7000"),
            ("http://a:7 --listen 0.0.0.0:7000", "http://a:7"),
        ];
        for (args, expected) in table {
            match parsed(&format!("replog-server probe {args}")) {
                Ok(Command::Probe(probe)) => assert_eq!(probe.url().as_deref(), Ok(expected)),
                other => panic!("{args}: {other:?}"),
            }
        }
        for args in ["--listen 0.0.0.0:0", "http://a:65536", "ftp://a"] {
            assert!(
                parsed(&format!("replog-server probe {args}")).is_err(),
                "{args}"
            );
        }
    }

    #[test]
    fn usage_errors_suggest_what_was_meant() {
        let message = parsed("replog-server clustr").expect_err("no command");
        assert!(message.contains("'cluster'"), "{message}");
        let message = parsed("replog-server cluster --secondarys 2").expect_err("no flag");
        assert!(message.contains("--secondaries"), "{message}");
    }

    #[test]
    fn wrong_usage_is_reported_in_one_line() {
        let table = [
            (
                "",
                "master, secondary, cluster, demo, probe or check-config",
            ),
            ("frobnicate", "frobnicate"),
            ("master", "--secondary"),
            ("master --secondary a", "expected NAME=HOST:PORT"),
            ("master --secondary a=b", "expected HOST:PORT"),
            (
                "master --secondary a=b:65536",
                "a port is a number from 1 to",
            ),
            ("master --secondary a=b:0", "a port is a number from 1 to"),
            (
                "master --secondary a=http://b:5001",
                "as in a=b:6001, and not by a URL",
            ),
            (
                "master --secondary a=b:1 --secondary b=B:1",
                "two secondaries have the address b:1",
            ),
            (
                "master --secondary a=b:1 --listen 127.0.0.1:64536",
                "say --cluster-listen",
            ),
            (
                "master --secondary a=localhost:6000",
                "this master itself listens there",
            ),
            (
                "master --secondary a=127.0.0.1:6000 --listen 0.0.0.0:5000",
                "this master itself listens there",
            ),
            (
                "master --secondary a=b:1 --listen c:1 --cluster-listen c:1",
                "a listener each",
            ),
            (
                "master --secondary a=b:1 --listen 127.0.0.1:99999",
                "a port is a number",
            ),
            (
                "master --secondary a=b:1 --cluster-insecure",
                "for loopback addresses only, and b:1 is not one",
            ),
            (
                "secondary --name a --listen 0.0.0.0:5000 --cluster-insecure",
                "for loopback addresses only, and 0.0.0.0:6000 is not one",
            ),
            (
                "secondary --name a --cluster-cert c --cluster-key k",
                "all three or not at all",
            ),
            (
                "secondary --name a --cluster-secret-file s --cluster-insecure",
                "contradict each other",
            ),
            (
                "cluster --cluster-secret-file s --cluster-cert c --cluster-key k --cluster-ca a",
                "contradict each other",
            ),
            ("secondary --name a --memory", "say --cluster-secret-file"),
            ("cluster --port 64535", "there are no 2 ports after 64535"),
            ("cluster --cluster-token hush", "--cluster-token"),
            ("cluster --memory --data-dir x", "leave one of them out"),
            ("cluster --heartbeat-interval 2s", "heartbeat-interval"),
            (
                "check-config cluster --heartbeat-interval 2s",
                "heartbeat-interval",
            ),
            ("check-config", "COMMAND"),
            (
                "master --secondary a=b:1 --secondary a=c:1",
                "two nodes have the name a",
            ),
            (
                "master --secondary a=b:1 --heartbeat-interval 2s",
                "heartbeat-interval",
            ),
            (
                "master --secondary a=b:1 --retry-min 3",
                "expected a duration",
            ),
            (
                "master --secondary a=b:1 --max-message-bytes 2MiB --max-request-bytes 1MiB",
                "--max-message-bytes must be at most --max-request-bytes",
            ),
            (
                "master --secondary a=b:1 --max-message-bytes 65GiB",
                "one append may have at most 8MiB",
            ),
            (
                "cluster --max-request-bytes 8388609",
                "'8388609' for '--max-request-bytes <SIZE>': one append may have at most 8MiB (8388608 bytes)",
            ),
            (
                "check-config secondary --name a --max-request-bytes 64MiB",
                "one append may have at most 8MiB",
            ),
            (
                "master --secondary a=b:1 --key-horizon 0",
                "0 is not in 1..",
            ),
            ("cluster --key-horizon many", "--key-horizon"),
            ("master --secondary a=b:1 --listen", "--listen"),
            ("secondary", "--name"),
            ("secondary --name a/b", "a node name has"),
            ("secondary --name a --sync sometimes", "expected always"),
            ("cluster --secondaries 64", "64 is not in"),
            ("cluster --port 65535", "there are no 2 ports after 65535"),
            ("cluster --max-waiting-appends 0", "at least 1"),
            ("cluster --max-message-bytes 0", "at least 1"),
            ("cluster --log-format xml", "expected text or json"),
            ("cluster extra", "extra"),
            ("probe ftp://x", "expected a URL"),
            // Not port 80, whichever parser finally reads the URL.
            ("secondary --name a --master http://a:99999", "a port is"),
            (
                "secondary --name a --public-url http://a:65536",
                "a port is",
            ),
            ("probe http://127.0.0.1:99999", "a port is"),
            ("secondary --name a --public-url ftp://a", "expected a URL"),
            ("secondary --name a --public-url http://a/#b", "a fragment"),
        ];
        for (line, expected) in table {
            let message = parsed(&format!("replog-server {line}")).expect_err(line);
            assert!(message.contains(expected), "{line}: {message}");
            assert!(!message.contains('\n'), "{line}: {message}");
        }
    }

    #[test]
    fn durations_sizes_and_policies_are_parsed_as_documented() {
        let durations = [
            ("500ms", 500),
            ("3s", 3_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ];
        for (text, expected) in durations {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(expected)),
                "{text}"
            );
        }
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "99999999999999999h",
            "3S",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        let sizes = [
            ("1024", 1024),
            ("16KiB", 16 << 10),
            ("64MiB", 64 << 20),
            ("7B", 7),
        ];
        for (text, expected) in sizes {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for bad in ["", "MiB", "-1", "1MB", "1.5MiB", "0", "99999999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        let interval = SyncPolicy::Interval(Duration::from_millis(50));
        assert_eq!(parse_sync("interval:50ms"), Ok(interval));
        assert_eq!(parse_sync("never"), Ok(SyncPolicy::Never));
        assert!(parse_sync("interval:0ms").is_err());
    }

    #[test]
    fn a_recovery_is_forced_only_by_the_full_flag_on_a_master() {
        let flag = "--force-recovery-and-lose-acknowledged-messages";
        let line = "replog-server master --secondary s=b:6000";
        for (line, expected) in [(line.to_owned(), false), (format!("{line} {flag}"), true)] {
            let Ok(Command::Master(args)) = parsed(&line) else {
                panic!("{line}");
            };
            assert_eq!(args.force_recovery_and_lose_acknowledged_messages, expected);
        }
        for line in [
            format!("{line} --force"),
            format!("replog-server secondary --name s {flag}"),
            format!("replog-server cluster {flag}"),
        ] {
            assert!(parsed(&line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_flag_has_the_environment_variable_of_its_name() {
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments() {
                // A hidden flag is another way to give an argument that has the variable.
                let Some(long) = arg.get_long().filter(|_| !arg.is_hide_set()) else {
                    continue;
                };
                if long == "help" {
                    continue;
                }
                let expected = format!("REPLOG_{}", long.to_uppercase().replace('-', "_"));
                let env = arg.get_env().map(|env| env.to_string_lossy().into_owned());
                assert_eq!(env.as_deref(), Some(&*expected), "{long}");
            }
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        let line = "replog-server master --secondary a=http://user:hush@b:5000";
        let message = parsed(line).expect_err(line);
        assert!(!message.contains("hush"), "{message}");
        for line in [
            "secondary --name a --master http://user:hush@b",
            "secondary --name a --public-url http://user:hush@b",
            "probe http://user:hush@b",
        ] {
            let message = parsed(&format!("replog-server {line}")).expect_err(line);
            assert!(message.contains("a user name or a password"), "{message}");
            assert!(!message.contains("hush"), "{message}");
        }
    }

    #[test]
    fn a_switch_may_be_given_a_value() {
        let table = [
            ("", Ok(false)),
            ("--memory", Ok(true)),
            ("--memory=true", Ok(true)),
            ("--memory=false", Ok(false)),
            ("--memory=off", Ok(false)),
            ("--memory=2", Err("--memory")),
            // A value only after an equals sign.
            ("--memory false", Err("'false'")),
        ];
        for (flag, expected) in table {
            match (parsed(&format!("replog-server cluster {flag}")), expected) {
                (Ok(Command::Cluster(args)), Ok(memory)) => {
                    assert_eq!(args.common.memory, memory, "{flag}");
                }
                (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
                (found, _) => panic!("{flag}: {found:?}"),
            }
        }
    }
}
