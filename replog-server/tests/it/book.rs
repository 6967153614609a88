//! The README and the book: runs each command in them, and compares the output with the page.
//!
//! A page is run from top to bottom in a directory of its own:
//!
//! - a block marked `sh server` starts a node with each line, and goes on once it listens;
//! - a block marked `sh` is given to a shell, once the master takes appends, and must succeed;
//! - a block marked `sh endless` is one command that does not end by itself: it is ended when it has printed the
//!   block below it;
//! - a block marked `text` right below one of these is the expected output, where `…` stands for any text;
//! - blocks marked `sh gate` are run by `.ci/run` as they stand, and a block marked `sh containers` is covered by
//!   `docker/try`;
//! - the comments `<!-- stop NAME -->` and `<!-- kill NAME -->` end a node, or all nodes if there is no name. Readers
//!   do not see them, so the text next to them must ask for the same.
//!
//! The book uses the default ports. Here each is replaced by a free one.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::channel,
    thread,
};

use tempfile::TempDir;

use crate::{
    http::get,
    nodes::{PATIENCE, Process, eventually, free_ports_of_node, program, program_path},
};

/// The port of the master in the book; the secondaries have the ports after it.
const MASTER_PORT: u16 = 5_000;
/// Number of ports of nodes that the book uses.
const PORTS: u16 = 4;
/// Distance from a node's port for clients to its port for other nodes.
const CLUSTER_PORT_DISTANCE: u16 = 1_000;

/// A step that a page asks for.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Start(String),
    Run {
        script: String,
        prints: Option<String>,
    },
    Watch {
        command: String,
        prints: Option<String>,
    },
    End {
        name: Option<String>,
        at_once: bool,
    },
}

fn book() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src")
}

/// The README, relative to the directory of the book.
const README: &str = "../../README.md";
/// Marks of the blocks that are not commands.
const NO_COMMANDS: [&str; 4] = ["text", "json", "toml", "yaml"];

/// Returns every page that the table of contents names.
fn pages() -> Vec<String> {
    let summary = fs::read_to_string(book().join("SUMMARY.md")).expect("a table of contents");
    links(&summary).collect()
}

/// Returns every page whose commands are run.
fn pages_to_run() -> Vec<String> {
    let mut pages = pages();
    pages.push(README.to_owned());
    pages
}

/// Returns the bodies of the blocks that have a mark.
fn blocks(page: &str, mark: &str) -> Vec<String> {
    let mut lines = page.lines();
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(found) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if found == mark {
                blocks.push(body.join("\n"));
            }
        }
    }
    blocks
}

/// Replaces `cargo run` in a command line: the programs are already built.
fn without_cargo(line: &str) -> String {
    line.replace("cargo run --release -- ", "replog-server ")
}

/// Returns the targets of a page's links to other pages.
fn links(text: &str) -> impl Iterator<Item = String> {
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split(')').next());
    targets
        .map(|target| target.split('#').next().unwrap_or_default().to_owned())
        .filter(|target| target.ends_with(".md"))
}

fn steps(page: &str) -> Vec<(usize, Step)> {
    let mut steps = Vec::new();
    let mut lines = page.lines().enumerate().map(|(at, line)| (at + 1, line));
    // True if the last element of the page was a command, whose output may follow.
    let mut printed = false;
    while let Some((at, line)) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let body: Vec<&str> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| *line != "```")
                .collect();
            match kind {
                "sh server" => {
                    let starts = body
                        .iter()
                        .map(|line| (at, Step::Start(without_cargo(line))));
                    steps.extend(starts);
                }
                "sh endless" => steps.push((
                    at,
                    Step::Watch {
                        command: body.join("\n"),
                        prints: None,
                    },
                )),
                "sh" => steps.push((
                    at,
                    Step::Run {
                        script: body.join("\n"),
                        prints: None,
                    },
                )),
                "text" if printed => {
                    if let Some((_, Step::Run { prints, .. } | Step::Watch { prints, .. })) =
                        steps.last_mut()
                    {
                        *prints = Some(body.join("\n"));
                    }
                }
                "sh gate" | "sh containers" => {}
                _ => assert!(
                    NO_COMMANDS.contains(&kind) || kind.starts_with("rust"),
                    "line {at}: nobody runs a block that is marked {kind:?}"
                ),
            }
            printed = matches!(kind, "sh" | "sh endless");
        } else if let Some(comment) = line.strip_prefix("<!-- ") {
            let mut words = comment.trim_end_matches("-->").split_whitespace();
            let at_once = match words.next() {
                Some("stop") => false,
                Some("kill") => true,
                _ => continue,
            };
            let name = words.next().map(str::to_owned);
            steps.push((at, Step::End { name, at_once }));
        } else if !line.trim().is_empty() {
            printed = false;
        }
    }
    steps
}

