//! Whether a request may come from a page that another site has put into somebody's browser.
//!
//! Owns the check of `Sec-Fetch-Site` and `Origin`, for requests that change a node and that a browser
//! sends across sites without asking first: those without a body and without headers of their own. Those
//! with a body need `Content-Type: application/json`, before which a browser asks, and is refused.
//! Tells pages apart, not people: programs send neither header, and are let through.

use actix_web::http::header::{self, HeaderMap};

use crate::problem::{Kind, Problem};

/// Set by every browser of today, and by no page: its name is reserved.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Refuses what a page of another site sent.
///
/// # Errors
///
/// 403 for another site's page.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    if is_own(headers) {
        return Ok(());
    }
    let text = "pages of other sites may not change this node: send it with another program than a \
                browser, or from a page of this node";
    Err(Problem::new(Kind::CrossOrigin, text))
}

fn is_own(headers: &HeaderMap) -> bool {
    // Behind a proxy, `Host` may not be what the browser knows: what it says itself goes first.
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        // "none": a person did it, and no page.
        return ["same-origin", "none"].iter().any(|own| site == own);
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let authority = origin
        .to_str()
        .ok()
        .and_then(|origin| Some(origin.split_once("://")?.1));
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    matches!((authority, host), (Some(own), Some(host)) if own.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    #[test]
    fn only_pages_of_other_sites_are_refused() {
        let table: [(&[(&str, &str)], bool); 13] = [
            (&[], true),
            (&[("host", "node:5000")], true),
            (
                &[("host", "node:5000"), ("origin", "http://node:5000")],
                true,
            ),
            (
                &[("host", "Node:5000"), ("origin", "http://node:5000")],
                true,
            ),
            (
                &[("host", "node:5000"), ("origin", "http://node:5001")],
                false,
            ),
            (&[("host", "node:5000"), ("origin", "http://node")], false),
            (&[("host", "node:5000"), ("origin", "null")], false),
            (&[("origin", "http://node:5000")], false),
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("origin", "https://front"),
                ],
                true,
            ),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("host", "node:5000"),
                    ("origin", "http://node:5000"),
                ],
                false,
            ),
        ];
        for (given, may) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                headers.insert(
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                );
            }
            assert_eq!(check(&headers).is_ok(), may, "{given:?}");
        }
    }
}
