//! A file of settings, and all settings in effect as such a file.
//!
//! Owns the form: TOML, one key per flag, without the leading dashes. The meaning of a value is up to the flag: the
//! file's value becomes the flag's default, so that flags and the environment override it, and one and the same parser
//! reads every value. A key that is not a flag of the command is an error.

use std::{
    any::TypeId,
    error::Error as _,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, builder::Resettable, parser::ValueSource};
use toml::de::{DeTable, DeValue};

use crate::{
    args::{message_of, overruled},
    variables,
};

/// Flags about the file itself, which cannot be in one.
const NOT_IN_A_FILE: [&str; 2] = ["config", "print-config"];

/// The settings of one file.
#[derive(Debug)]
struct ConfigFile {
    path: PathBuf,
    settings: Vec<Setting>,
}

/// One setting of a file.
#[derive(Debug)]
struct Setting {
    /// The flag's name.
    key: String,
    /// Its values, as they would follow the flag.
    values: Vec<String>,
}

/// Result of reading a command line, the environment and a file.
pub(crate) struct Settings {
    pub(crate) matches: ArgMatches,
    /// All settings in effect, as a file, if requested.
    pub(crate) printed: Option<String>,
    /// The keys in the file.
    pub(crate) keys_of_file: Vec<String>,
}

/// Parses a command line, and the file that it or the environment names.
///
/// # Errors
///
/// Wrong usage, in the file too: then with its line.
pub(crate) fn parse(program: &clap::Command, args: &[OsString]) -> Result<Settings, clap::Error> {
    let program = &variables::without_empty_variables(program.clone());
    let refused = |text| clap::Error::raw(clap::error::ErrorKind::ValueValidation, text);
    let file = match named_file(program, args) {
        Some((command, path)) => Some(ConfigFile::read(&path, program, &command).map_err(refused)?),
        None => None,
    };
    let mut program = program.clone();
    if let Some(file) = &file {
        program = file.become_defaults(program);
    }
    let matches = program.clone().try_get_matches_from(args);
    let matches = matches.map_err(|error| variables::name_variable(error, &program, args))?;
    let printed = matches.subcommand().and_then(|(name, matches)| {
        let asked = matches.try_get_one::<bool>("print_config").ok().flatten();
        let command = program.find_subcommand(name)?;
        asked?.then(|| show(command, matches, file.as_ref()))
    });
    let settings = file.into_iter().flat_map(|file| file.settings);
    Ok(Settings {
        matches,
        printed,
        keys_of_file: settings.map(|setting| setting.key).collect(),
    })
}

/// Returns the file that is named, and the command that it is for. Other mistakes are reported when everything is
/// parsed.
fn named_file(program: &clap::Command, args: &[OsString]) -> Option<(String, PathBuf)> {
    // Required flags may be in the file.
    let program = program.clone();
    let lenient = program.mut_subcommands(|command| command.mut_args(|arg| arg.required(false)));
    let matches = lenient.try_get_matches_from(args).ok()?;
    let (name, matches) = matches.subcommand()?;
    let path = matches.try_get_one::<PathBuf>("config").ok()??;
    Some((name.to_owned(), path.clone()))
}

impl ConfigFile {
    fn read(path: &Path, program: &clap::Command, command: &str) -> Result<ConfigFile, String> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        let settings = settings_of(&text, program, command)
            .map_err(|(line, what)| format!("{shown} line {line}: {what}"))?;
        Ok(ConfigFile {
            path: path.to_owned(),
            settings,
        })
    }

    /// Makes the file's values the defaults of the flags.
    fn become_defaults(&self, program: clap::Command) -> clap::Command {
        program.mut_subcommands(|command| {
            command.mut_args(|arg| {
                let found = arg.get_long().and_then(|key| self.get(key));
                match found {
                    Some(setting) => arg.required(false).default_values(&setting.values),
                    None => arg,
                }
            })
        })
    }

    fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }
}

