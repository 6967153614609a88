//! `replog fault`: the faults of one node.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use replog_core::{NodeName, client::Client, transport::FaultSettings};
use serde_json::Value;

use super::{Context, Failure, Form, holders::duration, tell};

/// Arguments of `fault`.
#[derive(Debug, Args)]
pub(super) struct FaultArgs {
    #[command(subcommand)]
    command: Option<FaultCommand>,
    /// The name of the node whose faults are meant: the node at --url knows its address.
    #[arg(long, global = true)]
    node: Option<NodeName>,
}

/// Action on the faults; none: show them.
#[derive(Debug, Subcommand)]
enum FaultCommand {
    /// Shows the faults that the node has.
    Show,
    /// Gives the node exactly these faults.
    Set(SetArgs),
    /// Removes all faults from the node.
    Clear,
}

/// The faults.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct SetArgs {
    /// Replication requests and heartbeats fail, as behind a cut cable.
    #[arg(long)]
    isolate: bool,
    /// Replication requests fail, heartbeats go on.
    #[arg(long)]
    block_replication: bool,
    /// Probability, 0 to 1, of an error before anything is stored.
    #[arg(long, value_name = "PROBABILITY")]
    error_before_append: Option<f64>,
    /// Probability, 0 to 1, of an error after the records were stored.
    #[arg(long, value_name = "PROBABILITY")]
    error_after_append: Option<f64>,
    /// The shortest and the longest delay of a replication request, such as `10ms..50ms`.
    #[arg(long, value_name = "MIN..MAX", value_parser = delays)]
    delay: Option<Delays>,
    /// Makes the sequence of faults repeatable.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Delays([u64; 2]);

fn delays(text: &str) -> Result<Delays, String> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let ms = |text: &str| -> Result<u64, String> {
        let time = duration(text).map_err(|_| {
            format!(
                "a delay with its unit, as in 100ms, or the shortest and the longest, as in 10ms..50ms, not {text:?}"
            )
        })?;
        u64::try_from(time.as_millis()).map_err(|_| "too long".to_owned())
    };
    Ok(Delays([ms(min)?, ms(max)?]))
}

/// Carries out the command, and shows the resulting faults.
pub(super) async fn run(args: &FaultArgs, context: &Context) -> Result<ExitCode, Failure> {
    let client = &match &args.node {
        Some(name) => at_node(name, context).await?,
        None => context.client.clone(),
    };
    let faults = match &args.command {
        None | Some(FaultCommand::Show) => client.faults().await,
        Some(FaultCommand::Clear) => client.clear_faults().await,
        Some(FaultCommand::Set(args)) => {
            let faults = FaultSettings {
                error_before_append: args.error_before_append.unwrap_or_default(),
                error_after_append: args.error_after_append.unwrap_or_default(),
                delay_ms: args.delay.map(|Delays(delays)| delays),
                block_replication: args.block_replication,
                isolate: args.isolate,
                seed: args.seed,
            };
            client.set_faults(&faults).await
        }
    };
    let faults = faults.map_err(|error| Failure::of(client.url(), &error))?;
    match context.form {
        Form::Json => context.print_json(&faults)?,
        Form::Text if context.is_for_terminal() => {
            let node = args.node.as_ref().map(ToString::to_string);
            let node = node.unwrap_or_else(|| client.url().to_owned());
            let lines = text(&faults);
            let lines: String = lines
                .lines()
                .map(|line| format!("{node}: {line}\n"))
                .collect();
            tell(&lines)?;
        }
        Form::Text => tell(&text(&faults))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns a client of the node of this name.
async fn at_node(name: &NodeName, context: &Context) -> Result<Client, Failure> {
    let health = context.client.health().await;
    let health = health.map_err(|error| Failure::of(context.url(), &error))?;
    let is_it = |node: &Value| node["name"] == name.as_str();
    if is_it(&health) {
        return Ok(context.client.clone());
    }
    let mut others = health["secondaries"].as_array().into_iter().flatten();
    let master = Some(&health["master"]).filter(|master| is_it(master));
    let found = others.find(|node| is_it(node)).or(master);
    let Some(found) = found else {
        let why = format!("{} does not know a node {name}", context.url());
        return Err(Failure::usage(why));
    };
    let Some(url) = found["url"].as_str() else {
        let why = format!(
            "{} does not know where clients reach {name}: give its --url",
            context.url()
        );
        return Err(Failure::new(why));
    };
    let client = Client::new(url).map_err(|error| Failure::of(url, &error))?;
    // Without a public URL, a node's own URL is a loopback address: on this machine another node may be there.
    let there = client.health().await;
    let there = there.map_err(|error| Failure::of(url, &error))?;
    // A node that never joined has none yet.
    let clusters = [&there["cluster_id"], &health["cluster_id"]];
    let is_of_this_cluster = clusters[0] == clusters[1] || clusters.contains(&&Value::Null);
    if !is_it(&there) || !is_of_this_cluster {
        let which = match is_of_this_cluster {
            true => there["name"]
                .as_str()
                .unwrap_or("another program")
                .to_owned(),
            false => "a node of another cluster".to_owned(),
        };
        return Err(Failure::new(format!(
            "clients reach {name} at {url}, as it says, but from here that is {which}: give the --url of {name}"
        )));
    }
    Ok(client)
}

/// Returns one line per fault.
fn text(faults: &FaultSettings) -> String {
    let mut lines = Vec::new();
    if faults.isolate {
        lines.push("isolate".to_owned());
    }
    if faults.block_replication {
        lines.push("block-replication".to_owned());
    }
    if faults.error_before_append > 0.0 {
        lines.push(format!(
            "error-before-append {}",
            faults.error_before_append
        ));
    }
    if faults.error_after_append > 0.0 {
        lines.push(format!("error-after-append {}", faults.error_after_append));
    }
    if let Some([min, max]) = faults.delay_ms {
        lines.push(format!("delay {min}ms..{max}ms"));
    }
    match lines.is_empty() {
        true => "none\n".to_owned(),
        false => lines.join("\n") + "\n",
    }
}
