//! A headless browser, controlled by WebDriver (W3C WebDriver 2).
//!
//! Uses the Chromium and driver that the system has; nothing is downloaded.

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::http::Connection;

const DRIVERS: [&str; 2] = ["chromedriver", "chromium.chromedriver"];
const BROWSERS: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// A browser with one tab. It ends when this is dropped.
pub(super) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
}

impl Browser {
    /// Starts a browser that resolves `name` to this machine. Returns `None`, with the reason on stderr, if there is no
    /// browser here.
    pub(super) fn start(name: &str) -> Option<Browser> {
        let (Some(driver), Some(browser)) = (find(&DRIVERS), find(&BROWSERS)) else {
            eprintln!("SKIPPED: there is no chromium with its chromedriver");
            return None;
        };
        let mut driver = Command::new(driver)
            .args(["--port=0", "--log-level=SEVERE"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the driver starts");
        let mut lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let port: u16 = port.expect("the driver says where it listens");
        // The driver keeps writing, which must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        let mut started = Browser {
            driver,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
        };
        let mut args = vec![
            "--headless=new".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            format!("--host-resolver-rules=MAP {name} 127.0.0.1"),
        ];
        if rustix::process::geteuid().is_root() {
            args.push("--no-sandbox".to_owned());
        }
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"binary": browser, "args": args},
        }}});
        let session = started.call("POST", "/session", Some(&capabilities));
        let id = session["sessionId"].as_str().expect("a session");
        started.session = format!("/session/{id}");
        Some(started)
    }

    /// Loads a page, and waits until it has loaded.
    pub(super) fn open(&self, url: &str) {
        self.ask("POST", "/url", &json!({"url": url}));
    }

    /// Runs a function body in the page.
    pub(super) fn run(&self, script: &str, args: &Value) -> Value {
        let body = json!({"script": script, "args": args});
        self.ask("POST", "/execute/sync", &body)
    }

    /// Runs an asynchronous function body in the page, and waits for its result.
    pub(super) fn run_async(&self, script: &str, args: &Value) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1]; \
             (async (...args) => {{ {script} }})(...arguments).then(done, error => done(String(error)))"
        );
        let body = json!({"script": script, "args": args});
        self.ask("POST", "/execute/async", &body)
    }

    /// Returns the text that the page shows for this element; nothing while the page is not loaded.
    pub(super) fn text(&self, id: &str) -> String {
        let script = "return document.getElementById(arguments[0])?.innerText ?? ''";
        let text = self.run(script, &json!([id]));
        text.as_str().expect("a text").to_owned()
    }

    /// Types into this element as a person would.
    pub(super) fn type_into(&self, id: &str, text: &str) {
        let by = json!({"using": "css selector", "value": format!("#{id}")});
        let element = self.ask("POST", "/element", &by);
        let mut references = element.as_object().expect("a reference").values();
        let reference = references.next().and_then(Value::as_str);
        let path = format!("/element/{}/value", reference.expect("one"));
        self.ask("POST", &path, &json!({"text": text}));
    }

    /// Sets the size of the page, in pixels.
    pub(super) fn resize(&self, width: u32, height: u32) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        let command = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": size});
        self.ask("POST", "/goog/cdp/execute", &command);
    }

    /// Returns the console lines since the last call: level and text.
    pub(super) fn console(&self) -> Vec<(String, String)> {
        let lines = self.ask("POST", "/se/log", &json!({"type": "browser"}));
        let lines = lines.as_array().expect("lines").iter();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        lines
            .map(|line| (text(&line["level"]), text(&line["message"])))
            .collect()
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        self.call(method, &format!("{}{path}", self.session), Some(body))
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(Value::to_string).unwrap_or_default();
        // The driver accepts requests to this machine only, by its name.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let connection = Connection::open(self.address).expect("the driver listens");
        let mut connection = connection.patience(Some(crate::nodes::PATIENCE));
        connection.send(request.as_bytes()).expect("sent");
        let answer = connection.answer().expect("an answer");
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        answer.json()["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session, and its processes with it. After a failure there may be none.
        if !self.session.is_empty() {
            let request = format!(
                "DELETE {} HTTP/1.1\r\nhost: {}\r\n\r\n",
                self.session, self.address
            );
            if let Ok(mut connection) = Connection::open(self.address) {
                let _ = connection.send(request.as_bytes());
                let _ = connection.answer();
            }
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Returns the first of these programs that exists.
fn find(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    names.iter().find_map(|name| {
        let mut places = env::split_paths(&path).map(|directory| directory.join(name));
        places.find(|place| place.is_file())
    })
}
