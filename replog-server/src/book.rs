//! The pages of the book that repeat what the program says: the settings, and the HTTP interface.
//!
//! Made by `cargo test -p replog-server --lib write_the_pages -- --ignored`; a test compares them
//! with the program, so that neither changes alone.

use std::{fmt::Write as _, fs, path::PathBuf};

use clap::{Arg, Command, CommandFactory as _};
use serde_json::Value;

use crate::{args::Cli, routes::openapi};

/// Text above the settings.
const SETTINGS_HEAD: &str = "\
# Settings

Each flag `--some-flag` has an environment variable `REPLOG_SOME_FLAG` (a repeated flag's is
comma-separated), and may stand without its dashes as a key in the TOML file that `--config` names: flags win over the
environment, that over the file. `--print-config` prints the settings that hold as such a file. Durations are written `500ms`,
`3s`; sizes `64MiB`. `replog-server help COMMAND` prints the same.
";

/// The commands that start nodes.
const NODES: [&str; 3] = ["master", "secondary", "cluster"];

fn settings_page() -> String {
    let cli = Cli::command();
    let commands: Vec<&Command> = NODES
        .iter()
        .map(|name| cli.find_subcommand(name).expect("a command of this name"))
        .collect();
    let help = |arg: &Arg| arg.get_help().map(ToString::to_string);
    // The same flag may have another meaning, or default, elsewhere.
    let is_common = |arg: &Arg| {
        commands.iter().all(|command| {
            let mut args = command.get_arguments();
            args.any(|own| own.get_id() == arg.get_id() && help(own) == help(arg))
        })
    };
    let mut page = SETTINGS_HEAD.to_owned();
    for command in &commands {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        let _ = write!(
            page,
            "\n## `replog-server {}`\n\n{about}\n\n",
            command.get_name()
        );
        table(
            &mut page,
            command.get_arguments().filter(|arg| !is_common(arg)),
        );
    }
    page.push_str("\n## All of them\n\n");
    table(
        &mut page,
        commands[0].get_arguments().filter(|arg| is_common(arg)),
    );
    page
}

fn table<'a>(page: &mut String, args: impl Iterator<Item = &'a Arg>) {
    page.push_str("| flag | default | meaning |\n| --- | --- | --- |\n");
    for arg in args.filter(|arg| !arg.is_hide_set()) {
        let Some(long) = arg.get_long() else {
            continue;
        };
        let takes_value = arg.get_action().takes_values();
        let value = arg.get_value_names().filter(|_| takes_value);
        let value = value.and_then(|names| names.first());
        let value = value.map(|name| match arg.is_require_equals_set() {
            true => format!("[={name}]"),
            false => format!(" {name}"),
        });
        let value = value.unwrap_or_default();
        let defaults: Vec<String> = arg
            .get_default_values()
            .iter()
            .filter(|_| !arg.is_hide_default_value_set())
            .map(|default| format!("`{}`", default.to_string_lossy()))
            .collect();
        let help = arg.get_long_help().or_else(|| arg.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            page,
            "| `--{long}{value}` | {} | {} |",
            defaults.join(", "),
            help.replace('|', "\\|")
        );
    }
}

/// Text above the HTTP interface.
const HTTP_HEAD: &str = "\
# HTTP reference

Made from the document that every node serves at `/openapi.json`, which a test compares with real answers.
";

fn http_page() -> String {
    let document: Value = serde_json::from_str(openapi::DOCUMENT).expect("the document is JSON");
    let mut page = HTTP_HEAD.to_owned();
    let _ = write!(page, "\n{}\n", text(&document["info"]["description"]));
    for (path, methods) in members(&document["paths"]) {
        for (method, operation) in members(methods) {
            let method = method.to_uppercase();
            let summary = sentence(text(&operation["summary"]));
            let _ = write!(page, "\n## `{method} {path}`\n\n{summary}");
            if let Some(more) = operation["description"].as_str() {
                let _ = write!(page, " {more}");
            }
            page.push('\n');
            parameters(&mut page, &operation["parameters"]);
            for (media_type, content) in members(&operation["requestBody"]["content"]) {
                let what = kind_of_content(content);
                let _ = write!(page, "\nBody, as `{media_type}`: {what}\n");
            }
            responses(&mut page, &document, &operation["responses"]);
        }
    }
    page.push_str("\n## Bodies\n");
    for (name, schema) in members(&document["components"]["schemas"]) {
        let _ = write!(page, "\n### {name}\n");
        if let Some(about) = schema["description"].as_str() {
            let _ = write!(page, "\n{about}\n");
        }
        let parts: Vec<&Value> = match schema["allOf"].as_array() {
            Some(parts) => parts.iter().collect(),
            None => vec![schema],
        };
        // A part may say more of a member that another part requires.
        let required: Vec<&str> = parts
            .iter()
            .flat_map(|part| required_of(resolve(&document, part)))
            .collect();
        for part in parts {
            let forms = part["oneOf"].as_array();
            let forms = forms.filter(|forms| forms.iter().all(has_members));
            if part.get("$ref").is_some() {
                let _ = write!(page, "\nAll of {}, and:\n", kind_of(part));
            } else if let Some(forms) = forms {
                for (at, form) in forms.iter().enumerate() {
                    page.push_str(if at == 0 { "\nEither:\n" } else { "\nOr:\n" });
                    object(&mut page, form, &required_of(form).collect::<Vec<_>>());
                }
            } else if has_members(part) {
                object(&mut page, part, &required);
            } else {
                let _ = write!(page, "\n{}\n", kind_of(part));
            }
        }
    }
    page
}

