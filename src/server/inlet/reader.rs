//! Reading one request: without waiting, if it is there as a whole; or with waiting for its
//! client, who may be slow, wants to be asked for the body, or is refused before it comes.

use super::input::{HEAD_STEP_BYTES, Input, Wire, look_for_end};
use crate::api::{Import, Operation, Refusal, Reply};
use crate::server::body::{self, Body};
use crate::server::connections::Connection;
use crate::server::dispatch::Dispatcher;
use crate::server::framing::{Framing, HEAD_BYTES_MAX, Length};
use crate::server::incoming::{self, Awaited};
use crate::server::pipeline::Stage;
use crate::server::request::{self, Head, Request};
use crate::server::uploads::Reservation;
use bytes::Bytes;

/// A body up to this size is read together with its head, refused or not, so that
/// its connection outlives a refusal. Memory is reserved for a larger one.
const SMALL_BODY_BYTES_MAX: u64 = 1024;

/// Reads from a connection, beginning with input that was received before.
pub struct Reader<'a> {
    pub dispatcher: &'a Dispatcher,
    pub connection: &'a Connection,
    pub input: &'a mut Input,
}

impl Reader<'_> {
    /// The next request, if it is there as a whole and its connection goes on.
    pub fn whole_request(&mut self) -> Option<Request> {
        let unused = self.input.unused();
        let head_bytes = look_for_end(unused, 0).ok().flatten()?;
        if head_bytes > HEAD_BYTES_MAX {
            return None;
        }
        let (head, rest) = unused.split_at_checked(head_bytes)?;
        let Self { dispatcher, .. } = *self;
        let understood = request::understand(head, &dispatcher.api, dispatcher.is_logging());
        let (mut head, framing, admitted) = understood.ok()?;
        let body = rest.get(..usize::try_from(framing.length.known()?).ok()?)?;
        let is_small = body.len() as u64 <= SMALL_BODY_BYTES_MAX;
        if head.is_last()
            || framing.expects_continue
            || matches!(admitted, Ok(Operation::Import(_)))
            || (admitted.is_err() && !is_small)
        {
            return None;
        }
        if !is_small {
            let mut reservation = Reservation::new(&dispatcher.uploads);
            if !reservation.reserve_now(body.len() as u64, &dispatcher.api) {
                return None;
            }
            head.reserved = Some(Box::new(reservation));
        }
        let used = head_bytes + body.len();
        let body = if body.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(body) };
        self.input.used += used;
        Some(Request { head, meaning: admitted.map(|operation| (operation, body)) })
    }

    /// Reads a whole request, however long it takes to come; `None` if none comes.
    pub fn request(&mut self) -> Option<Request> {
        let head_bytes = match self.head_end()? {
            Ok(bytes) => bytes,
            Err(err) => {
                let head = Head::of("", "", self.dispatcher.is_logging());
                return Some(Request::refused(head, err));
            }
        };
        let head = self.input.unused().get(..head_bytes).unwrap_or_default();
        let is_logged = self.dispatcher.is_logging();
        let understood = request::understand(head, &self.dispatcher.api, is_logged);
        self.input.use_up(head_bytes);
        let (mut head, framing, admitted) = match understood {
            Ok(understood) => understood,
            Err((head, err)) => return Some(Request::refused(head, err)),
        };
        self.connection.pipeline.set_coming(true);
        let bytes_here = self.input.unused().len() as u64;
        let is_here = framing.length.known().is_some_and(|bytes| bytes <= bytes_here);
        self.input.whole = if is_here { self.input.whole + 1 } else { 0 };
        let _awaited = (!is_here).then(|| self.connection.set_awaited(&head));
        let small = framing.length.known().filter(|bytes| *bytes <= SMALL_BODY_BYTES_MAX);
        let comes_anyway = small.is_some_and(|bytes| bytes == 0 || !framing.expects_continue);
        let admitted = match admitted {
            Err(reply) if !comes_anyway => return Some(Request::refused(head, reply)),
            Ok(Operation::Import(import)) => return self.import(head, framing, import),
            admitted => admitted,
        };
        let reserved = &mut head.reserved;
        let body = match small {
            Some(0) => Ok(Bytes::new()),
            Some(_) if comes_anyway => self.receive_body(framing.length, reserved),
            Some(_) | None => self.receive_awaited_body(framing, reserved)?,
        };
        Some(match body {
            Ok(body) => Request { head, meaning: admitted.map(|operation| (operation, body)) },
            Err(reply) => Request::refused(head, reply),
        })
    }

    /// Receives until a head is complete, and gives its length; `None` if the
    /// client ends before a byte of it.
    fn head_end(&mut self) -> Option<Result<usize, Refusal>> {
        let mut looked_at = 0;
        loop {
            // Empty lines before a request are ignored (RFC 9112, 2.2).
            while looked_at == 0 && self.input.unused().starts_with(b"\r\n") {
                self.input.use_up(2);
            }
            let head = self.input.unused();
            match look_for_end(head, looked_at) {
                Ok(Some(end)) if end <= HEAD_BYTES_MAX => return Some(Ok(end)),
                Ok(None) if head == b"\r" => {}
                Ok(None) if head.len() <= HEAD_BYTES_MAX => looked_at = head.len(),
                Ok(_) => return Some(Err(Refusal::HeadTooLong)),
                Err(err) => return Some(Err(err)),
            }
            self.connection.pipeline.set_coming(!head.is_empty());
            if self.wire().receive(HEAD_STEP_BYTES) == 0 {
                let is_cut_off = !self.input.unused().is_empty();
                return is_cut_off.then_some(Err(Refusal::HeadShort));
            }
        }
    }

    /// Reads a body that its client may be waiting to send.
    fn receive_awaited_body(
        &mut self,
        framing: Framing,
        reserved: &mut Option<Box<Reservation>>,
    ) -> Option<Result<Bytes, Reply>> {
        self.await_body(framing)?;
        Some(self.receive_body(framing.length, reserved))
    }

    /// Has the storage take a body as it comes. The request that is left with the
    /// connection is done by then.
    fn import(&mut self, head: Head, framing: Framing, import: Import) -> Option<Request> {
        let stage = self.await_body(framing)?;
        let Self { dispatcher, connection, .. } = *self;
        connection.pipeline.set_uploading(true);
        let mut body = Body::new(self.wire(), framing.length);
        let reply = incoming::import(dispatcher, import, &mut body, |awaited| {
            connection.pipeline.set_stage(match awaited {
                Awaited::Client => stage,
                Awaited::Storage => Stage::Working,
            })
        });
        connection.pipeline.set_uploading(false);
        Some(if body.is_done() {
            Request { head, meaning: Err(reply) }
        } else {
            Request::refused(head, reply)
        })
    }

    /// Asks for a body that its client may be waiting to send, and gives the stage of
    /// the request from then on; `None` if the connection is not open. The body comes by
    /// itself: every request before it was answered by then.
    fn await_body(&self, framing: Framing) -> Option<Stage> {
        let stage = match framing.length {
            Length::Known(_) => Stage::Receiving,
            Length::Chunked => Stage::ReceivingChunked,
        };
        if !self.connection.pipeline.wait_until_answered()
            || !self.connection.pipeline.set_stage(stage)
        {
            return None;
        }
        if framing.expects_continue && self.input.unused().is_empty() {
            // A client that has no room for this hears the final answer.
            self.connection.socket.send_now(b"HTTP/1.1 100 Continue\r\n\r\n").ok();
        }
        Some(stage)
    }

    fn receive_body(
        &mut self,
        length: Length,
        reserved: &mut Option<Box<Reservation>>,
    ) -> Result<Bytes, Reply> {
        let small = length.known().filter(|bytes| *bytes <= SMALL_BODY_BYTES_MAX);
        let whole = small.and_then(|bytes| usize::try_from(bytes).ok());
        if let Some(whole) = whole.and_then(|bytes| self.input.unused().get(..bytes)) {
            let body = Bytes::copy_from_slice(whole);
            self.input.use_up(body.len());
            return Ok(body);
        }
        let Self { dispatcher, connection, .. } = *self;
        let api = &dispatcher.api;
        let reserved = reserved.insert(Box::new(Reservation::new(&dispatcher.uploads)));
        let reserve = |bytes| reserved.reserve(bytes, api);
        body::read(self.wire(), length, api.value_bytes_max(), reserve).map_err(|err| match err {
            body::Error::NoRoom => Refusal::UploadsTooMany.into(),
            body::Error::TooLong => Refusal::ValueTooLarge.into(),
            body::Error::Short => Refusal::BodyShort.into(),
            body::Error::Malformed(text) => {
                log::debug!("{}: {text}", connection.peer);
                Refusal::BodyChunks.into()
            }
            body::Error::Broken(err) => {
                log::debug!("{}: reading a body: {err}", connection.peer);
                Refusal::BodyUnreadable.into()
            }
        })
    }

    fn wire(&mut self) -> Wire<'_> {
        Wire { connection: self.connection, input: self.input }
    }
}
