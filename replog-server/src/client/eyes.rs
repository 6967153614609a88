//! Text from others for a terminal: characters that would change what a person sees are escaped.
//!
//! A message, a key or a name may contain control characters, which move the cursor, change colours, or make the
//! terminal answer in its owner's name, and characters that reverse the direction of writing. They are shown as JSON
//! writes them, `\\u001b`, so that JSON stays JSON. Only for terminals: a pipe or a file gets the bytes.

use std::fmt::Write as _;

/// Returns the text, safe to look at.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match changes_what_is_seen(character) {
            true => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    write!(shown, "\\u{unit:04x}").expect("a string takes everything");
                }
            }
            false => shown.push(character),
        }
    }
    shown
}

fn changes_what_is_seen(character: char) -> bool {
    let is_bidirectional = matches!(character,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks_a_line = matches!(character, '\u{2028}' | '\u{2029}');
    let is_a_tag = matches!(character, '\u{feff}' | '\u{e0000}'..='\u{e007f}');
    character.is_control() || is_bidirectional || breaks_a_line || is_a_tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_characters_that_change_what_is_seen_are_escaped() {
        let table = [
            ("\u{9b}31m", "\\u009b31m"),
            ("a\u{202e}b", "a\\u202eb"),
            ("\u{7f}\u{1b}[2J", "\\u007f\\u001b[2J"),
            ("\u{e0041}", "\\udb40\\udc41"),
            (
                "h\u{e9}llo \u{5d0} \u{1f600}",
                "h\u{e9}llo \u{5d0} \u{1f600}",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(escaped(text), expected);
        }
        let json = "{\"a\":\"\u{9b}\u{2067}\"}";
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(value(&escaped(json)), value(json));
    }
}