fn responses(page: &mut String, document: &Value, responses: &Value) {
    page.push_str("\n| status | when | body | headers |\n| --- | --- | --- | --- |\n");
    for (status, response) in members(responses) {
        let response = resolve(document, response);
        let bodies: Vec<String> = members(&response["content"])
            .map(|(media_type, content)| format!("`{media_type}`: {}", kind_of_content(content)))
            .collect();
        let headers: Vec<String> = members(&response["headers"])
            .map(|(name, header)| {
                let about = text(&resolve(document, header)["description"]);
                format!("`{name}`: {about}")
            })
            .collect();
        let _ = writeln!(
            page,
            "| {status} | {} | {} | {} |",
            cell(text(&response["description"])),
            cell(&bodies.join("; ")),
            cell(&headers.join(" "))
        );
    }
}

/// Writes the members of an object.
fn object(page: &mut String, schema: &Value, required: &[&str]) {
    page.push_str("\n| member | required | type | meaning |\n| --- | --- | --- | --- |\n");
    for (member, schema) in members(&schema["properties"]) {
        let is_required = if required.contains(&member) {
            "yes"
        } else {
            ""
        };
        let _ = writeln!(
            page,
            "| `{member}` | {is_required} | {} | {} |",
            cell(&kind_of(schema)),
            cell(&about(schema, schema))
        );
    }
}

fn parameters(page: &mut String, parameters: &Value) {
    let Some(parameters) = parameters.as_array() else {
        return;
    };
    page.push_str("\n| parameter | in | type | meaning |\n| --- | --- | --- | --- |\n");
    for parameter in parameters {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            text(&parameter["name"]),
            text(&parameter["in"]),
            cell(&kind_of(&parameter["schema"])),
            cell(&about(parameter, &parameter["schema"]))
        );
    }
}

/// Describes an item, and its default.
fn about(described: &Value, schema: &Value) -> String {
    let about = text(&described["description"]);
    match schema.get("default") {
        Some(default) => format!("{about} Without it: `{default}`.")
            .trim()
            .to_owned(),
        None => about.to_owned(),
    }
}

/// Describes the contents of a body: for a stream also those of each part.
fn kind_of_content(content: &Value) -> String {
    let kind = kind_of(&content["schema"]);
    if let Some(line) = content.get("x-each-line") {
        return format!("{kind}, each line {}", kind_of(line));
    }
    let events: Vec<String> = members(&content["x-events"])
        .map(|(event, data)| format!("`{event}` {}", kind_of(data)))
        .collect();
    match events.is_empty() {
        true => kind,
        false => format!("{kind}, its events {}", events.join(", ")),
    }
}

