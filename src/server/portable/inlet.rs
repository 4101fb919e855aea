//! Reading requests.

use super::socket::Socket;
use crate::api::{Import, Operation, Refusal, Reply};
use crate::server::body::{self, Body};
use crate::server::dispatch::{Dispatcher, Task};
use crate::server::framing::{self, Framing, Length};
use crate::server::incoming;
use crate::server::job::Job;
use crate::server::request::{Head, Meaning, Request, Understood};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::io::BufReader;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use tiny_http::HTTPVersion;

/// The name of the threads of tiny_http.
pub const CONNECTION_THREAD: &str = "connection";

/// The most leaders: of two, one could overtake the other with the next request of a
/// connection, whose response waits for the first one's for ever.
pub const LEADERS_MAX: usize = 1;

/// A body up to this size has been read by tiny_http already, unless the
/// head asks for something first.
const READ_BYTES_MAX: u64 = 1024;

/// The most requests of one peer that wait for the one in work.
const WAITING_MAX: usize = 1000;

/// The peers with a request in work, and the requests that wait behind it.
static IN_WORK: Mutex<BTreeMap<SocketAddr, VecDeque<tiny_http::Request>>> =
    Mutex::new(BTreeMap::new());

/// Takes a request of tiny_http's. Gives it if its turn has come and it is
/// there as a whole; otherwise a thread of its own waits for the rest.
pub fn enter(dispatcher: &Arc<Dispatcher>, request: tiny_http::Request) -> Option<(Job, Meaning)> {
    let peer = request.remote_addr().copied()?;
    let mut in_work = IN_WORK.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(waiting) = in_work.get_mut(&peer) {
        if waiting.len() < WAITING_MAX {
            waiting.push_back(request);
        }
        return None;
    }
    in_work.insert(peer, VecDeque::new());
    drop(in_work);
    begin(dispatcher, request, peer)
}

/// Begins with the next request of a peer whose last one was answered.
pub fn next(dispatcher: &Arc<Dispatcher>, peer: SocketAddr) {
    let mut in_work = IN_WORK.lock().unwrap_or_else(PoisonError::into_inner);
    let next = in_work.get_mut(&peer).and_then(VecDeque::pop_front);
    if next.is_none() {
        in_work.remove(&peer);
    }
    drop(in_work);
    let begun = next.and_then(|request| begin(dispatcher, request, peer));
    if let Some((job, meaning)) = begun {
        dispatcher.queue(Task::Handle(job, meaning));
    }
}

fn begin(
    dispatcher: &Arc<Dispatcher>,
    mut request: tiny_http::Request,
    peer: SocketAddr,
) -> Option<(Job, Meaning)> {
    let understood = understand(dispatcher, &request);
    let is_here = understood.as_ref().is_ok_and(|(_, framing, admitted)| {
        let bytes = framing.length.known();
        let has_come = bytes == Some(0)
            || (!framing.expects_continue && bytes.is_some_and(|bytes| bytes <= READ_BYTES_MAX));
        // It waits for the storage, piece by piece.
        has_come && !matches!(admitted, Ok(Operation::Import(_)))
    });
    let dispatcher = Arc::clone(dispatcher);
    let finish = move || {
        let read = read(&dispatcher, &mut request, understood);
        let socket = Socket::new(request.into_writer(), Arc::clone(&dispatcher), peer);
        (Job::new(dispatcher.connections.add(socket, peer, 0), read), dispatcher)
    };
    if is_here {
        return Some(finish().0);
    }
    let waiting = thread::Builder::new().name("upload".to_owned()).spawn(move || {
        let ((job, meaning), dispatcher) = finish();
        dispatcher.queue(Task::Handle(job, meaning));
    });
    if let Err(err) = waiting {
        log::warn!("no thread can be started for an upload: {err}");
    }
    None
}

fn understand(
    dispatcher: &Dispatcher,
    request: &tiny_http::Request,
) -> Result<Understood, (Head, Refusal)> {
    let (method, target) = (request.method().as_str(), request.url());
    let is_logged = dispatcher.is_logging();
    let HTTPVersion(1, version @ (0 | 1)) = *request.http_version() else {
        return Err((Head::of(method, target, is_logged), Refusal::VersionUnknown));
    };
    let fields = request.headers().iter();
    let fields = fields.map(|field| (field.field.as_str().as_str(), field.value.as_str()));
    let fields: Vec<(&str, &str)> = fields.take(framing::FIELDS_MAX + 1).collect();
    if fields.len() > framing::FIELDS_MAX {
        return Err((Head::of(method, target, is_logged), Refusal::FieldsTooMany));
    }
    framing::ParsedHead { method, target, version, fields: &fields }
        .understand(&dispatcher.api, is_logged)
}

/// Reads the body, where there is to be one.
fn read(
    dispatcher: &Dispatcher,
    request: &mut tiny_http::Request,
    understood: Result<Understood, (Head, Refusal)>,
) -> Request {
    let (head, framing, admitted) = match understood {
        Ok(understood) => understood,
        Err((head, err)) => return Request::refused(head, err),
    };
    let admitted = match admitted {
        Ok(Operation::Import(import)) => {
            let (reply, is_done) = receive_import(dispatcher, request, framing, import);
            return if is_done {
                Request { head, meaning: Err(reply) }
            } else {
                Request::refused(head, reply)
            };
        }
        admitted => admitted,
    };
    let receive = |operation| Ok((operation, receive_body(dispatcher, request, framing)?));
    match admitted.and_then(receive) {
        Err(reply) if framing.length != Length::Known(0) => Request::refused(head, reply),
        meaning => Request { head, meaning },
    }
}

/// Imports a body as it comes. Returns the reply, and true if all of the body was
/// taken.
fn receive_import(
    dispatcher: &Dispatcher,
    request: &mut tiny_http::Request,
    framing: Framing,
    import: Import,
) -> (Reply, bool) {
    let mut reader = BufReader::new(request.as_reader());
    match framing.length {
        length @ Length::Known(_) => {
            let mut body = Body::new(reader, length);
            (incoming::import(dispatcher, import, &mut body, |_awaited| true), body.is_done())
        }
        // tiny_http takes the chunks apart, and nobody can tell if there are more.
        Length::Chunked => {
            (incoming::import(dispatcher, import, &mut reader, |_awaited| true), false)
        }
    }
}

fn receive_body(
    dispatcher: &Dispatcher,
    request: &mut tiny_http::Request,
    framing: Framing,
) -> Result<Bytes, Reply> {
    let bytes_max = dispatcher.api.value_bytes_max();
    let wanted = framing.length.known().unwrap_or(bytes_max.saturating_add(1));
    if wanted == 0 {
        return Ok(Bytes::new());
    }
    let read = body::read_up_to(BufReader::new(request.as_reader()), wanted, false, |_| true);
    let body = read.map_err(|err| match err {
        body::Error::TooLong => Reply::from(Refusal::ValueTooLarge),
        body::Error::Short
        | body::Error::Malformed(_)
        | body::Error::Broken(_)
        | body::Error::NoRoom => Reply::from(Refusal::BodyUnreadable),
    })?;
    match framing.length {
        Length::Known(bytes) if (body.len() as u64) < bytes => Err(Refusal::BodyShort.into()),
        Length::Chunked if body.len() as u64 > bytes_max => Err(Refusal::ValueTooLarge.into()),
        Length::Known(_) | Length::Chunked => Ok(body.into()),
    }
}
