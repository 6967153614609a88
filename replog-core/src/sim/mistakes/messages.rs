//! Mistakes in the messages between nodes.

use super::{Life, Mistake, planted, world};
use crate::{
    frame::FrameBatch,
    transport::{Answer, Identity, NodeState, Progress, Refusal, Request, RequestBody, Response},
    types::{Epoch, Mode, Offset},
};

/// Changes a request that arrives at a node, before the node sees it.
pub(crate) fn on_request(life: Life, request: Request) -> Request {
    let all = world::with(|world| world.mistakes.clone());
    let pass = |request, mistake| on_request_with(mistake, life, request);
    all.into_iter().fold(request, pass)
}

fn on_request_with(mistake: Mistake, life: Life, mut request: Request) -> Request {
    match mistake {
        Mistake::EarlierLifeBelieved => {
            world::with(|world| {
                if let Some(own) = world.own_life(life.machine)
                    && let Some(progress) = progress(&mut request.body)
                {
                    progress.to_incarnation = own;
                }
            });
        }
        Mistake::LogEpochTakenEarly => {
            if let RequestBody::Hello(hello) = &mut request.body {
                hello.adopted_end = Offset::ZERO;
            }
        }
        Mistake::RefillTargetIgnored => {
            if let Some(progress) = progress(&mut request.body) {
                progress.refill_target = Some(Offset::ZERO);
            }
        }
        Mistake::OlderEpochServed => world::with(|world| {
            let promised = world.promised(life.machine);
            let asks = matches!(
                request.body,
                RequestBody::Promise(_) | RequestBody::Hello(_)
            );
            if let Some(promised) = promised.filter(|promised| {
                !asks && promised.epoch > request.epoch && promised.name == request.from
            }) {
                request.epoch = promised.epoch;
                request.incarnation.instance = promised.instance;
                request.incarnation.start = promised.start;
            }
        }),
        Mistake::OldHelloObeyed => world::with(|world| {
            if let RequestBody::Hello(hello) = &mut request.body
                && let Some(promised) = world.promised(life.machine)
                && promised.epoch > request.epoch
                && promised.name == request.from
            {
                hello.log_epoch = Some(promised.epoch);
                request.epoch = promised.epoch;
                request.incarnation.instance = promised.instance;
                request.incarnation.start = promised.start;
            }
        }),
        Mistake::OldInstanceAccepted => world::with(|world| {
            let meta = world.machines[life.machine.0].disk.meta.as_ref();
            if let Some(meta) = meta
                && let Some(promised) = &meta.promised
                && promised.replaced.contains(&request.incarnation.instance)
            {
                request.incarnation.instance = promised.instance;
                if let RequestBody::Promise(promise) = &mut request.body {
                    promise.log_epoch = promise.log_epoch.max(meta.log_epoch);
                }
            }
        }),
        Mistake::OutOfDatePromised => {
            if let RequestBody::Promise(promise) = &mut request.body
                && promise.log_epoch.is_some()
            {
                promise.log_epoch = Some(request.epoch);
            }
        }
        Mistake::CommittedBeforeAlignment => {
            if let RequestBody::Hello(hello) = &request.body {
                world::with(|world| {
                    world.checks.show(life.machine, hello.adopted_end);
                    // A reader may read at this very moment.
                    world.after_poll(life.machine);
                });
            }
        }
        Mistake::NamesNotCompared => {
            if let Some(name) = world::with(|world| world.own_name(life.machine)) {
                request.to = name;
            }
        }
        Mistake::PairsNotCompared => {
            if let RequestBody::Hello(hello) = &mut request.body
                && let Some(view) = world::with(|world| world.checks.view(life.machine))
            {
                hello.epoch_starts = view.epoch_starts(64);
                hello.end = hello.end.max(view.written_end());
                hello.epoch_starts_end = hello.end;
            }
        }
        Mistake::BufferKeptAcrossPromise => keep_the_buffer(life, &mut request),
        Mistake::EpochUnbounded => believe_any_epoch(life, &mut request),
        Mistake::HeartbeatOvertakesAppend => take_for_newer(life, &mut request),
        Mistake::HelloBelowCommittedObeyed => {
            if let RequestBody::Hello(hello) = &mut request.body
                && Some(hello.end) < world::with(|world| world.checks.committed(life.machine))
            {
                hello.forced_epoch = Some(request.epoch);
            }
        }
        Mistake::DivergenceOverlooked => {
            let Some(view) = world::with(|world| world.checks.view(life.machine)) else {
                return request;
            };
            match &mut request.body {
                RequestBody::Hello(hello) => {
                    hello.epoch_starts = view.epoch_starts(64);
                    hello.end = hello.end.max(view.written_end());
                    hello.epoch_starts_end = hello.end;
                }
                RequestBody::Append(append) => {
                    let end = view.written_end();
                    let new = |batch: &FrameBatch| batch.slice(end, Offset(u64::MAX));
                    let records: Vec<FrameBatch> = append.records.iter().filter_map(new).collect();
                    if !records.is_empty() {
                        append.records = records;
                    }
                }
                _ => {}
            }
        }
        Mistake::LongerLogKept => {
            if let RequestBody::Hello(hello) = &mut request.body {
                hello.end = Offset(1 << 60);
                hello.epoch_starts_end = hello.end;
            }
        }
        Mistake::CommittedInsideAppend => {
            if let Some(progress) = progress(&mut request.body) {
                let committed = progress.committed.and_then(|end| end.0.checked_sub(1));
                progress.committed = committed.map(Offset);
            }
        }
        Mistake::CommittedTooFar => {
            if let Some(progress) = progress(&mut request.body) {
                progress.committed = Some(progress.end);
            }
        }
        _ => {}
    }
    request
}