/// Describes the values that a schema allows, in a few words.
fn kind_of(schema: &Value) -> String {
    let list = |values: &Value, each: &dyn Fn(&Value) -> String| {
        let values = values.as_array().into_iter().flatten();
        values.map(each).collect::<Vec<_>>().join(" or ")
    };
    if let Some(target) = schema["$ref"].as_str() {
        let name = target.rsplit('/').next().unwrap_or_default();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if schema.get("enum").is_some() {
        return list(&schema["enum"], &|value| format!("`{value}`"));
    }
    if schema.get("oneOf").is_some() {
        return list(&schema["oneOf"], &kind_of);
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let parts = parts.iter().map(|part| match part.get("oneOf") {
            Some(_) => format!("({})", kind_of(part)),
            None => kind_of(part),
        });
        return parts.collect::<Vec<_>>().join(" and ");
    }
    match schema["type"].as_str() {
        Some("array") => format!("array of {}", kind_of(&schema["items"])),
        Some("object") if has_members(schema) => {
            let members = members(&schema["properties"]);
            let members = members.map(|(name, schema)| format!("`{name}`: {}", kind_of(schema)));
            format!("object ({})", members.collect::<Vec<_>>().join(", "))
        }
        Some(kind) => kind.to_owned(),
        None if schema["type"].is_array() => list(&schema["type"], &|kind| text(kind).to_owned()),
        None => "any JSON".to_owned(),
    }
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let target = value["$ref"]
        .as_str()
        .and_then(|target| target.strip_prefix('#'));
    target
        .and_then(|pointer| document.pointer(pointer))
        .unwrap_or(value)
}

fn has_members(schema: &Value) -> bool {
    schema.get("properties").is_some()
}

fn required_of(schema: &Value) -> impl Iterator<Item = &str> {
    let names = schema["required"].as_array().into_iter().flatten();
    names.filter_map(Value::as_str)
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let members = value.as_object().into_iter().flatten();
    members.map(|(name, value)| (name.as_str(), value))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns the text with a full stop.
fn sentence(text: &str) -> String {
    match text.ends_with(['.', '?', '!']) {
        true => text.to_owned(),
        false => format!("{text}."),
    }
}

/// Returns the text as a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Returns every generated page and its path.
fn pages() -> [(PathBuf, String); 2] {
    let book = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src"));
    [
        (book.join("operating/settings.md"), settings_page()),
        (book.join("http.md"), http_page()),
    ]
}

#[test]
fn the_pages_match_the_program() {
    for (path, page) in pages() {
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            written,
            page,
            "{} is out of date: see book.rs",
            path.display()
        );
    }
}

#[test]
fn the_http_reference_names_every_body() {
    let page = http_page();
    // The data of a message, and the document of the interface itself.
    let (mut heading, mut vague) = ("", Vec::new());
    for line in page.lines() {
        if line.starts_with('#') {
            heading = line;
        }
        let may_be_any = ["### Data", "## `GET /openapi.json`"].contains(&heading);
        if line.contains("any JSON") && !may_be_any || line.contains("object or object") {
            vague.push((heading, line));
        }
    }
    assert_eq!(vague, []);
    let post = page
        .split("\n## ")
        .find(|part| part.starts_with("`POST /messages`"));
    let post = post.expect("appends are described");
    for header in ["`Location`: ", "`Retry-After`: ", "`Idempotent-Replayed`: "] {
        assert!(post.contains(header), "{header}");
    }
    assert!(page.contains("| `offset` | yes | [Offset](#offset) |"));
    assert!(!page.contains("?."));
}

/// The log lines in the table of `watching.md`, and the places in the library where their parts
/// are.
const LOG_LINES: [(&str, &[(&str, &str)]); 14] = [
    (
        "secondary is Suspected",
        &[("actors/secondary_link.rs", "secondary is Suspected")],
    ),
    (
        "secondary is Unhealthy",
        &[("actors/secondary_link.rs", "secondary is Unhealthy")],
    ),
    (
        "mode is read-only: 1 of 3 nodes are in contact and 2 are needed",
        &[
            ("actors/coordinator.rs", "mode is {mode}: {}"),
            ("types.rs", "\"read-only\""),
            (
                "rules/leader.rs",
                "{alive} of {nodes} nodes are in contact and {needed} are needed",
            ),
        ],
    ),
    (
        "fenced: another master leads a newer epoch",
        &[(
            "actors/coordinator.rs",
            "fenced: another master leads a newer epoch",
        )],
    ),
    (
        "the disk refuses writes",
        &[
            ("actors/coordinator.rs", "\"the disk refuses writes: "),
            ("actors/replica.rs", "\"the disk refuses writes: "),
        ],
    ),
    (
        "the log is damaged",
        &[("handle/runtime.rs", "\"the log is damaged: ")],
    ),
    (
        "the mark is missing or unreadable and is rewritten",
        &[(
            "log/files/opening.rs",
            "\"the mark is missing or unreadable and is rewritten",
        )],
    ),
    (
        "the header of a segment is unreadable and is rebuilt from the log",
        &[(
            "log/files/opening.rs",
            "\"the header of a segment is unreadable and is rebuilt from the log",
        )],
    ),
    (
        "the directory was removed, moved or replaced while the node ran",
        &[(
            "storage/file/access.rs",
            "\"the directory was removed, moved or replaced while the node ran",
        )],
    ),
    (
        "others could use this directory: its mode is tightened",
        &[(
            "storage/file/access.rs",
            "\"others could use this directory: its mode is tightened",
        )],
    ),
    (
        "other users have access to this directory, and its mode is left as it is",
        &[(
            "storage/file/access.rs",
            "\"other users have access to this directory, and its mode is left as it is",
        )],
    ),
    (
        "the data directory belongs to another user, who can change its content",
        &[(
            "storage/file/access.rs",
            "\"the data directory belongs to another user, who can change its content",
        )],
    ),
    (
        "recovery cannot finish without an operator",
        &[(
            "rules/recovery.rs",
            "\"recovery cannot finish without an operator",
        )],
    ),
    (
        "a record cannot be read",
        &[
            (
                "actors/coordinator/damage.rs",
                "\"a record cannot be read: ",
            ),
            ("actors/replica.rs", "\"a record cannot be read: "),
        ],
    ),
];

#[test]
fn the_log_lines_that_the_book_explains_exist_in_the_source() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let read = |path: &str| {
        let text = fs::read_to_string(format!("{root}/{path}"));
        text.unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let page = read("docs/src/operating/watching.md");
    let table = page.split_once("| what it says |").expect("the table").1;
    let explained: Vec<&str> = table
        .lines()
        .filter_map(|row| row.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(explained, LOG_LINES.map(|(line, _)| line));
    for (line, parts) in LOG_LINES {
        for (file, part) in parts {
            let source = read(&format!("replog-core/src/{file}"));
            assert!(source.contains(part), "{line}: {part} is not in {file}");
        }
    }
}

#[test]
#[ignore = "writes the pages"]
fn write_the_pages() {
    for (path, page) in pages() {
        fs::write(&path, page).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
