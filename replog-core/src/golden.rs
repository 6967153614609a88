//! The golden bytes of every format, as the documentation lists them.
//!
//! Owns the reading of the table in `docs/src/formats.md`. The tests of each format compare what they encode with its
//! row: whoever changes a format changes the page, or a test fails.

/// The page with the table.
const PAGE: &str = include_str!("../../docs/src/formats.md");

/// The rows of the table.
const NAMES: [&str; 12] = [
    "frame",
    "segment header",
    "mark",
    "meta",
    "unproven",
    "keys",
    "preamble",
    "reply",
    "packet header",
    "hello",
    "append",
    "taken",
];

/// Asserts that these are the bytes of the row.
#[track_caller]
pub(crate) fn assert_golden(name: &str, bytes: &[u8]) {
    assert!(
        golden(name) == bytes,
        "the row of `{name}` in docs/src/formats.md should have\n`{}`",
        written(bytes)
    );
}

/// Returns the bytes of a row.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    let row = rows().find(|(found, _)| *found == name);
    let (_, bytes) = row.unwrap_or_else(|| panic!("there is no row of `{name}`"));
    parsed(bytes)
}

/// Returns the rows by name.
fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    let (_, examples) = PAGE
        .split_once("\n## Examples\n")
        .expect("the page has examples");
    examples.lines().filter_map(|line| {
        let cells = line.strip_prefix("| ")?.strip_suffix("` |")?;
        let (name, rest) = cells.split_once(" | ")?;
        let (_, bytes) = rest.rsplit_once("| `")?;
        Some((name, bytes))
    })
}

/// Parses bytes: two hexadecimal digits for each, or a run of ASCII between single quotation marks.
fn parsed(bytes: &str) -> Vec<u8> {
    let mut parsed = Vec::new();
    for (nth, part) in bytes.split('\'').enumerate() {
        if nth % 2 == 1 {
            parsed.extend_from_slice(part.as_bytes());
            continue;
        }
        for digits in part.split_whitespace() {
            assert_eq!(digits.len(), 2, "{digits}");
            parsed.push(u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
        }
    }
    parsed
}

/// Writes bytes as [`parsed`] reads them.
fn written(bytes: &[u8]) -> String {
    let is_text = |byte: &u8| (b' '..=b'~').contains(byte) && !b"'`|".contains(byte);
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let length = rest.iter().take_while(|byte| is_text(byte)).count();
        let taken;
        if length >= 3 {
            (taken, rest) = rest.split_at(length);
            parts.push(format!("'{}'", String::from_utf8_lossy(taken)));
        } else {
            parts.push(format!("{first:02x}"));
            rest = &rest[1..];
        }
    }
    parts.join(" ")
}

#[test]
fn the_page_has_each_format_once_and_no_other() {
    let names: Vec<&str> = rows().map(|(name, _)| name).collect();
    assert_eq!(names, NAMES);
}

#[test]
fn bytes_are_read_as_they_are_written() {
    let bytes = b"RLMK\x02\0\0\0ab'\xff{\"a\": 1}\n";
    assert_eq!(parsed(&written(bytes)), bytes);
}
