//! Protection against requests from a page that another site has put into somebody's browser.
//!
//! Owns two checks of every request that changes a node. The first, of `Sec-Fetch-Site` and `Origin`, refuses pages of
//! other sites (CSRF). A request with a body also needs a `Content-Type` for which a browser asks the node first (a
//! CORS preflight), and the node refuses that: two defences, so that a mistake in one, the browser's included, is not
//! enough.
//!
//! The second, of the page's name, is against DNS rebinding: a site can point its name at this node after its page has
//! loaded. The browser then takes the node for the page's own site, and asks nothing. So a page's name must be a name
//! of this node. TLS is proof enough: if the node is reached by TLS, the proxy before the node has a certificate for
//! the name. The checks tell pages apart, not people: programs send none of these headers, and are let through.
//!
//! A third check is that of `Host`, for every request, reads too: such a page reveals nothing about itself but the name
//! by which it came. A node that other machines reach also has names that it cannot know, of services and containers:
//! it accepts those that no stranger can have, unless it was told which ones it has.

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
    problem::{Kind, Problem},
    protocol::address_of,
};

/// Set by browsers, if they reach the node by `https` or at `localhost`, and by no page: its name is reserved.
const SEC_FETCH_SITE: &str = "sec-fetch-site";
/// Suffixes below which no registry gives away names: they are resolved within a machine, a network or a cluster.
const PRIVATE_SUFFIXES: [&str; 3] = ["internal", "svc", "cluster.local"];

/// The names that a node is known by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    /// The public URL.
    pub(crate) public_url: Option<&'a NodeUrl>,
    /// Names that it was given besides.
    pub(crate) allowed: &'a [String],
    /// Only this machine can reach the node: it has no other names.
    pub(crate) listens_here: bool,
}

impl Names<'_> {
    fn include(&self, host: &str) -> bool {
        // A trailing dot does not change the name.
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let is_told = |own: &str| own.eq_ignore_ascii_case(&host);
        address_of(&host).is_some()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.public_url.is_some_and(|public| is_told(public.host()))
            || self.allowed.iter().any(|own| is_told(own))
            || is_name_of_machine(&host)
            || !self.listens_here && self.allowed.is_empty() && is_private(&host)
    }
}

/// Returns `true` if no stranger can have this name: it has no dot, or is below a suffix that no registry gives away.
fn is_private(host: &str) -> bool {
    let is_below = |suffix: &&str| {
        let name = host.strip_suffix(*suffix);
        name.is_some_and(|name| name.ends_with('.'))
    };
    !host.contains('.') || PRIVATE_SUFFIXES.iter().any(is_below)
}

/// Refuses a request from a page of another site.
///
/// # Errors
///
/// 403 for another site's page.
pub(crate) fn check(request: &HttpRequest, names: Names<'_>) -> Result<(), Problem> {
    if !is_own(request.headers(), names.public_url) {
        let mut text =
            "pages of other sites may not change this node: send it with another program than a \
                        browser, or from a page of this node"
                .to_owned();
        if !request.headers().contains_key(SEC_FETCH_SITE) {
            // The page was compared with `Host`, which is a proxy's choice.
            text += "; behind a proxy that replaces Host, start the node with --public-url";
        }
        return Err(Problem::new(Kind::CrossOrigin, text));
    }
    check_name(request, names)
}

/// Refuses a request from a page whose name is not this node's.
fn check_name(request: &HttpRequest, names: Names<'_>) -> Result<(), Problem> {
    let origin = request.headers().get(header::ORIGIN);
    let page = origin.and_then(|origin| Uri::try_from(origin.as_bytes()).ok());
    let host = page
        .as_ref()
        .filter(|page| page.scheme_str() == Some("http"))
        .and_then(Uri::host);
    match host {
        Some(host) if !names.include(host) => Err(Problem::new(
            Kind::CrossOrigin,
            format!(
                "a page of {host} may not change this node: {}",
                way_out(host)
            ),
        )),
        _ => Ok(()),
    }
}

/// Refuses a request that came by a name that is not this node's.
///
/// # Errors
///
/// 403 for such a name.
pub(crate) fn check_host(host: &str, names: Names<'_>) -> Result<(), Problem> {
    if names.include(host) {
        return Ok(());
    }
    let text = format!("{host} is not a name of this node: {}", way_out(host));
    Err(Problem::new(Kind::CrossOrigin, text))
}

fn way_out(host: &str) -> String {
    format!(
        "reach it as localhost or by its address, or start it with --allowed-host {host}, or with a --public-url of \
         that name"
    )
}

/// Returns `true` if the system has this name, with its domain or without. Systems other than Linux do not say.
fn is_name_of_machine(host: &str) -> bool {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let name = fs::read_to_string("/proc/sys/kernel/hostname");
        name.unwrap_or_default().trim().to_ascii_lowercase()
    });
    let short = NAME.split('.').next().unwrap_or_default();
    !host.is_empty() && (host == *NAME || host == short)
}

