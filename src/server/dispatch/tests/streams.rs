//! Streams, whose parts come as things happen.

use super::*;
use crate::api::{Replied, Rest};
use std::collections::VecDeque;
use std::mem;
use std::sync::Mutex;
use std::thread::ThreadId;

/// News, of which a stream tells.
#[derive(Default)]
struct News(Mutex<Told>);

#[derive(Default)]
struct Told {
    /// News that are not told yet, each a part.
    untold: VecDeque<Reply>,
    parked: Option<Replied>,
    is_over: bool,
    /// The thread of the last step.
    stepped_on: Option<ThreadId>,
    panics: bool,
}

impl News {
    /// The first part of a stream of them.
    fn stream(self: &Arc<Self>) -> Reply {
        self.followed_by(Reply::text("begun\n"))
    }

    fn followed_by(self: &Arc<Self>, reply: Reply) -> Reply {
        let news = Arc::clone(self);
        reply.with_rest(Rest::of_stream(move || {
            news.0.lock().unwrap().stepped_on = Some(thread::current().id());
            Step::Wait(news)
        }))
    }

    /// Something happens, on this thread.
    fn happen(self: &Arc<Self>, reply: Reply) {
        let mut told = self.0.lock().unwrap();
        match told.parked.take() {
            Some(parked) => {
                drop(told);
                parked(self.part(reply));
            }
            None => told.untold.push_back(reply),
        }
    }

    fn part(self: &Arc<Self>, reply: Reply) -> Reply {
        if reply.status() == 200 { self.followed_by(reply) } else { reply }
    }

    fn is_parked(&self) -> bool {
        self.0.lock().unwrap().parked.is_some()
    }

    fn wait_until_parked(&self) {
        wait_until("the stream waits", || self.is_parked());
    }
}

impl Waiting for News {
    fn begin(self: Arc<Self>, _: Arc<dyn Storage>, done: Replied) {
        let panics = mem::take(&mut self.0.lock().unwrap().panics);
        assert!(!panics, "this panic is part of a test");
        let mut told = self.0.lock().unwrap();
        let next = told.untold.pop_front();
        match next {
            Some(reply) => {
                drop(told);
                done(self.part(reply));
            }
            None if told.is_over => {
                drop(told);
                done(Reply::text("over\n"));
            }
            None => told.parked = Some(done),
        }
    }

    fn end(&self) {
        let mut told = self.0.lock().unwrap();
        told.is_over = true;
        let parked = told.parked.take();
        drop(told);
        if let Some(parked) = parked {
            parked(Reply::text("over\n"));
        }
    }
}

/// The data of a chunked body that is whole.
fn whole(body: &str) -> String {
    let (mut rest, mut data) = (body, String::new());
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a chunk");
        let size = usize::from_str_radix(size, 16).expect("a size");
        data += &after[..size];
        rest = after[size..].strip_prefix("\r\n").expect("the end of a chunk");
        if size == 0 {
            assert_eq!(rest, "");
            return data;
        }
    }
}

#[test]
fn a_part_that_was_waited_for_is_written_by_the_thread_that_brings_it() {
    let fixture = Fixture::new();
    let (connection, mut client) = fixture.connect();
    let news = Arc::new(News::default());
    fixture.answer(&connection, LAST, news.stream());
    read_until(&mut client, "begun\n\r\n");
    for text in ["one\n", "two\n"] {
        news.wait_until_parked();
        news.happen(Reply::text(text));
        assert_eq!(news.0.lock().unwrap().stepped_on, Some(thread::current().id()));
        assert!(news.is_parked());
        read_until(&mut client, &format!("4\r\n{text}\r\n"));
    }
    let is_streaming = connection.activity().stage == Some(Stage::Streaming);
    assert!(is_streaming, "{:?}", connection.activity());
    connection.pipeline.note_client_end();
    assert_eq!(read_to_end(&mut client), ("5\r\nover\n\r\n0\r\n\r\n".to_owned(), false));
    fixture.wait_for_end();
}

#[test]
fn parts_of_a_stream_that_are_there_at_once_do_not_grow_the_stack() {
    const PARTS: usize = 20_000;
    let fixture = Fixture::new();
    let (connection, mut client) = fixture.connect();
    let news = Arc::new(News::default());
    for _ in 0..PARTS {
        news.happen(Reply::text("x"));
    }
    fixture.answer(&connection, OLD, news.stream());
    news.wait_until_parked();
    fixture.dispatcher.drain();
    let (text, is_reset) = read_to_end(&mut client);
    assert_eq!((body(&text).len(), is_reset), ("begun\nover\n".len() + PARTS, false));
    fixture.wait_for_end();
}