/// Returns the ends of nodes that a page performs without telling its reader. The reader is told if the paragraph
/// before or after the comment says so, and the node's name is on the page since the last heading.
fn unannounced_ends(page: &str) -> Vec<(usize, String)> {
    let mut untold = Vec::new();
    let lines: Vec<&str> = page.lines().collect();
    let (mut section, mut paragraph) = (String::new(), String::new());
    let (mut in_block, mut goes_on) = (false, false);
    for (at, line) in lines.iter().enumerate() {
        let is_comment = line.starts_with("<!--");
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block || !is_comment {
            if line.starts_with('#') && !in_block {
                section.clear();
                paragraph.clear();
            }
            section.extend([line, "\n"]);
        }
        let is_text = !in_block && !is_comment && !line.starts_with("```") && !line.is_empty();
        if is_text && !goes_on {
            paragraph.clear();
        }
        goes_on = is_text;
        if is_text {
            paragraph.extend([line, "\n"]);
        }
        let step = is_comment.then(|| steps(line).pop()).flatten();
        let Some((_, Step::End { name, at_once })) = step else {
            continue;
        };
        let behind: Vec<&str> = lines[at + 1..]
            .iter()
            .skip_while(|line| line.is_empty() || line.starts_with("<!--"))
            .take_while(|line| !line.is_empty() && !line.starts_with("```"))
            .copied()
            .collect();
        let behind = behind.join("\n");
        let words: &[&str] = match at_once {
            true => &["kill"],
            false => &["stop", "sigterm"],
        };
        let beside = format!("{paragraph}{behind}").to_lowercase();
        let is_told = words.iter().any(|word| beside.contains(word));
        let is_named = name.is_none_or(|name| {
            let seen = format!("{section}{behind}").to_lowercase();
            seen.contains(&name)
        });
        if !is_told || !is_named {
            untold.push((at + 1, (*line).to_owned()));
        }
    }
    untold
}

