//! Kill -9 of any node, under load: acknowledged messages are there, once, at their offsets.

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

/// Appends texts until told to stop; records the offset of each acknowledged one.
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
        // Never sent again: whatever its outcome, it is in the log at most once.
        let text = format!("{client}-{number}");
        let body = message(&text, "\"majority\"");
        let open = connection.take().or_else(|| Connection::open(address).ok());
        let Some(mut open) = open else {
            // The node is down: not a wait for a condition, only a pause so as not to spin.
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
fn acknowledged_messages_survive_twenty_kills_of_any_node() {
    let mut cluster = Cluster::start(2, &[]);
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(BTreeMap::new()));
    let count = || acknowledged.lock().expect("no panic").len();
    let address = cluster.master.address;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (stop, acknowledged) = (&stop, &acknowledged);
            scope.spawn(move || load(client, address, stop, acknowledged));
        }
        // Stops the load also when an assertion below fails, because the scope waits for it.
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

/// Ends a load when it goes out of scope, also after a failed assertion.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
