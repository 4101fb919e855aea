//! A node that answers by a script: it listens on a free port, and each command is
//! answered by the first of its rules that fits.

use crate::storage::cluster::network::protocol::{Decoder, Reply};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The answer to a command.
#[derive(Clone)]
pub enum Answer {
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes, one write for so many.
    Pieces(Vec<u8>, usize),
    /// None, and none to later commands of the connection, which are not even read.
    Silence,
    /// These bytes, one after the other with a pause in between.
    Slowly(Vec<u8>, Duration),
    /// These bytes, and then the end of the connection.
    Close(Vec<u8>),
}

/// The words of a command; the first is in upper case.
pub type Words = Vec<Vec<u8>>;

/// An answer to a command, unless the next rule has one.
pub type Rule = Box<dyn Fn(&Words) -> Option<Answer> + Send + Sync>;

/// A share of the slots: first, last, port, configuration epoch.
pub type Share = (u16, u16, u16, u64);

/// The node.
pub struct Fake {
    pub port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    rules: Mutex<Vec<Arc<Rule>>>,
    map: Mutex<Vec<Share>>,
    commands: Mutex<Vec<Words>>,
    streams: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    /// The bytes after which a connection is cut, once.
    bytes_max: AtomicUsize,
    has_ended: AtomicBool,
}

pub fn text(text: &str) -> Answer {
    Answer::Bytes(format!("${}\r\n{text}\r\n", text.len()).into())
}

pub fn line(line: &str) -> Answer {
    Answer::Bytes(format!("{line}\r\n").into())
}

impl Fake {
    /// A node that has all slots.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Inner {
            rules: Mutex::default(),
            map: Mutex::new(vec![(0, 16383, port, 1)]),
            commands: Mutex::default(),
            streams: Mutex::default(),
            connections: AtomicUsize::new(0),
            bytes_max: AtomicUsize::new(usize::MAX),
            has_ended: AtomicBool::new(false),
        });
        let this = Arc::clone(&inner);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if this.has_ended.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                this.streams.lock().unwrap().push(stream.try_clone().unwrap());
                let this = Arc::clone(&this);
                thread::spawn(move || {
                    this.connections.fetch_add(1, Ordering::SeqCst);
                    this.serve(&mut stream);
                    stream.shutdown(Shutdown::Both).ok();
                    this.connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, inner }
    }

    /// Adds a rule for a command, before all others.
    pub fn on(
        &self,
        name: &str,
        answer: impl Fn(&Words) -> Option<Answer> + Send + Sync + 'static,
    ) {
        let name = name.as_bytes().to_vec();
        let rule = move |words: &Words| if words[0] == name { answer(words) } else { None };
        self.inner.rules.lock().unwrap().insert(0, Arc::new(Box::new(rule)));
    }

    /// Has the first commands of a name answered in turn; the last for ever.
    pub fn script(&self, name: &str, answers: Vec<Answer>) {
        let answers = Mutex::new(answers);
        self.on(name, move |_| {
            let mut answers = answers.lock().unwrap();
            Some(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
        });
    }

    /// Tells another map.
    pub fn tell(&self, map: &[Share]) {
        *self.inner.map.lock().unwrap() = map.to_vec();
    }

    /// The commands of a name so far.
    pub fn asked(&self, name: &str) -> Vec<Words> {
        let commands = self.inner.commands.lock().unwrap();
        commands.iter().filter(|words| words[0] == name.as_bytes()).cloned().collect()
    }

    /// All commands so far, but for questions for the map.
    pub fn commands(&self) -> Vec<String> {
        let name = |words: &Words| String::from_utf8_lossy(&words[0]).into_owned();
        let commands = self.inner.commands.lock().unwrap();
        let is_of_map = |name: &String| ["CLUSTER", "TIME"].contains(&&**name);
        commands.iter().map(name).filter(|name| !is_of_map(name)).collect()
    }

    /// The connections at the moment.
    pub fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::SeqCst)
    }

    /// Cuts the next connection that has brought so many bytes.
    pub fn cut_after(&self, bytes_max: usize) {
        self.inner.bytes_max.store(bytes_max, Ordering::SeqCst);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for stream in self.inner.streams.lock().unwrap().drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.inner.has_ended.store(true, Ordering::SeqCst);
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        self.cut();
    }
}