/// Returns `true` if no page sent the request, or one that this node or the proxy before it served.
fn is_own(headers: &HeaderMap, public_url: Option<&NodeUrl>) -> bool {
    // Behind a proxy, `Host` may differ from what the browser knows: the browser's own statement goes first.
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        // "none": a person made the request, not a page.
        return ["same-origin", "none"].iter().any(|own| site == own);
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let origin = origin.to_str().ok();
    // A proxy may replace `Host`: then the page's own name is known from the settings only.
    let page = origin.and_then(|origin| origin.parse::<NodeUrl>().ok());
    if page
        .zip(public_url)
        .is_some_and(|(page, public)| is_same_origin(&page, public))
    {
        return true;
    }
    let authority = origin.and_then(|origin| Some(origin.split_once("://")?.1));
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    matches!((authority, host), (Some(own), Some(host)) if own.eq_ignore_ascii_case(host))
}

fn is_same_origin(page: &NodeUrl, public: &NodeUrl) -> bool {
    page.scheme() == public.scheme()
        && page.host().eq_ignore_ascii_case(public.host())
        && page.port() == public.port()
}

#[cfg(test)]
mod tests {
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
            assert_eq!(is_own(&headers, None), may, "{given:?}");
        }
    }

    #[test]
    fn a_page_of_the_public_url_is_its_own_whatever_host_a_proxy_sends() {
        let table = [
            // (the public URL, the page, whether it is its own)
            ("http://log.example", "http://log.example", true),
            ("http://log.example:80", "http://log.example", true),
            ("http://log.example/replog", "http://Log.example", true),
            ("https://log.example", "https://log.example:443", true),
            ("http://log.example:8080", "http://log.example:8080", true),
            ("http://log.example", "http://log.example:8080", false),
            ("https://log.example", "http://log.example", false),
            ("http://log.example", "http://other.example", false),
            ("http://log.example", "null", false),
        ];
        for (public_url, page, may) in table {
            let public_url: NodeUrl = public_url.parse().expect("a URL");
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("10.0.0.1:5000"));
            headers.insert(header::ORIGIN, HeaderValue::from_static(page));
            assert_eq!(
                is_own(&headers, Some(&public_url)),
                may,
                "{public_url} {page}"
            );
            // The browser's own statement goes first.
            headers.insert(
                HeaderName::from_static(SEC_FETCH_SITE),
                HeaderValue::from_static("cross-site"),
            );
            assert!(!is_own(&headers, Some(&public_url)), "{public_url} {page}");
        }
    }

    #[test]
    fn a_page_behind_a_proxy_that_replaces_host_is_told_the_way_out() {
        let names = Names {
            public_url: None,
            allowed: &[],
            listens_here: false,
        };
        let page = || {
            TestRequest::post()
                .insert_header((header::ORIGIN, "http://log.example"))
                .insert_header((header::HOST, "10.0.0.1:5000"))
        };
        let detail = |request: TestRequest| {
            let refused = check(&request.to_http_request(), names).expect_err("another site");
            refused.to_string()
        };
        let way_out = "behind a proxy that replaces Host, start the node with --public-url";
        let told = detail(page());
        assert!(told.ends_with(way_out), "{told}");
        // The browser compared, and no setting helps.
        let told = detail(page().insert_header((SEC_FETCH_SITE, "cross-site")));
        assert!(!told.contains(way_out), "{told}");
    }

    #[test]
    fn a_name_that_merely_resolves_to_the_node_is_not_its_own() {
        let table = [
            // (the name, may on this machine, may from others, may where names were told)
            ("evil.example", [false, false, false]),
            ("localhost.evil.example", [false, false, false]),
            ("svc.evil.example", [false, false, false]),
            ("evil.insvc", [false, false, false]),
            ("localhost", [true, true, true]),
            ("Log.Localhost.", [true, true, true]),
            ("127.0.0.1", [true, true, true]),
            ("[::1]", [true, true, true]),
            ("Own.example", [true, true, true]),
            ("log.example.", [false, false, true]),
            ("another-node", [false, true, false]),
            ("replog-0.replog.default.svc", [false, true, false]),
            (
                "replog-0.replog.default.svc.cluster.local",
                [false, true, false],
            ),
            ("node.eu.internal", [false, true, false]),
        ];
        let public_url: NodeUrl = "http://own.example:5000".parse().expect("a URL");
        let told = ["log.example".to_owned()];
        let nodes: [(bool, &[String]); 3] = [(true, &[]), (false, &[]), (false, &told)];
        for (host, may) in table {
            for ((listens_here, allowed), may) in nodes.into_iter().zip(may) {
                let names = Names {
                    public_url: Some(&public_url),
                    allowed,
                    listens_here,
                };
                let what = format!("{host} {names:?}");
                assert_eq!(check_host(host, names).is_ok(), may, "{what}");
                let page = format!("http://{host}:5000");
                let request = TestRequest::post()
                    .insert_header((header::ORIGIN, page.as_str()))
                    .insert_header((header::HOST, format!("{host}:5000")))
                    .insert_header((SEC_FETCH_SITE, "same-origin"))
                    .to_http_request();
                assert_eq!(check(&request, names).is_ok(), may, "{what}");
            }
        }
        let names = Names {
            public_url: None,
            allowed: &[],
            listens_here: true,
        };
        // Nobody else has a certificate for that name.
        let page = TestRequest::post()
            .insert_header((header::ORIGIN, "https://front.example"))
            .insert_header((SEC_FETCH_SITE, "same-origin"));
        assert!(check(&page.to_http_request(), names).is_ok());
        assert!(check(&TestRequest::post().to_http_request(), names).is_ok());
    }
}
