//! `replog-server probe`: asks a node whether it is ready, for health checks of containers.
//!
//! Owns one request over a plain socket, so that a probe costs no runtime, and no thread but one that resolves
//! the node's name.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use crate::paths;

/// Time limit of a probe: less than the time-outs that container engines set.
const PROBE_TIME_MAX: Duration = Duration::from_secs(3);
/// Bytes of an answer that a probe reads: they include the status and one sentence.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// Asks the node at `url` for `/readyz`.
///
/// # Errors
///
/// The reason why it is not ready, or that it does not answer.
pub(crate) fn run(url: &str) -> Result<(), String> {
    run_at(url, paths::READY)
}

/// Asks the node at `url` for `/readyz/write`.
///
/// # Errors
///
/// The reason why it takes no appends, or that it does not answer.
pub(crate) fn run_write(url: &str) -> Result<(), String> {
    run_at(url, paths::READY_WRITE)
}

fn run_at(url: &str, path: &str) -> Result<(), String> {
    let rest = url
        .strip_prefix("http://")
        .ok_or("a URL must begin with http://")?;
    let (authority, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = if has_port(authority) {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let path = format!("{}{}", base.trim_end_matches('/'), path);
    let answer = ask(&host, authority, &path).map_err(|error| format!("{url}: {error}"))?;
    match answer.split_whitespace().nth(1) {
        Some("200") => Ok(()),
        Some(status) => Err(format!("{url} is not ready: {status} {}", body(&answer))),
        None => Err(format!("{url}: not an HTTP answer")),
    }
}

fn has_port(authority: &str) -> bool {
    // The colons of an IPv6 address lie within brackets.
    authority
        .rsplit(']')
        .next()
        .is_some_and(|end| end.contains(':'))
}

fn ask(host: &str, authority: &str, path: &str) -> io::Result<String> {
    let started = Instant::now();
    let left = || {
        let left = PROBE_TIME_MAX.saturating_sub(started.elapsed());
        if left.is_zero() {
            Err(io::Error::from(io::ErrorKind::TimedOut))
        } else {
            Ok(left)
        }
    };
    let mut error = io::Error::other("the name has no address");
    for address in resolved(host, left()?)? {
        let mut stream = match TcpStream::connect_timeout(&address, left()?) {
            Ok(stream) => stream,
            Err(refused) => {
                error = refused;
                continue;
            }
        };
        stream.set_write_timeout(Some(left()?))?;
        // In one write: `write!` on a socket would send each part on its own.
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let answer = read(&mut stream, left)?;
        return Ok(String::from_utf8_lossy(&answer).into_owned());
    }
    Err(error)
}

/// Reads an answer to its end. `left` returns the time left before each part of it.
fn read(stream: &mut TcpStream, left: impl Fn() -> io::Result<Duration>) -> io::Result<Vec<u8>> {
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let mut length = 0;
    while length < answer.len() {
        // A socket's time-out applies to each read.
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut answer[length..]) {
            Ok(0) => break,
            Ok(bytes) => length += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    answer.truncate(length);
    Ok(answer)
}

/// Returns the addresses of a name. Waits no longer than `time` for a name server that hangs: the thread that asks it
/// ends with the program.
fn resolved(host: &str, time: Duration) -> io::Result<Vec<SocketAddr>> {
    let asked = host.to_owned();
    within(time, move || Ok(asked.to_socket_addrs()?.collect()))
}

fn within<T: Send + 'static>(
    time: Duration,
    ask: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (answer, answered) = channel();
    thread::Builder::new().spawn(move || {
        // The receiver may be gone.
        let _ = answer.send(ask());
    })?;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the name server does not answer");
    answered.recv_timeout(time).map_err(late)?
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answered_with(answer: &'static str) -> Result<(), String> {
        answers("/readyz", run, answer)
    }

    fn answers(
        path: &str,
        run: fn(&str) -> Result<(), String>,
        answer: &'static str,
    ) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a probe");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a whole request");
                request.extend(byte);
            }
            stream.write_all(answer.as_bytes()).expect("an answer");
            String::from_utf8_lossy(&request).into_owned()
        });
        let result = run(&url);
        let request = server.join().expect("the server");
        let head = format!("GET {path} HTTP/1.1\r\n");
        assert!(request.starts_with(&head), "{request}");
        result
    }

    #[test]
    fn only_a_200_is_ready() {
        assert_eq!(answered_with("HTTP/1.1 200 OK\r\n\r\n"), Ok(()));
        let reason = answered_with("HTTP/1.1 503 No\r\n\r\nnever joined").expect_err("not ready");
        assert!(reason.contains("503 never joined"), "{reason}");
        assert!(answered_with("SSH-2.0\r\n").is_err());
        let writes = answers("/readyz/write", run_write, "HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(writes, Ok(()));
    }

    #[test]
    fn an_answer_that_arrives_byte_by_byte_is_read_until_the_time_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut stream = TcpStream::connect(address).expect("it listens");
        let (other, _) = listener.accept().expect("a probe");
        let parts = std::cell::Cell::new(0);
        let late = read(&mut stream, || {
            parts.set(parts.get() + 1);
            if parts.get() > 5 {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            (&other).write_all(b"x").map(|()| PROBE_TIME_MAX)
        });
        let late = late.expect_err("it never ends");
        assert_eq!((late.kind(), parts.get()), (io::ErrorKind::TimedOut, 6));
    }

    #[test]
    fn a_node_that_does_not_listen_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        drop(listener);
        assert!(run(&url).is_err());
    }

    #[test]
    fn a_hanging_name_server_is_not_waited_for() {
        let (hangs, until) = channel::<()>();
        let asked = within(Duration::from_millis(10), move || {
            let _ = until.recv();
            Ok(())
        });
        assert_eq!(asked.expect_err("too late").kind(), io::ErrorKind::TimedOut);
        drop(hangs);
    }
}
