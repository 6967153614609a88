//! The environment of both programs: which variables are set, which commands they belong to, and which one a wrong
//! value came from.
//!
//! Owns no setting: the meaning of a variable is up to its argument.

use std::{
    error::Error as _,
    ffi::{OsStr, OsString},
    fmt,
};

use clap::{
    Arg,
    builder::Resettable,
    error::{ContextKind, ContextValue},
};

use crate::args::message_of;

/// Variables of the files for containers and for systemd.
const CONTAINER_VARIABLES: [&str; 6] = [
    "REPLOG_IMAGE",
    "REPLOG_VERSION",
    "REPLOG_MASTER_PORT",
    "REPLOG_SECONDARY_1_PORT",
    "REPLOG_SECONDARY_2_PORT",
    "REPLOG_KIND",
];

/// A variable named `REPLOG_…` that has no effect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ignored {
    name: String,
    /// The commands that have it as a setting.
    commands: Vec<String>,
}

impl Ignored {
    /// Returns `true` if it is not a setting of any command, as a mistyped one is.
    pub(crate) fn is_unknown(&self) -> bool {
        self.commands.is_empty()
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.commands[..] {
            [] => write!(f, "{name} is not a setting of this program and is ignored"),
            commands => write!(
                f,
                "{name} is a setting of {} only and is ignored",
                commands.join(" and ")
            ),
        }
    }
}

/// Returns the program without the variables that carry no value: an empty one, as Compose makes of `${X:-}`, is not
/// set, and Kubernetes sets `REPLOG_PORT=tcp://10.96.0.1:5000` for a Service called `replog`.
pub(crate) fn without_empty_variables(program: clap::Command) -> clap::Command {
    with_args(program, &|arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        let name = arg.get_env().unwrap_or_default().to_string_lossy();
        match value {
            Some(value) if value.is_empty() || is_of_a_service(&name, &value) => {
                arg.env(Resettable::Reset)
            }
            _ => arg,
        }
    })
}

/// Returns the same error under the name of the variable that the wrong value comes from, if it does not come from the
/// command line. `program` must be the one that parsed `args`.
pub(crate) fn name_variable(
    error: clap::Error,
    program: &clap::Command,
    args: &[OsString],
) -> clap::Error {
    let wrong = |error: &clap::Error| match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(wrong)) => Some(wrong.clone()),
        _ => None,
    };
    let Some(argument) = wrong(&error) else {
        return error;
    };
    let mut built = program.clone();
    built.build();
    let Some(variable) = variable_of(&built, &argument) else {
        return error;
    };
    // Without the variable it is still wrong if it comes from elsewhere.
    let without = with_args(
        program.clone(),
        &|arg| match arg.get_env() == Some(&variable) {
            true => arg.env(Resettable::Reset),
            false => arg,
        },
    );
    if let Err(again) = without.try_get_matches_from(args)
        && again.kind() == error.kind()
        && wrong(&again).as_ref() == Some(&argument)
    {
        return error;
    }
    let what = match error.source() {
        Some(what) => what.to_string(),
        None => message_of(&error),
    };
    let variable = variable.to_string_lossy();
    clap::Error::raw(error.kind(), format!("{variable}: {what}"))
}

/// Returns the variables named `REPLOG_…` that `command` does not know, in ascending order. Those that any command of
/// the `others` knows are no mistake: the commands share an environment.
pub(crate) fn ignored(
    program: &clap::Command,
    command: &str,
    others: &[&clap::Command],
) -> Vec<Ignored> {
    let mut given: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    given.sort();
    let named = given
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?, value)));
    named
        .filter(|(name, value)| name.starts_with("REPLOG_") && !value.is_empty())
        .filter(|(name, value)| !is_of_a_service(name, value))
        .filter_map(|(name, _)| is_ignored(program, command, others, name))
        .collect()
}

fn is_ignored(
    program: &clap::Command,
    command: &str,
    others: &[&clap::Command],
    name: &str,
) -> Option<Ignored> {
    let is_others =
        CONTAINER_VARIABLES.contains(&name) || others.iter().any(|other| has_variable(other, name));
    let commands: Vec<String> = program
        .get_subcommands()
        .filter(|command| has_variable(command, name))
        .map(|command| command.get_name().to_owned())
        .collect();
    let is_own = commands.iter().any(|own| own == command);
    (!is_others && !is_own).then(|| Ignored {
        name: name.to_owned(),
        commands,
    })
}

fn has_variable(command: &clap::Command, name: &str) -> bool {
    let mut args = command.get_arguments();
    args.any(|arg| arg.get_env().is_some_and(|env| env == name))
        || command
            .get_subcommands()
            .any(|command| has_variable(command, name))
}

/// Recognises the variables that Kubernetes sets for a Service whose name begins with `replog`: `X_SERVICE_HOST`,
/// `X_SERVICE_PORT`, and `X_PORT` and `X_PORT_…` with an address in a form of their own.
fn is_of_a_service(name: &str, value: &OsStr) -> bool {
    let schemes = ["tcp://", "udp://", "sctp://"];
    let is_address = value
        .to_str()
        .is_some_and(|text| schemes.iter().any(|scheme| text.starts_with(scheme)));
    let names = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"];
    names.iter().any(|part| name.contains(part)) || (name.ends_with("_PORT") && is_address)
}

/// Returns the variable of the argument that is shown so, of any command, if it is set.
fn variable_of(program: &clap::Command, argument: &str) -> Option<OsString> {
    let found = program
        .get_arguments()
        .filter(|arg| arg.to_string() == argument)
        .filter_map(Arg::get_env)
        .find(|variable| std::env::var_os(variable).is_some());
    found.map(OsStr::to_owned).or_else(|| {
        let mut commands = program.get_subcommands();
        commands.find_map(|command| variable_of(command, argument))
    })
}

/// Returns the program with `change` applied to each argument of it and of its commands.
fn with_args(program: clap::Command, change: &impl Fn(Arg) -> Arg) -> clap::Command {
    program
        .mut_args(change)
        .mut_subcommands(|command| with_args(command, change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_of_a_service_is_recognised_by_its_form_and_name() {
        let table = [
            ("REPLOG_PORT", "tcp://10.96.0.1:5000", true),
            ("REPLOG_PORT", "5000", false),
            ("REPLOG_SECONDARY_PORT", "udp://10.96.0.1:5000", true),
            ("REPLOG_PORT_5000_TCP_ADDR", "10.96.0.1", true),
            ("REPLOG_SERVICE_HOST", "10.96.0.1", true),
            ("REPLOG_SERVICE_PORT_HTTP", "5000", true),
            ("REPLOG_LISTEN", "tcp://0.0.0.0:5000", false),
            ("REPLOG_DATA_DIR", "tcp://x", false),
        ];
        for (name, value, expected) in table {
            assert_eq!(is_of_a_service(name, OsStr::new(value)), expected, "{name}");
        }
    }
}
