//! Whether a request may come from a page that another site has put into somebody's browser.
//!
//! Owns two checks of requests that change a node. That of `Sec-Fetch-Site` and `Origin` is for those that a
//! browser sends across sites without asking first: without a body and without headers of their own. Those
//! with a body need `Content-Type: application/json`, before which a browser asks, and is refused.
//!
//! That of the page's name is for all of them. Whoever has a name may let it lead to this machine once its
//! page is loaded; the browser then takes the node for the page's own site, and asks nothing. What comes from
//! this machine itself must therefore come from a page with a name that nobody else can give away. TLS is
//! proof enough: where the node is reached by it, what stands before the node has a certificate for the name.
//! Tells pages apart, not people: programs send none of these headers, and are let through.
//!
//! A third check is that of `Host`, for reads too (DNS rebinding): such a page may read a node that listens on
//! this machine alone, and says nothing of itself but the name by which it came. A node that listens to other machines
//! goes by names that it cannot know, of services and containers, and checks only where it was told its names.

use std::{fs, sync::LazyLock};

use actix_web::{
    HttpRequest,
    http::{
        Uri,
        header::{self, HeaderMap},
    },
};

use replog_core::address::NodeUrl;

use crate::{
    node::NodeState,
    problem::{Kind, Problem},
    protocol::address_of,
};

/// Set by browsers, where they reach the node by `https` or at `localhost`, and by no page: its name is
/// reserved.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Refuses what a page of another site sent. `public_url` is where the node's own page may be beside this
/// machine.
///
/// # Errors
///
/// 403 for another site's page.
pub(crate) fn check(request: &HttpRequest, public_url: Option<&NodeUrl>) -> Result<(), Problem> {
    if !is_own(request.headers()) {
        let text = "pages of other sites may not change this node: send it with another program than a \
                    browser, or from a page of this node";
        return Err(Problem::new(Kind::CrossOrigin, text));
    }
    check_name(request, public_url)
}

/// Refuses what a page sent whose name only leads to this machine.
///
/// # Errors
///
/// 403 for such a page.
pub(crate) fn check_name(
    request: &HttpRequest,
    public_url: Option<&NodeUrl>,
) -> Result<(), Problem> {
    let is_local = request
        .peer_addr()
        .is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    let origin = request.headers().get(header::ORIGIN);
    let page = origin.and_then(|origin| Uri::try_from(origin.as_bytes()).ok());
    let host = page
        .filter(|page| page.scheme_str() == Some("http"))
        .and_then(|page| page.host().map(str::to_ascii_lowercase));
    match host {
        Some(host) if is_local && !is_known(&host, public_url) => {
            let text = format!(
                "a page of {host} may not change a node on this machine: open the node's page as localhost or \
                 by its address, or start the master with a --public-url of that name"
            );
            Err(Problem::new(Kind::CrossOrigin, text))
        }
        _ => Ok(()),
    }
}

/// Refuses a request that came by a name that is not this node's: see above. `listens_here`: only this machine can
/// reach the node.
///
/// # Errors
///
/// 403 for such a name.
pub(crate) fn check_host(host: &str, listens_here: bool, state: &NodeState) -> Result<(), Problem> {
    let allowed = &state.allowed_hosts;
    if !listens_here && allowed.is_empty() {
        return Ok(());
    }
    // A dot at the end means the same name.
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_allowed = allowed.iter().any(|own| own.eq_ignore_ascii_case(&host));
    if is_allowed || is_known(&host, state.public_url.as_ref()) || is_name_of_machine(&host) {
        return Ok(());
    }
    let text = format!(
        "this node does not go by the name {host}: reach it as localhost or by its address, or start it with \
         --allowed-host {host}"
    );
    Err(Problem::new(Kind::CrossOrigin, text))
}

/// Whether the name is one that means this machine anywhere, an address, or the one that the node was told.
fn is_known(host: &str, public_url: Option<&NodeUrl>) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || address_of(host).is_some()
        || public_url.is_some_and(|public| public.host().eq_ignore_ascii_case(host))
}

/// Whether the system goes by this name, with its domain or without. Elsewhere than on Linux it does not say.
fn is_name_of_machine(host: &str) -> bool {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let name = fs::read_to_string("/proc/sys/kernel/hostname");
        name.unwrap_or_default().trim().to_ascii_lowercase()
    });
    let short = NAME.split('.').next().unwrap_or_default();
    !host.is_empty() && (host == *NAME || host == short)
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
    use std::net::IpAddr;

    use super::*;
    use actix_web::{
        http::header::{HeaderName, HeaderValue},
        test::TestRequest,
    };

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
            assert_eq!(is_own(&headers), may, "{given:?}");
        }
    }

    #[test]
    fn a_page_whose_name_only_leads_here_is_refused() {
        let table = [
            // (who connects, the page, may)
            ("127.0.0.1", "http://evil.example:5000", false),
            ("127.0.0.1", "http://localhost.evil.example:5000", false),
            ("::1", "http://evil.example:5000", false),
            ("::ffff:127.0.0.1", "http://evil.example:5000", false),
            ("127.0.0.1", "http://localhost:5000", true),
            ("127.0.0.1", "http://log.localhost:5000", true),
            ("127.0.0.1", "http://127.0.0.1:5000", true),
            ("127.0.0.1", "http://[::1]:5000", true),
            ("127.0.0.1", "http://Own.example", true),
            // No one else has a certificate for that name.
            ("127.0.0.1", "https://front.example", true),
            // By that name, for whoever is not here.
            ("192.0.2.7", "http://node.example:5000", true),
        ];
        for (peer, page, may) in table {
            let peer: IpAddr = peer.parse().expect("an address");
            let host = page.split("://").last().expect("a host");
            let request = TestRequest::post()
                .peer_addr((peer, 40_000).into())
                .insert_header((header::ORIGIN, page))
                .insert_header((header::HOST, host))
                .insert_header((SEC_FETCH_SITE, "same-origin"))
                .to_http_request();
            let public_url = "http://own.example:5000".parse().expect("a URL");
            assert_eq!(
                check(&request, Some(&public_url)).is_ok(),
                may,
                "{peer} {page}"
            );
        }
        let program = TestRequest::post().peer_addr(([127, 0, 0, 1], 40_000).into());
        assert!(check(&program.to_http_request(), None).is_ok());
    }
}