/// Lets records that came behind a gap through when another epoch fills the gap.
fn keep_the_buffer(life: Life, request: &mut Request) {
    let epoch = request.epoch;
    let RequestBody::Append(append) = &mut request.body else {
        return;
    };
    world::with(|world| {
        let Some(view) = world.checks.view(life.machine) else {
            return;
        };
        let kept = world.memory.behind_gap.entry(life.machine).or_default();
        if let Some(first) = append.records.first()
            && first.first() > view.written_end()
        {
            kept.extend(append.records.iter().map(|batch| (epoch, batch.clone())));
            return;
        }
        while let Some(end) = append.records.last().map(FrameBatch::end)
            && let Some(nth) = kept
                .iter()
                .position(|(of, batch)| *of < epoch && batch.first() == end)
        {
            append.records.push(kept.remove(nth).1);
        }
        if let Some(last) = append.records.last() {
            append.progress.end = append.progress.end.max(last.end());
        }
    });
}

/// Changes a request for an epoch beyond the bounds so that the next one is promised: the node's disk will say
/// the other one.
fn believe_any_epoch(life: Life, request: &mut Request) {
    if !matches!(
        request.body,
        RequestBody::Promise(_) | RequestBody::Hello(_)
    ) {
        return;
    }
    world::with(|world| {
        let durable = world.promised(life.machine).map(|promised| promised.epoch);
        let leap = durable.map(|durable| request.epoch.capped_for_request(durable));
        let is_within = leap.is_none_or(|leap| leap == request.epoch);
        if !request.epoch.is_believable() || !is_within {
            let unbounded = &mut world.memory.unbounded;
            unbounded.insert(life.machine, request.epoch);
            request.epoch = durable.map_or(Epoch(1), Epoch::next);
        }
    });
}

/// Makes a node take records sent in an older epoch than that of the newest heartbeat in the
/// heartbeat's epoch.
fn take_for_newer(life: Life, request: &mut Request) {
    world::with(|world| {
        let heartbeats = &mut world.memory.heartbeats;
        match &mut request.body {
            RequestBody::Heartbeat(progress) => {
                let new = (request.epoch, request.incarnation, progress.to_incarnation);
                let newest = heartbeats.entry(life.machine).or_insert(new);
                if new.0 >= newest.0 {
                    *newest = new;
                }
            }
            RequestBody::Append(append) => {
                if let Some((epoch, from, to)) = heartbeats.get(&life.machine)
                    && *epoch > request.epoch
                {
                    (request.epoch, request.incarnation) = (*epoch, *from);
                    append.progress.to_incarnation = *to;
                }
            }
            _ => {}
        }
    });
}

fn progress(body: &mut RequestBody) -> Option<&mut Progress> {
    match body {
        RequestBody::Heartbeat(progress) => Some(progress),
        RequestBody::Append(append) => Some(&mut append.progress),
        _ => None,
    }
}

/// Changes a node's answer before it is sent.
pub(crate) fn on_response(_: Life, asked: &Request, mut response: Response) -> Response {
    match planted() {
        Some(Mistake::WipedNodeVotes) => {
            if matches!(asked.body, RequestBody::Promise(_)) {
                response.state.log_epoch.get_or_insert(Epoch(1));
                if let Answer::Promised(promised) = &mut response.answer {
                    promised.last_whole = None;
                }
            }
        }
        Some(Mistake::DamagedEndForgotten) => {
            if let Answer::Promised(promised) = &mut response.answer
                && let Some(whole) = &mut promised.last_whole
            {
                whole.end = Offset::ZERO;
            }
        }
        Some(Mistake::HeartbeatAnswersForAppend) => {
            if let RequestBody::Heartbeat(progress) = &asked.body
                && matches!(response.answer, Answer::Taken)
                && response.state.log_epoch == Some(asked.epoch)
            {
                response.state.durable_end = progress.end;
            }
        }
        Some(Mistake::GapWithoutLimit) if response.state.buffered > 0 => {
            response.state.buffered = u64::MAX;
        }
        _ => {}
    }
    response
}