/// Returns the settings in a file's text; or the number of the line with a mistake, and the mistake.
fn settings_of(
    text: &str,
    program: &clap::Command,
    command: &str,
) -> Result<Vec<Setting>, (usize, String)> {
    let line_of = |position: usize| 1 + text[..position].matches('\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let position = error.span().map_or(0, |span| span.start);
        (line_of(position), error.message().to_owned())
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    // The first mistake is reported first.
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut settings = Vec::new();
    for (key, value) in entries {
        let wrong = |what| (line_of(key.span().start), what);
        let name = key.get_ref().as_ref();
        let arg =
            flag(program, command, name).ok_or_else(|| wrong(unknown(program, command, name)))?;
        let values = values_of(arg, value.get_ref())
            .and_then(|values| check(arg, &values).map(|()| values))
            .map_err(|what| wrong(format!("{name}: {what}")))?;
        settings.push(Setting {
            key: name.to_owned(),
            values,
        });
    }
    Ok(settings)
}

/// Returns the flag of a command that a key names.
fn flag<'a>(program: &'a clap::Command, command: &str, key: &str) -> Option<&'a Arg> {
    let command = program.find_subcommand(command)?;
    let is_it = |arg: &&Arg| arg.get_long() == Some(key) && !NOT_IN_A_FILE.contains(&key);
    command.get_arguments().find(is_it)
}

fn unknown(program: &clap::Command, command: &str, key: &str) -> String {
    let dashed = key.replace('_', "-");
    let has_it = |other: &&clap::Command| flag(program, other.get_name(), key).is_some();
    let hint = if flag(program, command, &dashed).is_some() {
        format!(": it is {dashed}")
    } else if let Some(other) = program.get_subcommands().find(has_it) {
        format!(", but for {}", other.get_name())
    } else {
        String::new()
    };
    format!("there is no setting {key:?} for {command}{hint}")
}

/// Returns the text that follows the flag for this value.
fn values_of(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    let one = match value {
        DeValue::Boolean(value) if is_switch(arg) => Some(value.to_string()),
        DeValue::Integer(number) if is_number(arg) => {
            // With another radix, or longer than any setting is: its digits are enough to refuse it.
            let read = i128::from_str_radix(number.as_str(), number.radix());
            Some(read.map_or_else(|_| number.to_string(), |number| number.to_string()))
        }
        DeValue::String(text) if !is_switch(arg) => Some(text.to_string()),
        DeValue::Array(items) if is_list => {
            let texts = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                other => Err(format!(
                    "expected strings in the array, not {}",
                    kind_of(other)
                )),
            });
            return texts.collect();
        }
        _ => None,
    };
    one.map(|one| vec![one])
        .ok_or_else(|| format!("expected {}, not {}", wanted(arg), kind_of(value)))
}

fn is_switch(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<bool>()
}

fn is_number(arg: &Arg) -> bool {
    is_plain_number(arg) || arg.get_value_parser().type_id() == TypeId::of::<usize>()
}