#[test]
fn a_client_who_reads_slowly_misses_nothing() {
    const PARTS: usize = 300;
    let fixture = Fixture::new();
    let (connection, mut client) = fixture.connect();
    let news = Arc::new(News::default());
    fixture.answer(&connection, LAST, news.stream());
    let part = |number: usize| format!("{number:059999}\n");
    for number in 0..PARTS {
        news.happen(Reply::text(part(number)));
    }
    wait_until("the socket is full", || {
        let left = || news.0.lock().unwrap().untold.len();
        let before = left();
        thread::sleep(Duration::from_millis(100));
        before == left()
    });
    assert!(!news.is_parked(), "there is more than the socket takes");
    assert_eq!(connection.activity().stage, Some(Stage::Streaming));
    assert_eq!(fixture.dispatcher.senders.under_way(), 0);
    // It ends with the part that is under way.
    fixture.dispatcher.drain();
    let (text, is_reset) = read_to_end(&mut client);
    let data = whole(body(&text));
    let parts = data.strip_prefix("begun\n").expect("the first part");
    let whole = parts.len() / 60_000;
    assert!(whole < PARTS);
    assert!(parts == (0..whole).map(part).collect::<String>(), "{whole} parts in order");
    assert!(!is_reset);
    fixture.wait_for_end();
}

#[test]
fn streams_take_no_place_of_others() {
    const STREAMS: usize = 40;
    const PARTS: usize = 200;
    let fixture = Fixture::new();
    let news: Vec<Arc<News>> = (0..STREAMS).map(|_| Arc::default()).collect();
    let begin = |news: &Arc<News>| {
        let (connection, client) = fixture.connect();
        fixture.answer(&connection, LAST, news.stream());
        client
    };
    let clients: Vec<TcpStream> = news.iter().map(begin).collect();
    // More than their sockets take.
    let part = Bytes::from(vec![b'x'; 60_000]);
    for news in &news {
        news.wait_until_parked();
        (0..PARTS).for_each(|_| news.happen(Reply::text(part.clone())));
        assert!(!news.is_parked());
    }
    assert_eq!(fixture.dispatcher.senders.under_way(), 0);
    drop(clients);
    fixture.wait_for_end();
}

/// So many news that always are there: more than anybody waits for.
struct Flood(usize);

impl Waiting for Flood {
    fn begin(self: Arc<Self>, _: Arc<dyn Storage>, done: Replied) {
        done(flood(self.0));
    }

    fn end(&self) {}
}

fn flood(news: usize) -> Reply {
    if news == 0 {
        return Reply::text("all\n");
    }
    Reply::text("x\n").with_rest(Rest::of_stream(move || Step::Wait(Arc::new(Flood(news - 1)))))
}

#[test]
fn a_stream_that_never_waits_ends_with_the_server_and_with_its_client() {
    type End = fn(&Fixture, &Connection);
    let ends: [End; 2] = [
        |fixture, _| fixture.dispatcher.drain(),
        |_, connection| connection.pipeline.note_client_end(),
    ];
    for end in ends {
        let fixture = Fixture::new();
        let (connection, mut client) = fixture.connect();
        fixture.answer(&connection, LAST, flood(300_000));
        read_until(&mut client, "x\n\r\n2\r\nx\n\r\n");
        end(&fixture, &connection);
        let (text, is_reset) = read_to_end(&mut client);
        let rest = text.strip_suffix("0\r\n\r\n").expect("a last chunk");
        assert_eq!((rest.replace("2\r\nx\n\r\n", "").as_str(), is_reset), ("", false));
        fixture.wait_for_end();
    }
}

#[test]
fn a_stream_that_cannot_go_on_has_no_end() {
    for (head, ends_by_reset) in [(LAST, false), (OLD, true)] {
        for panics in [false, true] {
            let fixture = Fixture::new();
            let (connection, mut client) = fixture.connect();
            let news = Arc::new(News::default());
            fixture.answer(&connection, head, news.stream());
            read_until(&mut client, if head == OLD { "begun\n" } else { "begun\n\r\n" });
            news.wait_until_parked();
            if panics {
                news.0.lock().unwrap().panics = true;
                news.happen(Reply::text("panics\n"));
                read_until(&mut client, if head == OLD { "panics\n" } else { "panics\n\r\n" });
            } else {
                news.happen(Reply::error(503, "behind"));
            }
            assert_eq!(read_to_end(&mut client), (String::new(), ends_by_reset), "{head}");
            fixture.wait_for_end();
        }
    }
}