/// Returns a response that a master gets instead of waiting for an answer.
pub(crate) fn instead_of_call(life: Life, to: &str, request: &Request) -> Option<Response> {
    match (planted()?, &request.body) {
        (Mistake::OldNewsBelieved, RequestBody::Heartbeat(_)) => world::with(|world| {
            let heard = &world.memory.last_answer;
            heard.get(&(life.machine, to.to_owned())).cloned()
        }),
        (Mistake::FoundsWithoutMajority, RequestBody::Identify) => world::with(|world| {
            let silent = world.wires.is_cut(life.machine, world.id(to));
            let nodes = Vec::new();
            silent.then(|| Response {
                cluster: None,
                name: request.to.clone(),
                incarnation: request.incarnation,
                state: NodeState::default(),
                answer: Answer::Identity(Identity {
                    nodes,
                    master: None,
                }),
            })
        }),
        _ => None,
    }
}

/// Changes an answer that a master receives, before it sees it.
pub(crate) fn on_answer(life: Life, to: &str, epoch: Epoch, response: Response) -> Response {
    let all = world::with(|world| world.mistakes.clone());
    let pass = |response, mistake| on_answer_with(mistake, life, to, epoch, response);
    all.into_iter().fold(response, pass)
}

fn on_answer_with(
    mistake: Mistake,
    life: Life,
    to: &str,
    epoch: Epoch,
    mut response: Response,
) -> Response {
    let refused = matches!(response.answer, Answer::Refused(_));
    match mistake {
        Mistake::AnswerCountedTwice if !refused => world::with(|world| {
            let best = world.memory.best_end.entry(epoch).or_default();
            *best = (*best).max(response.state.durable_end);
            response.state.durable_end = *best;
        }),
        Mistake::EndsCountBeforeAlignment
            if matches!(response.answer, Answer::Taken | Answer::Aligned(_)) =>
        {
            response.state.log_epoch = Some(epoch);
        }
        Mistake::EarlierLifeBelieved => world::with(|world| {
            let first = &mut world.memory.first_life;
            response.incarnation = *first
                .entry(response.name.clone())
                .or_insert(response.incarnation);
            if matches!(response.answer, Answer::Refused(Refusal::HelloFirst)) {
                response.answer = Answer::Taken;
            }
        }),
        Mistake::NamesNotCompared => {
            if let Ok(name) = to.parse() {
                response.name = name;
            }
            if matches!(response.answer, Answer::Refused(Refusal::WrongNode)) {
                response.answer = Answer::Taken;
            }
        }
        Mistake::EndOutlivesItsLife if !refused => world::with(|world| {
            let best = world.memory.best_of_node.entry(response.name.clone());
            let best = best.or_insert((epoch, Offset::ZERO));
            if best.0 != epoch {
                *best = (epoch, Offset::ZERO);
            }
            let state = &mut response.state;
            if state.log_epoch == Some(epoch) {
                best.1 = best.1.max(state.durable_end);
            }
            if best.1 > Offset::ZERO && matches!(response.answer, Answer::Taken) {
                (state.durable_end, state.log_epoch) = (best.1, Some(epoch));
            }
        }),
        Mistake::EndsOfPromisesIgnored => {
            if let Answer::Promised(promised) = &mut response.answer {
                response.state.durable_end = Offset::ZERO;
                promised.epoch_starts.clear();
            }
        }
        Mistake::NewerLogPassedOver => {
            if let Answer::Promised(promised) = &mut response.answer
                && let Some((own_log_epoch, own_end)) = world::with(|world| {
                    let disk = &world.machines[life.machine.0].disk;
                    let log_epoch = disk.meta.as_ref()?.log_epoch?;
                    Some((log_epoch, disk.held_end()))
                })
                && response.state.log_epoch > Some(own_log_epoch)
            {
                let state = &mut response.state;
                state.log_epoch = Some(own_log_epoch);
                state.durable_end = state.durable_end.min(own_end);
                promised
                    .epoch_starts
                    .retain(|start| start.first < own_end.min(state.durable_end));
            }
        }
        Mistake::AdoptedByRecordsEpoch => {
            if let Answer::Promised(promised) = &response.answer
                && response.state.log_epoch.is_some()
            {
                let newest = promised.epoch_starts.last().map(|start| start.epoch);
                let newest = newest.unwrap_or(Epoch(0));
                response.state.log_epoch = Some(world::with(|world| {
                    world.rank_by_records(life.machine, newest)
                }));
            }
        }
        Mistake::EveryRefusalFences => {
            if let Answer::Refused(Refusal::Fenced(by)) = &mut response.answer
                && by.epoch == epoch
                && world::with(|world| world.checks.mode(life.machine)) != Some(Mode::Recovering)
            {
                by.epoch = by.epoch.next();
            }
        }
        Mistake::FoundsBesideOthers => {
            if let Answer::Identity(identity) = &mut response.answer {
                identity.nodes.clear();
                response.cluster = None;
            }
        }
        Mistake::OldNewsBelieved if matches!(response.answer, Answer::Taken) => {
            world::with(|world| {
                let key = (life.machine, to.to_owned());
                world.memory.last_answer.insert(key, response.clone());
            });
        }
        _ => {}
    }
    response
}