impl Inner {
    fn serve(&self, stream: &mut TcpStream) {
        let mut decoder = Decoder::default();
        let mut bytes = 0;
        loop {
            let count = match stream.read(decoder.room()) {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            decoder.filled(count);
            bytes += count;
            if bytes > self.bytes_max.load(Ordering::SeqCst) {
                self.bytes_max.store(usize::MAX, Ordering::SeqCst);
                stream.shutdown(Shutdown::Both).ok();
                return;
            }
            while let Some(command) = decoder.next().unwrap() {
                let answer = self.answer(&words(command));
                let Some(()) = self.send(stream, answer) else { return };
            }
        }
    }

    fn answer(&self, words: &Words) -> Answer {
        self.commands.lock().unwrap().push(words.clone());
        let rules = self.rules.lock().unwrap().clone();
        rules.iter().find_map(|rule| rule(words)).unwrap_or_else(|| self.usual(words))
    }

    fn usual(&self, words: &Words) -> Answer {
        let second = words.get(1).map(|word| String::from_utf8_lossy(word).to_uppercase());
        match (&*String::from_utf8_lossy(&words[0]), second.as_deref()) {
            ("INFO", Some("SERVER")) => text("# Server\r\nredis_version:7.0.15\r\n"),
            ("INFO", Some("CLUSTER")) => text("# Cluster\r\ncluster_enabled:1\r\n"),
            ("CLUSTER", Some("SLOTS")) => {
                let map = self.map.lock().unwrap();
                let share = |(first, last, port, _): &Share| {
                    let id = format!("{port:040}");
                    format!(
                        "*3\r\n:{first}\r\n:{last}\r\n*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$40\r\n{id}\r\n"
                    )
                };
                let shares: String = map.iter().map(share).collect();
                Answer::Bytes(format!("*{}\r\n{shares}", map.len()).into())
            }
            ("CLUSTER", Some("NODES")) => {
                let map = self.map.lock().unwrap();
                let node = |(first, last, port, epoch): &Share| {
                    format!(
                        "{port:040} 127.0.0.1:{port}@1 master - 0 0 {epoch} connected {first}-{last}\n"
                    )
                };
                text(&map.iter().map(node).collect::<String>())
            }
            ("TIME", _) => {
                let now =
                    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
                Answer::Bytes(format!("*2\r\n${}\r\n{now}\r\n$1\r\n0\r\n", now.len()).into())
            }
            ("ROLE", _) => line("*3\r\n$6\r\nmaster\r\n:1\r\n*0"),
            ("PING", _) => line("+PONG"),
            ("GET", _) => text("value"),
            ("SCRIPT", _) => text("sha"),
            ("INCR" | "WAIT", _) => line(":1"),
            _ => line("+OK"),
        }
    }

    fn send(&self, stream: &mut TcpStream, answer: Answer) -> Option<()> {
        match answer {
            Answer::Bytes(bytes) => stream.write_all(&bytes).ok(),
            Answer::Pieces(bytes, length) => {
                stream.set_nodelay(true).ok()?;
                bytes.chunks(length).try_for_each(|piece| stream.write_all(piece)).ok()
            }
            Answer::Silence => {
                while !self.has_ended.load(Ordering::SeqCst) && !is_over(stream) {
                    thread::sleep(Duration::from_millis(10));
                }
                None
            }
            Answer::Slowly(bytes, pause) => bytes.chunks(1).try_for_each(|byte| {
                thread::sleep(pause);
                stream.write_all(byte).ok()
            }),
            Answer::Close(bytes) => {
                stream.write_all(&bytes).ok()?;
                stream.shutdown(Shutdown::Both).ok();
                None
            }
        }
    }
}

/// Returns true once the other side has cut the connection, which is not read otherwise.
fn is_over(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    matches!(peeked, Ok(0)) || peeked.is_err_and(|err| err.kind() != ErrorKind::WouldBlock)
}

fn words(command: Reply) -> Words {
    let Reply::Many(words) = command else { panic!("a command is a list") };
    let words = words.into_iter().map(|word| match word {
        Reply::Bytes(word) => word.to_vec(),
        Reply::Nothing | Reply::Integer(_) | Reply::Many(_) | Reply::Error(_) => {
            panic!("a word is a text")
        }
    });
    let mut words: Words = words.collect();
    words[0].make_ascii_uppercase();
    words
}

/// Waits until something holds.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < patience, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
