//! Every path of the HTTP interface.

/// A page for people.
pub(crate) const PAGE: &str = "/";
/// The icon of a tab, which browsers ask for beside whatever they show.
pub(crate) const ICON: &str = "/favicon.ico";
/// Append, and read.
pub(crate) const MESSAGES: &str = "/messages";
/// One message.
pub(crate) const MESSAGE: &str = "/messages/{offset}";
/// Who waits for what.
pub(crate) const APPENDS: &str = "/appends";
/// The truth, always 200.
pub(crate) const HEALTH: &str = "/health";
/// Does the process work?
pub(crate) const LIVE: &str = "/livez";
/// Can it serve reads?
pub(crate) const READY: &str = "/readyz";
/// Can it take appends?
pub(crate) const READY_WRITE: &str = "/readyz/write";
/// What the node counts and measures.
pub(crate) const METRICS: &str = "/metrics";
/// What changes, as it changes.
pub(crate) const EVENTS: &str = "/events";
/// No appends, until that is lifted.
pub(crate) const ADMIN_READ_ONLY: &str = "/admin/read-only";
/// Appends again.
pub(crate) const ADMIN_READ_WRITE: &str = "/admin/read-write";
/// Which log lines are written.
pub(crate) const ADMIN_LOG_LEVEL: &str = "/admin/log-level";
/// This interface, for programs.
pub(crate) const OPENAPI: &str = "/openapi.json";
/// Fault injection.
pub(crate) const FAULTS: &str = "/faults";
