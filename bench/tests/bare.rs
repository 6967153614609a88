//! The bare programs give each message its offset, once it is stored as they promise.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

/// A bare program, ended when dropped.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    fn start(program: &str, args: &[&str]) -> Running {
        let mut child = Command::new(program)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was built with this test");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        let read = BufReader::new(stdout).read_line(&mut line);
        let address = read
            .ok()
            .and_then(|_| line.trim().split_once(" http://"))
            .map(|(_, address)| address.to_owned())
            .expect("it says where it listens");
        Running { child, address }
    }

    /// Appends over a connection of its own, and returns the whole answer.
    fn append(&self, body: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        let length = body.len();
        write!(
            stream,
            "POST /messages HTTP/1.1\r\nHost: bare\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn gives_offsets(&self) -> io::Result<()> {
        for offset in 0..3 {
            let answer = self.append(r#"{"data":"ab","meta":{"concern":2}}"#)?;
            assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
            assert!(
                answer.contains(&format!("\"offset\":{offset},")),
                "{answer}"
            );
        }
        let answer = self.append("no JSON")?;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three messages as they are in a log: each preceded by its length.
const LOG: &[u8] = b"\x04\0\0\0\"ab\"\x04\0\0\0\"ab\"\x04\0\0\0\"ab\"";

#[test]
fn the_ceiling_of_http_counts_messages() {
    Running::start(env!("CARGO_BIN_EXE_bare-http"), &[])
        .gives_offsets()
        .unwrap();
}

#[test]
fn one_node_has_what_it_answered_in_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    Running::start(env!("CARGO_BIN_EXE_bare-one"), &[path])
        .gives_offsets()
        .unwrap();
    assert_eq!(std::fs::read(directory.path().join("log")).unwrap(), LOG);
}

#[test]
fn three_nodes_answer_when_the_leader_and_a_follower_have_it() {
    let program = env!("CARGO_BIN_EXE_bare-three");
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let [first, second] =
        ["first", "second"].map(|name| Running::start(program, &["follower", &path(name)]));
    let leader = ["leader", &path("leader"), &first.address, &second.address];
    Running::start(program, &leader).gives_offsets().unwrap();
    let log = |name: &str| std::fs::read(directory.path().join(name).join("log")).unwrap();
    assert_eq!(log("leader"), LOG);
    assert!(log("first") == LOG || log("second") == LOG);
}