/// Returns `true` if it is a number and nothing else: a size has a unit.
fn is_plain_number(arg: &Arg) -> bool {
    let parsed = arg.get_value_parser().type_id();
    [TypeId::of::<u16>(), TypeId::of::<u64>()]
        .iter()
        .any(|number| parsed == *number)
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Describes the values that a file may give the flag.
fn wanted(arg: &Arg) -> String {
    let kind = if is_switch(arg) {
        return "true or false".to_owned();
    } else if is_number(arg) {
        "an integer or a string"
    } else if matches!(arg.get_action(), ArgAction::Append) {
        "an array of strings"
    } else {
        "a string"
    };
    match arg.get_default_values() {
        [default] => format!("{kind}, as in {:?}", default.to_string_lossy()),
        _ => kind.to_owned(),
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Checks the flag's values one by one, so that the line of a mistake is known.
fn check(arg: &Arg, values: &[String]) -> Result<(), String> {
    if is_switch(arg) {
        return Ok(());
    }
    // As if the key were absent; but then a required flag would count as given.
    if values.is_empty() && arg.is_required_set() {
        return Err("expected at least one".to_owned());
    }
    let key = arg.get_long().unwrap_or_default();
    let alone = arg.clone().required(false).env(Resettable::Reset);
    let result = clap::Command::new("file")
        .no_binary_name(true)
        .arg(alone)
        .try_get_matches_from(values.iter().map(|value| format!("--{key}={value}")));
    match result {
        Ok(_) => Ok(()),
        Err(_) if is_plain_number(arg) && values.iter().any(|value| !is_integer(value)) => {
            let values = values.join(", ");
            Err(format!("expected an integer, not {values:?}"))
        }
        // Its source is the message of the flag's own parser, without the value: that may contain a password.
        Err(error) => Err(match error.source() {
            Some(what) => what.to_string(),
            None => message_of(&error),
        }),
    }
}

/// Returns all settings of a command in effect, as a file that can be read back.
fn show(command: &clap::Command, matches: &ArgMatches, file: Option<&ConfigFile>) -> String {
    let mut text = format!("# replog-server {}\n", command.get_name());
    let overruled = overruled(matches);
    for arg in command.get_arguments() {
        let Some(key) = arg.get_long().filter(|key| is_shown(key)) else {
            continue;
        };
        if overruled.contains(&arg.get_id().as_str()) {
            text.push_str(&format!(
                "# {key} is not used: another setting replaces it\n"
            ));
            continue;
        }
        let from = origin(arg, matches, file);
        let line = match shown(arg, matches) {
            Shown::Value(value) => format!("{key} = {value}{from}"),
            Shown::Absent => format!("# {key} is not set"),
            Shown::Unwritable => format!("# {key} is not UTF-8 and cannot be written here{from}"),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn is_shown(key: &str) -> bool {
    key != "help" && !NOT_IN_A_FILE.contains(&key)
}

/// A setting as it is shown.
enum Shown {
    Value(String),
    Absent,
    Unwritable,
}

fn shown(arg: &Arg, matches: &ArgMatches) -> Shown {
    let id = arg.get_id().as_str();
    if is_switch(arg) {
        return Shown::Value(matches.get_flag(id).to_string());
    }
    let Some(raw) = matches.get_raw(id) else {
        return Shown::Absent;
    };
    let Some(texts) = raw.map(|value| value.to_str()).collect::<Option<Vec<_>>>() else {
        return Shown::Unwritable;
    };
    let written = |text: &str| match is_number(arg) && text.parse::<u64>().is_ok() {
        true => text.to_owned(),
        false => quoted(text),
    };
    let mut texts = texts.into_iter().map(written).collect::<Vec<_>>();
    Shown::Value(match arg.get_action() {
        ArgAction::Append => format!("[{}]", texts.join(", ")),
        _ => texts.pop().unwrap_or_default(),
    })
}

/// Returns a string of TOML. A JSON string is one, except for a character that must not stand in it unescaped.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.replace('\u{7f}', "\\u007f")
}

/// Returns the origin of a setting that is not a default, as a comment.
fn origin(arg: &Arg, matches: &ArgMatches, file: Option<&ConfigFile>) -> String {
    let key = arg.get_long().unwrap_or_default();
    let by_file = file.filter(|file| file.get(key).is_some());
    match (matches.value_source(arg.get_id().as_str()), by_file) {
        (Some(ValueSource::CommandLine), _) => format!(" # --{key}"),
        (Some(ValueSource::EnvVariable), _) => {
            let name = arg.get_env().unwrap_or_default();
            format!(" # {}", name.to_string_lossy())
        }
        (Some(_), Some(file)) => {
            let path = file.path.to_string_lossy();
            // A path with a line break would end the comment.
            format!(" # {}", path.replace(char::is_control, "?"))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
