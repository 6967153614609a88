//! Mistakes to plant: each check must find those that it is there for.
//!
//! They change what passes between a node and its surroundings, so that the node behaves as one
//! would that has the mistake; the code of the nodes itself knows nothing of them.

use super::world::{Life, World};
use crate::{
    log::{NextStep, WriteCommand, WriteReport, WriterLoop},
    transport::{Request, Response},
};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    DirectoryNotSynced,
    FailedSyncTriedAgain,
}

pub(crate) fn hides_failed_sync(world: &mut World) -> bool {
    world.planted(Mistake::FailedSyncTriedAgain)
}

/// What arrives at a node, before it sees it.
pub(crate) fn on_request(_: Life, request: Request) -> Request {
    request
}

/// What a node answers, before it is sent.
pub(crate) fn on_response(_: Life, _: &Request, response: Response) -> Response {
    response
}

/// What a master receives, before it sees it.
pub(crate) fn on_answer(_: Life, response: Response) -> Response {
    response
}

/// What a node asks its writer to do.
pub(crate) fn on_command(_: Life, command: WriteCommand) -> Option<WriteCommand> {
    Some(command)
}

/// What a writer tells its node.
pub(crate) fn on_report(_: Life, report: WriteReport) -> WriteReport {
    report
}

/// Before a step of a writer; true when it was done in another way.
pub(crate) fn on_step(
    _: Life,
    _: NextStep,
    _: &mut WriterLoop,
    _: &mut dyn FnMut(WriteReport),
) -> bool {
    false
}
