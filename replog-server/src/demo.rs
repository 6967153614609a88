//! `replog-server demo`: the log's behaviour, shown in the terminal, one Enter per step.
//!
//! Owns a cluster of three in memory, with its nodes in this process and a network whose cables can be cut, and the
//! story that it tells with it. Each step says what is about to happen, does it, and checks that it happened.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use replog_core::{
    AppendOptions, Concern, IdempotencyKey, Master, MasterConfig, MessageRange, Mode, NodeName,
    Offset, Peer, ReadLevel, Reader, Secondary, SecondaryConfig, Timing,
    error::{AppendError, Report},
    storage::MemoryStorage,
    transport::LocalNetwork,
    views::{MasterHealth, Receipt},
};

use crate::process::say;

/// Time after which a step has failed.
const STEP_TIME_MAX: Duration = Duration::from_secs(30);
/// Interval at which a step checks whether it has happened.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum number of bytes of the log that are shown at once.
const SHOWN_BYTES: usize = 64 << 10;
const SECONDARIES: [&str; 2] = ["secondary-1", "secondary-2"];

/// Tells the whole story.
///
/// # Errors
///
/// The step that did not happen as expected.
pub(crate) fn run() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime did not start: {error}"))?;
    runtime
        .block_on(async { Demo::start().await?.tell().await })
        .map_err(|error| format!("{error:?}"))
}

struct Demo {
    network: LocalNetwork,
    master: Master,
    secondaries: Vec<Secondary>,
    /// Steps wait for a person to press Enter.
    waits: bool,
}

impl Demo {
    async fn start() -> Result<Demo, Report> {
        let network = LocalNetwork::new();
        let (mut secondaries, mut peers) = (Vec::new(), Vec::new());
        for name in SECONDARIES {
            let config = SecondaryConfig::new(name.parse()?);
            let secondary = Secondary::start(config, Arc::new(MemoryStorage::new())).await?;
            peers.push(Peer::named(secondary.name().clone()));
            network.register(secondary.clone());
            secondaries.push(secondary);
        }
        let mut config = MasterConfig::new("master".parse()?, peers);
        // Faster than the defaults: somebody is watching.
        config.timing = Timing {
            heartbeat_interval: Duration::from_millis(200),
            request_timeout: Duration::from_millis(400),
            suspect_after: Duration::from_millis(600),
            unhealthy_after: Duration::from_millis(1_500),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(1),
        };
        let on_network = Arc::new(network.clone());
        let master = Master::start(config, Arc::new(MemoryStorage::new()), on_network).await?;
        Ok(Demo {
            network,
            master,
            secondaries,
            waits: io::stdin().is_terminal(),
        })
    }

