//! `GET /`: a page for people, made from the answers of the other routes; `GET /favicon.ico`, its icon.
//!
//! One file, with nothing fetched from elsewhere. Its content security policy allows its own style and script by their
//! digests, and nothing else.

use std::sync::LazyLock;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use sha2::{Digest as _, Sha256};

use crate::{problem::Problem, query::Query};

const PAGE: &str = include_str!("../page.html");
const ICON: &str = include_str!("../icon.svg");

/// The policy: what a browser may do with the page.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = digest(between("<style>", "</style>"));
    let script = digest(between("<script>", "</script>"));
    format!(
        "default-src 'none'; style-src '{style}'; script-src '{script}'; connect-src 'self'; \
         img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'"
    )
});

/// Sends the page.
pub(crate) async fn show(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Query::of(&request, &[])?;
    let fixed = HeaderValue::from_static;
    Ok(HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((CONTENT_SECURITY_POLICY, POLICY.as_str()))
        .insert_header((X_CONTENT_TYPE_OPTIONS, fixed("nosniff")))
        .insert_header((REFERRER_POLICY, fixed("no-referrer")))
        .insert_header((CACHE_CONTROL, fixed("no-cache")))
        .body(PAGE))
}

/// Sends the icon. Browsers ask for it even when they show another path of this node.
pub(crate) async fn icon() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("image/svg+xml")
        .insert_header((
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'"),
        ))
        .insert_header((X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .insert_header((
            CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=86400"),
        ))
        .body(ICON)
}

/// Returns the text of the page between the two.
fn between(begin: &str, end: &str) -> &'static str {
    let (_, from) = PAGE.split_once(begin).expect("the page has one");
    let (text, _) = from.split_once(end).expect("the page has its end");
    text
}

/// Returns a source expression for this text (Content Security Policy Level 3, section 2.3.1).
fn digest(text: &str) -> String {
    format!("sha256-{}", base64(&Sha256::digest(text)))
}

/// Encodes as in RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, nth| {
            bits << 8 | usize::from(*part.get(nth).unwrap_or(&0))
        });
        for nth in 0..4 {
            let letter = match nth <= part.len() {
                true => LETTERS[bits >> (18 - 6 * nth) & 63],
                false => b'=',
            };
            text.push(char::from(letter));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn base64_matches_the_standard() {
        let table = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
            ("\u{ff}?>~", "w78/Pn4="),
        ];
        for (bytes, text) in table {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn the_page_fetches_nothing_from_elsewhere_and_has_no_script_but_its_own() {
        for elsewhere in ["http:", "https:", "src=", "url(", "@import", "import("] {
            // The page's own check for URLs of the web.
            let known = PAGE.replace("/^https?:/", "");
            assert!(!known.contains(elsewhere), "{elsewhere}");
        }
        for once in ["<style>", "<script>", "</style>", "</script>"] {
            assert_eq!(PAGE.matches(once).count(), 1, "{once}");
        }
        // A policy by digests allows none of these.
        for inline in [
            " style=",
            " onclick=",
            " onload=",
            "javascript:",
            "innerHTML",
        ] {
            assert!(!PAGE.contains(inline), "{inline}");
        }
        assert!(POLICY.contains("script-src 'sha256-") && !POLICY.contains("unsafe"));
    }

    #[test]
    fn the_page_knows_every_published_event() {
        let document: Value = serde_json::from_str(include_str!("../openapi.json")).expect("JSON");
        let answer = &document["paths"]["/events"]["get"]["responses"]["200"];
        let events = &answer["content"]["text/event-stream"]["x-events"];
        let (_, listens) = PAGE.split_once("for (const kind of [").expect("a list");
        let (listens, _) = listens.split_once(']').expect("its end");
        for kind in events.as_object().expect("events").keys() {
            assert!(PAGE.contains(&format!("case \"{kind}\":")), "{kind}");
            assert!(listens.contains(&format!("\"{kind}\"")), "{kind}");
        }
    }
}
