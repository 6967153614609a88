//! Text that `cluster` shows to a person at a terminal, besides the lines that programs rely on.

use std::{fmt::Display, path::Path};

/// An arbitrary port, for a hint.
const OTHER_PORT: u16 = 7_000;

/// Returns the line below `ready`: the page, the data, and the way to stop.
pub(crate) fn line(page: impl Display, directory: Option<&Path>) -> String {
    let data = match directory {
        Some(directory) => format!("data in {}", directory.display()),
        None => "no data on disk".to_owned(),
    };
    format!("open {page}/ for a live page; {data}; Ctrl-C stops it")
}

/// Returns the reason why a cluster did not start; if a port is taken, with a way out.
pub(crate) fn with_port(reason: String) -> String {
    match reason.starts_with("cannot listen") {
        true => format!("{reason}; choose other ports, as with --port {OTHER_PORT}"),
        false => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_screen_names_the_page_the_data_and_the_way_out() {
        let page = "http://127.0.0.1:5000";
        let with_disk = line(page, Some(Path::new("./replog-data")));
        assert_eq!(
            with_disk,
            "open http://127.0.0.1:5000/ for a live page; data in ./replog-data; Ctrl-C stops it"
        );
        assert!(line(page, None).contains("no data on disk"));
        let taken = with_port("cannot listen on 127.0.0.1:5000: Address already in use".to_owned());
        assert!(taken.ends_with("as with --port 7000"), "{taken}");
        assert_eq!(with_port("no disk".to_owned()), "no disk");
    }
}
