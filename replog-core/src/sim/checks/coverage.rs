//! Coverage: each kind of request, answer and refusal that occurred, by its name in the report of a
//! run.

use crate::transport::{Answer, Refusal, Request, RequestBody, Response};

pub(super) fn of_request(request: &Request) -> &'static str {
    match request.body {
        RequestBody::Identify => "request: identify",
        RequestBody::Promise(_) => "request: promise",
        RequestBody::Hello(_) => "request: hello",
        RequestBody::Heartbeat(_) => "request: heartbeat",
        RequestBody::Append(_) => "request: append",
        RequestBody::Fetch(_) => "request: fetch",
    }
}

pub(super) fn of_answer(response: &Response) -> &'static str {
    let refusal = match &response.answer {
        Answer::Identity(_) => return "answer: identity",
        Answer::Promised(_) => return "answer: promised",
        Answer::Aligned(aligned) if aligned.cut_records > 0 => return "answer: aligned, with a cut",
        Answer::Aligned(_) if response.state.log_epoch.is_none() => {
            return "answer: aligned, not intact";
        }
        Answer::Aligned(_) => return "answer: aligned",
        Answer::OlderStartsNeeded { .. } => return "answer: older pairs needed",
        Answer::Taken if response.state.buffered > 0 => return "answer: taken, with a gap before",
        Answer::Taken => return "answer: taken",
        Answer::Records(_) => return "answer: records for a recovery",
        Answer::Refused(refusal) => refusal,
    };
    match refusal {
        Refusal::WrongNode => "refusal: wrong node",
        Refusal::WrongCluster => "refusal: wrong cluster",
        Refusal::OtherNodes { .. } => "refusal: other nodes",
        Refusal::Fenced(_) => "refusal: fenced",
        Refusal::Replaced(_) => "refusal: replaced",
        Refusal::OutOfDate(_) => "refusal: out of date",
        Refusal::HelloFirst => "refusal: hello first",
        Refusal::WrongIncarnation => "refusal: wrong incarnation",
        Refusal::BelowCommitted { .. } => "refusal: below committed",
        Refusal::NotAligned => "refusal: not aligned",
        Refusal::BeyondWindow => "refusal: beyond the window",
        Refusal::Storage { .. } => "refusal: storage",
        Refusal::Malformed { .. } => "refusal: malformed",
        Refusal::Stopping => "refusal: stopping",
    }
}