/// Reports whether `printed` matches `pattern`, in which `…` stands for any text.
fn is_as_said(pattern: &str, printed: &str) -> bool {
    let (pattern, mut rest) = (pattern.trim(), printed.trim());
    let Some((first, others)) = pattern.split_once('…') else {
        return pattern == rest;
    };
    let Some(after) = rest.strip_prefix(first) else {
        return false;
    };
    rest = after;
    let mut parts: Vec<&str> = others.split('…').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Replaces each of the book's ports in a command with the free one that stands for it.
fn with_ports(script: &str, ports: &BTreeMap<u16, u16>) -> String {
    let mut replaced = String::new();
    let mut rest = script;
    // In a single pass over the text: a replacement may begin with the digits of another port.
    while let Some(at) = ["localhost:", "127.0.0.1:"]
        .iter()
        .filter_map(|host| rest.find(host).map(|at| at + host.len()))
        .min()
    {
        let (before, after) = rest.split_at(at);
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (port, after) = after.split_at(digits);
        replaced.push_str(before);
        match port.parse().ok().and_then(|port: u16| ports.get(&port)) {
            Some(free) => replaced.push_str(&free.to_string()),
            None => replaced.push_str(port),
        }
        rest = after;
    }
    replaced + rest
}

/// Splits a command line that starts nodes into the line without its `--port`, and that port.
fn without_port(line: &str) -> (String, u16) {
    let Some((before, after)) = line.split_once(" --port ") else {
        return (line.to_owned(), MASTER_PORT);
    };
    let (port, after) = after.split_once(' ').unwrap_or((after, ""));
    let port = port.parse().expect("a port");
    (format!("{before} {after}"), port)
}

/// A page being run.
struct Run {
    directory: TempDir,
    /// By the names of their nodes; one process may run several.
    processes: Vec<(Vec<String>, Process)>,
    /// The book's ports, and the free ones that stand for them.
    ports: BTreeMap<u16, u16>,
}

impl Run {
    fn new() -> Run {
        let mut run = Run {
            directory: tempfile::tempdir().expect("a directory"),
            processes: Vec::new(),
            ports: BTreeMap::new(),
        };
        run.take_free_ports();
        run
    }

    /// Chooses free ports in place of those of the book: two for each node.
    fn take_free_ports(&mut self) {
        self.ports.clear();
        for port in MASTER_PORT..MASTER_PORT + PORTS {
            let free = free_ports_of_node(CLUSTER_PORT_DISTANCE);
            self.ports.insert(port, free);
            let (port, free) = (port + CLUSTER_PORT_DISTANCE, free + CLUSTER_PORT_DISTANCE);
            self.ports.insert(port, free);
        }
    }

    fn url(&self, port: u16) -> String {
        format!("http://localhost:{}", self.ports[&port])
    }

    /// Builds a shell command in which the book's ports are replaced.
    fn shell(&self, script: &str) -> Command {
        let script = with_ports(script, &self.ports);
        let programs = program_path("replog-server");
        let mut path = programs
            .parent()
            .expect("it is in a directory")
            .as_os_str()
            .to_owned();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("REPLOG_") {
                command.env_remove(name);
            }
        }
        command
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(self.directory.path())
            .env("PATH", path)
            .env("REPLOG_URL", self.url(MASTER_PORT));
        command
    }

    fn start(&mut self, line: &str) {
        let is_cluster = line.starts_with("replog-server cluster");
        // If a page starts several clusters, all but one have their own port.
        let (line, first_port) = without_port(line);
        let mut command = self.shell(&format!("exec {line}"));
        match is_cluster {
            true => command.env("REPLOG_PORT", "0"),
            false => {
                let listen = format!("127.0.0.1:{}", self.ports[&MASTER_PORT]);
                // A flag overrides this; the variable is for the master.
                command.env("REPLOG_LISTEN", listen)
            }
        };
        let process = Process::run(command, &self.directory.path().join("nodes.log"));
        let mut names = Vec::new();
        loop {
            let said = process.line();
            if said == "ready" {
                break;
            }
            let (name, url) = said.split_once(' ').expect("NAME URL");
            if is_cluster {
                let port = url.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
                let book = first_port + u16::try_from(names.len()).expect("few nodes");
                self.ports.insert(book, port.expect("a URL with a port"));
            }
            names.push(name.to_owned());
            if !is_cluster {
                break;
            }
        }
        self.processes.push((names, process));
    }

    /// Waits until the master, if there is one, takes appends.
    fn wait_for_master(&self) {
        let has_master = |(names, _): &(Vec<String>, _)| names.iter().any(|name| name == "master");
        if self.processes.iter().any(has_master) {
            let address = ([127, 0, 0, 1], self.ports[&MASTER_PORT]).into();
            eventually("the master takes appends", || {
                (get(address, "/readyz/write").status == 200).then_some(())
            });
        }
    }

    fn run(&self, script: &str, prints: Option<&str>) {
        self.wait_for_master();
        // No pipe: a background command would keep it open after the shell has ended.
        let errors = self.directory.path().join("errors.log");
        let output = self
            .shell(script)
            .stderr(fs::File::create(&errors).expect("a file"))
            .output()
            .expect("there is a shell");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{script}\nended with {}: {printed}{}",
            output.status,
            fs::read_to_string(&errors).unwrap_or_default()
        );
        if let Some(prints) = prints {
            assert!(
                is_as_said(prints, &printed),
                "{script}\nprinted\n{printed}\nand the book says\n{prints}"
            );
        }
    }

    /// Runs a command that does not end by itself until it has printed the expected output.
    fn watch(&self, command: &str, prints: Option<&str>) {
        let prints = prints.unwrap_or_else(|| panic!("{command}: nothing says when to end it"));
        self.wait_for_master();
        let mut child = self
            .shell(&format!("exec {command}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let mut stdout = child.stdout.take().expect("a pipe");
        let (sender, parts) = channel();
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut printed = Vec::new();
        let is_shown = loop {
            if is_as_said(prints, &String::from_utf8_lossy(&printed)) {
                break true;
            }
            match parts.recv_timeout(PATIENCE) {
                Ok(part) => printed.extend(part),
                Err(_) => break false,
            }
        };
        let ended = child.try_wait().expect("a child");
        child.kill().expect("it is not waited for yet");
        child.wait().expect("a child");
        drop(parts);
        reader.join().expect("it only reads");
        let printed = String::from_utf8_lossy(&printed);
        assert!(
            is_shown,
            "{command}\nprinted\n{printed}\nand the page says\n{prints}"
        );
        assert_eq!(
            ended, None,
            "{command} ended by itself: mark its block `sh`"
        );
    }

    fn end(&mut self, name: Option<&str>, at_once: bool) {
        let is_meant = |(names, _): &(Vec<String>, Process)| match name {
            Some(name) => names.iter().any(|own| own == name),
            None => true,
        };
        let meant: Vec<_> = self
            .processes
            .extract_if(.., |process| is_meant(process))
            .collect();
        assert!(!meant.is_empty(), "{name:?} does not run");
        for (names, process) in meant {
            if at_once {
                process.kill();
            } else {
                assert!(process.terminate().success(), "{names:?} ends well");
            }
            // A cluster used ports that the system may give to any process now.
            if names.len() > 1 && self.processes.is_empty() {
                self.take_free_ports();
            }
        }
    }
}

fn run_page(name: &str) {
    let text = fs::read_to_string(book().join(name)).expect("a page");
    let mut run = Run::new();
    for (line, step) in steps(&text) {
        eprintln!("{name}, line {line}");
        match step {
            Step::Start(line) => run.start(&line),
            Step::Run { script, prints } => run.run(&script, prints.as_deref()),
            Step::Watch { command, prints } => run.watch(&command, prints.as_deref()),
            Step::End { name, at_once } => run.end(name.as_deref(), at_once),
        }
    }
}

#[test]
fn every_command_of_the_readme_and_the_book_works_and_prints_what_it_says() {
    thread::scope(|scope| {
        let pages = pages_to_run().into_iter();
        let runs: Vec<_> = pages
            .map(|page| (page.clone(), scope.spawn(move || run_page(&page))))
            .collect();
        let failed = runs
            .into_iter()
            .filter_map(|(page, run)| run.join().err().map(|_| page));
        let failed: Vec<String> = failed.collect();
        assert!(failed.is_empty(), "{failed:?}: see above");
    });
}

#[test]
fn every_page_is_in_the_table_of_contents_and_every_link_leads_to_one() {
    let named: BTreeSet<PathBuf> = pages().into_iter().map(|page| book().join(page)).collect();
    for page in &named {
        let text = fs::read_to_string(page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        let directory = page.parent().expect("a page is in a directory");
        for link in links(&text).filter(|link| !link.starts_with("http")) {
            let target = directory.join(&link);
            assert!(target.is_file(), "{}: {link} leads nowhere", page.display());
        }
    }
    let mut directories = vec![book()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => directories.push(path),
                false => assert!(
                    named.contains(&path) || path.ends_with("SUMMARY.md"),
                    "{} is not in the table of contents",
                    path.display()
                ),
            }
        }
    }
}

