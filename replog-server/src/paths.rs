//! Every path of the HTTP interface.

/// The page for people.
pub(crate) const PAGE: &str = "/";
/// The icon of a tab, which browsers request along with any page.
pub(crate) const ICON: &str = "/favicon.ico";
/// Appends and reads.
pub(crate) const MESSAGES: &str = "/messages";
/// One message.
pub(crate) const MESSAGE: &str = "/messages/{offset}";
/// Waiting appends, and the nodes that they wait for.
pub(crate) const APPENDS: &str = "/appends";
/// The node's state, always with status 200.
pub(crate) const HEALTH: &str = "/health";
/// Liveness: the process works.
pub(crate) const LIVE: &str = "/livez";
/// Readiness for reads.
pub(crate) const READY: &str = "/readyz";
/// Readiness for appends.
pub(crate) const READY_WRITE: &str = "/readyz/write";
/// The node's metrics.
pub(crate) const METRICS: &str = "/metrics";
/// Changes, as they happen.
pub(crate) const EVENTS: &str = "/events";
/// Pauses appends until they are resumed.
pub(crate) const ADMIN_READ_ONLY: &str = "/admin/read-only";
/// Resumes appends.
pub(crate) const ADMIN_READ_WRITE: &str = "/admin/read-write";
/// The filter of log lines.
pub(crate) const ADMIN_LOG_LEVEL: &str = "/admin/log-level";
/// The description of this interface, for programs.
pub(crate) const OPENAPI: &str = "/openapi.json";
/// Fault injection.
pub(crate) const FAULTS: &str = "/faults";
