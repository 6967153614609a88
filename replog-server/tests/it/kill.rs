//! Kill -9 of any node, under load: what was acknowledged is there, once, at its offset.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    http::{Connection, JSON, message},
    nodes::{Cluster, eventually},
};

const KILLS: usize = 20;
const CLIENTS: usize = 4;

/// Appends texts until told to stop; notes the offset of each one that was acknowledged.
fn load(
    client: usize,
    address: std::net::SocketAddr,
    stop: &AtomicBool,
    acknowledged: &Mutex<BTreeMap<u64, String>>,
) {
    let mut connection = None;
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // Never sent again: whatever became of it, it is in the log at most once.
        let text = format!("{client}-{number}");
        let body = message(&text, "\"majority\"");
        let open = connection.take().or_else(|| Connection::open(address).ok());
        let Some(mut open) = open else {
            // Nobody listens: not a wait for anything, only no reason to spin.
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        let Ok(answer) = open.request("POST", "/messages", &[JSON], Some(body.as_bytes())) else {
            continue;
        };
        if answer.status == 201 {
            let offset = answer.json()["offset"].as_u64().expect("an offset");
            let before = acknowledged.lock().expect("no panic").insert(offset, text);
            assert_eq!(before, None, "offset {offset} was given out twice");
        } else {
            assert!([503, 507].contains(&answer.status), "{answer:?}");
        }
        connection = Some(open);
    }
}

#[test]
fn what_was_acknowledged_survives_twenty_kills_of_any_node() {
    let mut cluster = Cluster::start(2, &[]);
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(BTreeMap::new()));
    let count = || acknowledged.lock().expect("no panic").len();
    let address = cluster.master.address;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (stop, acknowledged) = (&stop, &acknowledged);
            scope.spawn(move || load(client, address, stop, acknowledged));
        }
        // Stops the load when an assertion below fails, too: the scope waits for it.
        let _stop = StopOnDrop(&stop);
        for kill in 0..KILLS {
            let before = count();
            eventually("appends are acknowledged", || {
                (count() > before + 20).then_some(())
            });
            let node = match kill % 3 {
                0 => &mut cluster.master,
                number => &mut cluster.secondaries[number - 1],
            };
            node.kill();
            node.start();
            cluster.wait_read_write();
            cluster.wait_alive(3);
        }
    });

    let end = cluster.wait_equal();
    let acknowledged = acknowledged.into_inner().expect("no panic");
    assert!(acknowledged.len() > KILLS * 20);
    let on_master = cluster.master.messages();
    assert_eq!(on_master.len() as u64, end);
    for (offset, text) in &acknowledged {
        let held: Vec<_> = on_master
            .iter()
            .filter(|message| message["data"] == *text)
            .collect();
        assert_eq!(
            held.len(),
            1,
            "{text}, acknowledged at {offset}, is there {}x",
            held.len()
        );
        assert_eq!(held[0]["offset"], *offset, "{text}");
    }
    for node in &cluster.secondaries {
        assert_eq!(node.messages(), on_master, "{}", node.name);
    }
}

/// Ends a load when it goes out of scope, by a failed assertion too.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