#[test]
fn readers_are_told_of_every_node_that_a_page_ends() {
    for page in pages_to_run() {
        let text = fs::read_to_string(book().join(&page)).expect("a page");
        assert_eq!(unannounced_ends(&text), [], "{page}");
    }
    let told = [
        "# A\n```sh server\none\n```\n\nKill one:\n\n<!-- kill one -->\n```sh\nrm one\n```\n",
        "# A\nsay `one`\n\n<!-- stop one -->\nSIGTERM ends it:\n\n```sh\nx\n```\n",
        "# A\nFirst stop\nthem all.\n```sh\nx\n```\n<!-- stop -->\n",
        "# A\nKill one and two\n\n<!-- kill one -->\n<!-- kill two -->\n",
    ];
    for page in told {
        assert_eq!(unannounced_ends(page), [], "{page}");
    }
    let untold = [
        "# A\nIts disk\n\n<!-- kill one -->\n```sh\nkill one\n```\n",
        "# Kill one\n\n# B\n\n<!-- kill one -->\n",
        "# A\nKill it\n\nand go on\n\n<!-- kill one -->\n",
        "# A\nKill it.\n\n<!-- kill one -->\n",
    ];
    for page in untold {
        assert_eq!(unannounced_ends(page).len(), 1, "{page}");
    }
}