    async fn tell(&self) -> Result<(), Report> {
        say("A master and two secondaries start in this process, with their logs in memory.");
        self.until("the master takes appends", |health| {
            health.mode == Mode::ReadWrite
        })
        .await?;
        say("The master is read-write: two of three nodes are a majority, and three are there.");

        self.step("1. Write concern: the client says how many nodes must hold its message before it is answered.")
            .await?;
        self.append("Msg1", 1).await?;
        self.append("Msg2", 2).await?;

        self.step(
            "2. The cable of secondary-2 is cut. Msg3 wants all three nodes, so it must wait.",
        )
        .await?;
        self.cut("secondary-2")?;
        let waiting = {
            let master = self.master.clone();
            let options = AppendOptions::concern(Concern::Count(3));
            tokio::spawn(async move { master.append(r#""Msg3""#, options).await })
        };
        self.until("Msg3 waits", |health| health.waiting_appends == 1)
            .await?;
        for append in self.master.waiting_appends(10).await?.appends {
            for node in append.waiting_for.iter() {
                say(&format!(
                    "   Msg3 is in the log at offset {} and waits for {}: {}",
                    append.offset, node.name, node.reason
                ));
            }
        }

        self.step(
            "3. A blocked client blocks nobody else: Msg4 with concern 1 is answered at once.",
        )
        .await?;
        self.append("Msg4", 1).await?;
        ensure(!waiting.is_finished(), "Msg3 still waits")?;
        self.show().await?;

        self.step("4. The cable is repaired. secondary-2 receives what it missed, in order, and Msg3 is answered.")
            .await?;
        self.heal("secondary-2")?;
        let receipt = in_time("Msg3 is answered", waiting).await???;
        print_receipt("Msg3", &receipt);
        for secondary in &self.secondaries {
            let reader = secondary.reader();
            let shown = reader.wait_for(Offset(3), ReadLevel::Local);
            in_time(&format!("{} shows Msg4", secondary.name()), shown).await??;
        }
        let shown = self.show().await?;
        let is_same = shown
            .iter()
            .all(|log| *log == ["Msg1", "Msg2", "Msg3", "Msg4"]);
        ensure(
            is_same,
            "all nodes show the same four messages in one order",
        )?;

        self.step("5. Heartbeats: a node that does not answer becomes Suspected, then Unhealthy. Both cables are cut.")
            .await?;
        for name in SECONDARIES {
            self.cut(name)?;
        }
        let health = self
            .until("without a majority the master is read-only", |health| {
                health.mode == Mode::ReadOnly
            })
            .await?;
        for secondary in &health.secondaries {
            say(&format!("   {} is {}", secondary.name, secondary.status));
        }
        match self
            .master
            .append(r#""Msg5""#, AppendOptions::concern(Concern::Count(1)))
            .await
        {
            Err(error @ AppendError::ReadOnly { .. }) => {
                say(&format!("   Msg5 is refused: {error}"))
            }
            other => return Err(format!("Msg5 should have been refused: {other:?}").into()),
        }
        say("   Reads go on:");
        self.show().await?;

        self.step("6. The cables are repaired, and the master takes appends by itself.")
            .await?;
        for name in SECONDARIES {
            self.heal(name)?;
        }
        self.until("the master takes appends", |health| {
            health.mode == Mode::ReadWrite
        })
        .await?;
        self.append("Msg5", 2).await?;

        self.step("7. Exactly once: a client that got no answer sends the same message again, with the same key.")
            .await?;
        let key = IdempotencyKey::new("order-17")?;
        let mut offsets = Vec::new();
        for _ in 0..2 {
            let options = AppendOptions::concern(Concern::Majority).idempotency_key(key.clone());
            let append = self.master.append(r#""paid""#, options);
            let receipt = in_time("the keyed message is answered", append).await??;
            print_receipt("paid, key order-17", &receipt);
            offsets.push(receipt.offset);
        }
        ensure(
            offsets[0] == offsets[1],
            "both answers name the same message",
        )?;
        self.show().await?;
        say(
            "\nThat was all. `replog-server cluster` starts the same three nodes for real, with a page at http://localhost:5000/.",
        );
        self.master.stop().await;
        Ok(())
    }

    /// Announces a step, and lets a person read before it happens.
    async fn step(&self, text: &str) -> Result<(), Report> {
        say(&format!("\n{text}"));
        if self.waits {
            say("   [Enter]");
            let pressed =
                tokio::task::spawn_blocking(|| io::stdin().lock().read_line(&mut String::new()));
            pressed.await??;
        }
        Ok(())
    }

    async fn append(&self, text: &str, concern: u64) -> Result<(), Report> {
        let options = AppendOptions::concern(Concern::Count(concern));
        let append = self.master.append(format!("{text:?}"), options);
        let receipt = in_time(&format!("{text} is answered"), append).await??;
        print_receipt(&format!("{text}, concern {concern}"), &receipt);
        ensure(receipt.concern_met, "the concern is met")
    }

    fn cut(&self, name: &str) -> Result<(), Report> {
        self.network.cut(&NodeName::new(name)?);
        say(&format!("   the cable of {name} is cut"));
        Ok(())
    }

    fn heal(&self, name: &str) -> Result<(), Report> {
        self.network.heal(&NodeName::new(name)?);
        say(&format!("   the cable of {name} is repaired"));
        Ok(())
    }

    /// Waits until the master's health is as expected.
    async fn until(
        &self,
        what: &str,
        is_so: impl Fn(&MasterHealth) -> bool,
    ) -> Result<MasterHealth, Report> {
        let look = async {
            loop {
                let health = self.master.health().await?;
                if is_so(&health) {
                    return Ok::<_, Report>(health);
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        in_time(what, look).await?
    }

    /// Prints the visible messages of each node, and returns them.
    async fn show(&self) -> Result<Vec<Vec<String>>, Report> {
        let mut shown = vec![show("master", &self.master.reader()).await?];
        for secondary in &self.secondaries {
            shown.push(show(secondary.name().as_str(), &secondary.reader()).await?);
        }
        Ok(shown)
    }
}

/// Waits for the expected result of a step, or reports that it did not happen in time.
async fn in_time<T>(what: &str, expected: impl Future<Output = T>) -> Result<T, Report> {
    match tokio::time::timeout(STEP_TIME_MAX, expected).await {
        Ok(happened) => Ok(happened),
        Err(_) => Err(format!("not within {} s: {what}", STEP_TIME_MAX.as_secs()).into()),
    }
}

fn print_receipt(what: &str, receipt: &Receipt) {
    let holders: Vec<&str> = receipt.acks.iter().map(NodeName::as_str).collect();
    let (offset, holders) = (receipt.offset, holders.join(", "));
    say(&format!("   {what}: offset {offset}, held by {holders}"));
}

async fn show(name: &str, reader: &Reader) -> Result<Vec<String>, Report> {
    let end = reader.end(ReadLevel::Local).unwrap_or(Offset(0));
    let batches = reader.read(Offset(0), end, SHOWN_BYTES).await?;
    let payloads = batches.iter().flat_map(MessageRange::messages);
    let texts = payloads.map(|message| {
        let text = String::from_utf8_lossy(&message.payload);
        text.trim_matches('"').to_owned()
    });
    let texts: Vec<String> = texts.collect();
    say(&format!("   {name:<11} shows {}", texts.join(", ")));
    Ok(texts)
}

fn ensure(is_so: bool, what: &str) -> Result<(), Report> {
    match is_so {
        true => Ok(()),
        false => Err(format!("expected, but not the case: {what}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_that_does_not_happen_in_time_is_named() {
        let never = std::future::pending::<()>();
        let error = in_time("secondary-1 shows Msg4", never).await.unwrap_err();
        assert!(
            format!("{error:?}").contains("not within 30 s: secondary-1 shows Msg4"),
            "{error:?}"
        );
    }

    #[test]
    fn the_whole_story_is_told_and_happens_as_told() {
        run().expect("each step happens");
    }
}
