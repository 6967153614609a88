//! A node's log, read page by page: never more of it in memory than a page.
//!
//! Each page is an answer of its own, so that a connection that breaks costs a page, and no part is ever
//! taken for the whole.

use replog_core::{
    Offset, ReadLevel,
    client::{Client, Message, ReadQuery},
};

use super::Failure;

/// Messages of a page, at most.
const PAGE: u64 = 256;

/// A range of a log being read.
pub(super) struct Pages<'a> {
    client: &'a Client,
    level: Option<ReadLevel>,
    next: Offset,
    end: Offset,
}

impl<'a> Pages<'a> {
    /// Everything from `from` to the end that the node has now.
    pub(super) async fn from(
        client: &'a Client,
        from: Offset,
        level: Option<ReadLevel>,
    ) -> Result<Pages<'a>, Failure> {
        let end = end_of(client, level).await?;
        Ok(Pages {
            client,
            level,
            next: from,
            end,
        })
    }

    /// As [`Pages::from`], the last `count` offsets.
    pub(super) async fn last(
        client: &'a Client,
        count: u64,
        level: Option<ReadLevel>,
    ) -> Result<Pages<'a>, Failure> {
        let mut pages = Pages::from(client, Offset::ZERO, level).await?;
        pages.next = Offset(pages.end.0.saturating_sub(count));
        Ok(pages)
    }

    /// No further than this.
    pub(super) fn until(mut self, end: Offset) -> Pages<'a> {
        self.end = self.end.min(end);
        self
    }

    /// No more offsets than these.
    pub(super) fn at_most(self, count: Option<u64>) -> Pages<'a> {
        match count.and_then(|count| self.next.0.checked_add(count)) {
            Some(end) => self.until(Offset(end)),
            None => self,
        }
    }

    /// The offset to go on from.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// Where it ends.
    pub(super) fn end(&self) -> Offset {
        self.end
    }

    /// The next messages; `None` at the end.
    pub(super) async fn page(&mut self) -> Result<Option<Vec<Message>>, Failure> {
        if self.next >= self.end {
            return Ok(None);
        }
        let query = ReadQuery {
            from: Some(self.next),
            limit: Some(self.end.records_since(self.next).min(PAGE)),
            level: self.level,
            ..ReadQuery::default()
        };
        let page = self.client.messages(&query).await;
        let mut page = page.map_err(|error| Failure::of(self.client.url(), &error))?;
        if page.next <= self.next {
            return Err(Failure::new(format!(
                "{} shows nothing from offset {} on, though its log went to {}: a record there cannot be \
                 read, or was taken back",
                self.client.url(),
                self.next,
                self.end
            )));
        }
        self.next = page.next;
        page.messages.retain(|message| message.offset < self.end);
        Ok(Some(page.messages))
    }
}

/// Where the node's log ends now.
async fn end_of(client: &Client, level: Option<ReadLevel>) -> Result<Offset, Failure> {
    let health = client.health().await;
    let health = health.map_err(|error| Failure::of(client.url(), &error))?;
    let end = match level {
        Some(ReadLevel::Committed) => &health["log"]["committed"],
        Some(ReadLevel::Local) | None => &health["log"]["next"],
    };
    // Not known yet: nothing is shown at that level.
    Ok(Offset(end.as_u64().unwrap_or_default()))
}