#[test]
fn the_gate_runs_the_first_commands_of_the_readme_as_they_stand() {
    let read = |path| fs::read_to_string(book().join(path)).expect("a file");
    let readme = read(README);
    let first = &blocks(&readme, "sh server")[0];
    assert_eq!(first, "cargo run --release -- cluster");
    let gate = read("../../.ci/run") + &read("../../scripts/check");
    for command in blocks(&readme, "sh gate") {
        // `.ci/run` takes the others from the README itself.
        let is_run =
            gate.contains(&format!("step {command}\n")) || command.starts_with("cargo install");
        assert!(is_run, "nobody runs {command}");
    }
}

#[test]
fn the_settings_and_flags_in_deploy_are_accepted() {
    let deploy = book().join("../../deploy");
    let said = |args: &[&str]| {
        let output = program().args(args).output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), text, errors)
    };
    for (kind, file) in [("master", "master.toml"), ("secondary", "secondary-1.toml")] {
        let file = deploy.join("systemd").join(file);
        let file = file.to_str().expect("a plain path");
        let (is_good, _, errors) = said(&[kind, "--config", file, "--print-config"]);
        assert!(is_good, "{file}: {errors}");
    }
    let help = said(&["help", "master"]).1 + &said(&["help", "secondary"]).1;
    for file in ["systemd/replog@.service", "kubernetes/replog.yaml"] {
        let text = fs::read_to_string(deploy.join(file)).expect("a file");
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let words = text.split(|c| !is_of_name(c));
        // `--safe-to-stop` and `--from-file` belong to other programs; REPLOG_KIND is the unit's own.
        let others = [
            "--safe-to-stop",
            "--from-file",
            "REPLOG_KIND",
            "REPLOG_PORT",
        ];
        let ours = words.filter(|word| {
            (word.starts_with("REPLOG_") || (word.starts_with("--") && word.len() > 3))
                && !others.contains(word)
        });
        for word in ours {
            assert!(help.contains(word), "{file}: there is no {word}");
        }
    }
}

/// Returns the value of a setting of the systemd unit.
fn setting_of<'a>(unit: &'a str, name: &str) -> &'a str {
    let mut lines = unit.lines();
    lines
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("the unit has no {name}"))
}

#[test]
fn the_systemd_unit_starts_a_node_with_the_settings_and_environment_of_the_book() {
    let systemd = book().join("../../deploy/systemd");
    let read = |path: PathBuf| fs::read_to_string(path).expect("a file");
    let unit = read(systemd.join("replog@.service"));
    let deploying = read(book().join("operating/deploying.md"));
    for (name, kind) in [("master", "master"), ("secondary-1", "secondary")] {
        let variable = format!("REPLOG_KIND={kind}");
        assert!(deploying.contains(&variable), "{variable}");
        let of_instance = |name_of: &str| setting_of(&unit, name_of).replace("%i", name);
        assert_eq!(
            of_instance("EnvironmentFile"),
            format!("/etc/replog/{name}.env")
        );
        let command = of_instance("ExecStart").replace("${REPLOG_KIND}", kind);
        let installed = format!("/etc/replog/{name}.toml");
        let file = systemd.join(format!("{name}.toml")).display().to_string();
        let mut words = command.split(' ');
        assert_eq!(words.next(), Some("/usr/local/bin/replog-server"));
        let args = words.map(|word| if word == installed { &*file } else { word });
        let args: Vec<&str> = args.collect();
        assert!(args.contains(&&*file), "{command}");
        let unit_program = || {
            let mut command = program();
            command.env("REPLOG_KIND", kind).args(&args);
            command
        };
        let config = unit_program().arg("--print-config").output();
        let config = config.expect("the program starts");
        let text = String::from_utf8_lossy(&config.stdout).into_owned();
        assert!(config.status.success(), "{config:?}");
        // The only directory that the unit may write to.
        let directory = format!("/var/lib/{}", of_instance("StateDirectory"));
        assert!(
            text.contains(&format!("data-dir = \"{directory}\"")),
            "{text}"
        );
        assert_eq!(of_instance("RequiresMountsFor"), directory);
        // With addresses and paths that exist here. The program knows every variable of its environment.
        let place = TempDir::new().expect("a temporary directory");
        let at = |name: &str| place.path().join(name).display().to_string();
        let mut started = unit_program();
        started.args(["--listen", "127.0.0.1:0", "--cluster-listen", "127.0.0.1:0"]);
        started.args([
            "--data-dir",
            &at("data"),
            "--cluster-secret-file",
            &at("secret"),
        ]);
        let log_file = place.path().join("log");
        let node = Process::run(started, &log_file);
        node.line();
        // Log lines are written by a thread of their own: all of them are there once the node has ended.
        assert_eq!(node.terminate().code(), Some(0));
        let log = fs::read_to_string(&log_file).expect("a log");
        assert!(log.contains("stopping"), "{log}");
        assert!(!log.contains("is ignored"), "{log}");
    }
    // The unit's exit code for wrong usage is the program's.
    let mut wrong = program();
    wrong.env("REPLOG_KIND", "nothing").arg("nothing");
    let code = wrong.output().expect("the program starts").status.code();
    let expected = setting_of(&unit, "RestartPreventExitStatus");
    assert_eq!(code, Some(expected.parse().expect("a number")));
}

#[test]
fn each_port_of_the_book_is_replaced_once() {
    let ports = BTreeMap::from([(5000, 50010), (5001, 40000)]);
    let script = "a http://localhost:5000/x 127.0.0.1:5001 localhost:50002 localhost:";
    let expected = "a http://localhost:50010/x 127.0.0.1:40000 localhost:50002 localhost:";
    assert_eq!(with_ports(script, &ports), expected);
    let line = "replog-server cluster --port 6000 --data-dir x";
    let expected = "replog-server cluster --data-dir x".to_owned();
    assert_eq!(without_port(line), (expected, 6000));
}

#[test]
fn a_page_is_parsed_into_its_steps() {
    let page = "# A\n```sh server\none\ntwo\n```\n\n<!-- kill one -->\n```sh\na\nb\n```\n```text\nx…\n```\n\
                words\n```text\na picture\n```\n```json\n{}\n```\n<!-- stop -->\n<!-- another -->\n\
                ```sh gate\nc\n```\n```sh endless\nd\n```\n```text\ny\n```\n";
    let run = Step::Run {
        script: "a\nb".to_owned(),
        prints: Some("x…".to_owned()),
    };
    let watch = Step::Watch {
        command: "d".to_owned(),
        prints: Some("y".to_owned()),
    };
    let end = |name: Option<&str>, at_once| Step::End {
        name: name.map(str::to_owned),
        at_once,
    };
    let expected = vec![
        (2, Step::Start("one".to_owned())),
        (2, Step::Start("two".to_owned())),
        (7, end(Some("one"), true)),
        (8, run),
        (22, end(None, false)),
        (27, watch),
    ];
    assert_eq!(steps(page), expected);
}

#[test]
fn an_ellipsis_matches_any_text() {
    let good = [
        ("a", "a\n"),
        ("…", ""),
        ("a…", "abc"),
        ("…c", "abc"),
        ("a…c…e", "abcde"),
        ("a…", "a"),
    ];
    for (pattern, printed) in good {
        assert!(is_as_said(pattern, printed), "{pattern} {printed}");
    }
    let bad = [
        ("a", "ab"),
        ("a…c", "abcd"),
        ("b…", "ab"),
        ("a…x…c", "abc"),
        ("ab…bc", "abc"),
    ];
    for (pattern, printed) in bad {
        assert!(!is_as_said(pattern, printed), "{pattern} {printed}");
    }
}
