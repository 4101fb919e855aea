//! A real cluster: six servers of Redis or Valkey, three masters with a replica each.
//!
//! ```text
//! test binary ──(pipe)──► sh ──► server      six of them, each with its own folder
//!              kill, start         nodes.conf, log
//! ```
//!
//! A test binary has a few clusters that its tests use one after the other ([`Turn`]); a
//! test that breaks its cluster starts one of its own ([`Servers::start`]). Each server is the
//! child of a shell that kills it and removes its folder as the pipe from the test binary
//! ends, however that comes.
//!
//! The program is `redis-server`, or the one that `CLUSTER_SERVER` names: a
//! `valkey-server`, say.

use super::http::{holds_within, wait_within};
use super::random::Random;
use super::wrappers::there_is;
use crossbeam_channel::{Receiver, Sender};
use little_key_value::storage::{ClusterConfig, Seed};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

/// Masters, each with as many slots as the others.
pub const MASTERS: usize = 3;

/// Servers: the masters and a replica of each.
pub const SERVERS: usize = 2 * MASTERS;

const SLOTS: usize = 16_384;

/// The distance from a server's port to that of its cluster bus.
const BUS: u16 = 10_000;

/// The ports of servers: below those that the system gives, also with [`BUS`].
const PORTS: std::ops::Range<u16> = 10_100..22_000;

/// The wait for a cluster to come up, or to be well again: long, for a machine that has
/// much else to do.
const PATIENCE: Duration = Duration::from_secs(90);

/// Clusters that the tests of a binary share.
const SHARED_MAX: usize = 2;

/// The wait for all tests before this one to be done with a cluster.
const TURN: Duration = Duration::from_secs(600);

/// The wait for a server's reply.
const REPLY: Duration = Duration::from_secs(10);

/// The shell around a server: its arguments are the folder and the command. It obeys
/// `kill` and `start`, and answers with the server's id as that is done.
const SHELL: &str = r#"
trap '' INT TERM HUP
folder=$1
shift
cd "$folder" || exit
start() { "$@" >>log 2>&1 </dev/null & pid=$!; }
end() { kill -KILL $pid; wait $pid; } 2>/dev/null
start "$@"
echo $pid
while read -r order; do
    case $order in
        kill) end ;;
        start) start "$@" ;;
    esac
    echo $pid
done
end
cd /
rm -rf "$folder"
rmdir "${folder%/*}" 2>/dev/null
"#;

/// Whether there is a server's program; else says that a test is skipped, which it may
/// not be where CI is set.
pub fn is_there() -> bool {
    program().to_str().is_some_and(there_is)
}

fn program() -> OsString {
    std::env::var_os("CLUSTER_SERVER").unwrap_or_else(|| "redis-server".into())
}

/// A shared cluster, for one test.
pub struct Turn {
    servers: Option<Servers>,
    back: Sender<Servers>,
}

impl Turn {
    /// Waits until there is a cluster that no other test has. It has no keys and is well.
    pub fn take() -> Self {
        /// Clusters that no test has, and the number of all that were started.
        static SHARED: LazyLock<(Sender<Servers>, Receiver<Servers>)> =
            LazyLock::new(|| crossbeam_channel::bounded(SHARED_MAX));
        static STARTED: AtomicUsize = AtomicUsize::new(0);

        let (back, free) = &*SHARED;
        let may_start = || {
            let one_more = |started| (started < SHARED_MAX).then_some(started + 1);
            STARTED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
        };
        let servers = match free.try_recv() {
            Ok(servers) => servers,
            Err(_) if may_start() => Servers::start(),
            Err(_) => free.recv_timeout(TURN).expect("the tests before this one give theirs back"),
        };
        let turn = Self { servers: Some(servers), back: back.clone() };
        turn.servers().wait_until_well();
        turn.servers().clear();
        turn
    }

    /// The servers.
    pub fn servers(&self) -> &Servers {
        self.servers.as_ref().expect("they are there until the end")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let servers = self.servers.take().expect("it is dropped once");
        self.back.send(servers).expect("the other end is there for ever");
    }
}

/// The servers of a cluster. They are killed when this is dropped.
pub struct Servers {
    nodes: Vec<Node>,
}

impl Servers {
    /// Starts a cluster, and waits until all of it works.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with options of the servers besides: `["--maxmemory", "20mb"]`.
    pub fn start_with(options: &[&str]) -> Self {
        const TRIES: usize = 5;
        let mut random = Random::of_the_system();
        for _ in 0..TRIES {
            let servers = Self { nodes: start_nodes(&mut random, options) };
            // Somebody else may have taken one of the ports meanwhile.
            if holds_within(PATIENCE, || servers.is_well() || servers.has_lost_one())
                && !servers.has_lost_one()
            {
                return servers;
            }
            eprintln!("the cluster does not come up: {}", servers.logs());
        }
        panic!("no cluster comes up");
    }

    /// All of its servers: first those that begin as masters, then in the same order
    /// their replicas.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The servers' addresses as the program takes them: `127.0.0.1:7000,127.0.0.1:7001`.
    pub fn addrs(&self) -> String {
        let addrs: Vec<String> = self.nodes.iter().map(|node| node.addr.to_string()).collect();
        addrs.join(",")
    }

    /// The configuration of a front to it that may clear.
    pub fn config(&self) -> ClusterConfig {
        let seed = |node: &Node| Seed { host: "127.0.0.1".to_owned(), port: node.addr.port() };
        let seeds = self.nodes.iter().map(seed).collect();
        ClusterConfig { seeds, may_clear: true, ..ClusterConfig::default() }
    }

    /// The servers that are masters, as each says of itself.
    pub fn masters(&self) -> Vec<&Node> {
        self.nodes.iter().filter(|node| node.is_master()).collect()
    }

    /// The master of a key's slot, as the servers say.
    pub fn master_of(&self, key: &str) -> &Node {
        self.master_of_slot(slot_of(&self.nodes, key))
    }

    /// The master of a slot, as the first server says that has one for it.
    pub fn master_of_slot(&self, slot: u16) -> &Node {
        let mut masters = self.nodes.iter().filter_map(|node| {
            let port = master_in(&node.try_command(&["CLUSTER", "SLOTS"]).ok()?, slot)?;
            self.nodes.iter().find(|node| node.addr.port() == port)
        });
        masters.next().unwrap_or_else(|| panic!("slot {slot} has a master"))
    }

    /// A replica of a master.
    pub fn replica_of(&self, master: &Node) -> &Node {
        let port = format!("master_port:{}\r\n", master.addr.port());
        let is_its =
            |node: &&Node| node.info("replication").is_some_and(|info| info.contains(&port));
        self.nodes.iter().find(is_its).expect("it has a replica")
    }

    /// Deletes every key.
    pub fn clear(&self) {
        for master in self.masters() {
            assert_eq!(master.command(&["FLUSHALL"]), Reply::ok(), "{}", master.addr);
        }
    }

    /// Waits until all of it works: every server sees every other, each master takes
    /// writes, each replica has its master's link.
    #[track_caller]
    pub fn wait_until_well(&self) {
        wait_within(PATIENCE, "the cluster is well", || self.is_well());
    }

    /// Whether all of it works.
    pub fn is_well(&self) -> bool {
        self.nodes.iter().all(Node::is_well) && self.masters().len() >= MASTERS
    }

    /// Whether one of the servers has ended by itself.
    fn has_lost_one(&self) -> bool {
        self.nodes.iter().any(|node| !node.runs())
    }

    /// The ends of the servers' logs.
    fn logs(&self) -> String {
        let mut logs = String::new();
        for node in &self.nodes {
            let log = fs::read_to_string(node.folder.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(5)..];
            writeln!(logs, "{}:\n{}", node.addr, last.join("\n")).expect("a text takes more");
        }
        logs
    }
}

/// Starts the servers of a cluster: each knows all of them from the start.
fn start_nodes(random: &mut Random, options: &[&str]) -> Vec<Node> {
    let ports = free_ports(random);
    let folder = tempfile::Builder::new().prefix("little-key-value-cluster.").tempdir();
    // The shells remove it.
    let folder = folder.expect("there is room for a folder").keep();
    let node = |(number, port): (usize, &u16)| {
        let folder = folder.join(number.to_string());
        fs::create_dir(&folder).expect("there is room for a folder");
        fs::write(folder.join("nodes.conf"), nodes_conf(&ports, number)).expect("there is room");
        Node::start(*port, folder, options)
    };
    ports.iter().enumerate().map(node).collect()
}

/// Ports that are free, with those of their cluster buses.
fn free_ports(random: &mut Random) -> Vec<u16> {
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let mut ports = Vec::new();
    while ports.len() < SERVERS {
        let place = u16::try_from(random.below(PORTS.len())).expect("fewer than all ports");
        let port = PORTS.start + place;
        if !ports.contains(&port) && is_free(port) && is_free(port + BUS) {
            ports.push(port);
        }
    }
    ports
}

/// The file from which a server knows its cluster.
fn nodes_conf(ports: &[u16], own: usize) -> String {
    let id = |number: usize| format!("{:040x}", number + 1);
    let mut text = String::new();
    for (number, port) in ports.iter().enumerate() {
        let (master, myself) = (number % MASTERS, if number == own { "myself," } else { "" });
        let addr = format!("127.0.0.1:{port}@{}", port + BUS);
        let (first, end) = (master * SLOTS / MASTERS, (master + 1) * SLOTS / MASTERS);
        let epoch = master + 1;
        let line = if number == master {
            format!("{myself}master - 0 0 {epoch} connected {first}-{}", end - 1)
        } else {
            format!("{myself}slave {} 0 0 {epoch} connected", id(master))
        };
        writeln!(text, "{} {addr} {line}", id(number)).expect("a text takes more");
    }
    writeln!(text, "vars currentEpoch {MASTERS} lastVoteEpoch 0").expect("a text takes more");
    text
}

/// The slot of a key, as the first server says that answers.
fn slot_of(nodes: &[Node], key: &str) -> u16 {
    let mut slots = nodes.iter().filter_map(|node| {
        let reply = node.try_command(&["CLUSTER", "KEYSLOT", key]).ok()?;
        let Reply::Integer(slot) = reply else { return None };
        u16::try_from(slot).ok()
    });
    slots.next().expect("a server answers")
}

/// The port of a slot's master in a reply to `CLUSTER SLOTS`.
fn master_in(slots: &Reply, slot: u16) -> Option<u16> {
    let Reply::Many(ranges) = slots else { return None };
    ranges.iter().find_map(|range| {
        let Reply::Many(range) = range else { return None };
        let [Reply::Integer(first), Reply::Integer(last), Reply::Many(master), ..] = &range[..]
        else {
            return None;
        };
        let Some(Reply::Integer(port)) = master.get(1) else { return None };
        let is_its = (*first..=*last).contains(&i64::from(slot));
        is_its.then(|| u16::try_from(*port).expect("a port"))
    })
}

/// A server of a cluster.
pub struct Node {
    addr: SocketAddr,
    folder: PathBuf,
    shell: Mutex<Shell>,
}

/// The shell around a server.
struct Shell {
    child: Child,
    /// It ends the server as this ends.
    orders: Option<ChildStdin>,
    told: BufReader<ChildStdout>,
    pid: u32,
}

impl Node {
    fn start(port: u16, folder: PathBuf, options: &[&str]) -> Self {
        let shell = Mutex::new(Shell::start(port, &folder, options));
        Self { addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), folder, shell }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.shell.lock().expect("nobody panics with it").pid
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&self) {
        self.order("kill");
    }

    /// Starts it again, with all it knew of its cluster. It is up a little later.
    pub fn restart(&self) {
        self.order("start");
    }

    /// Stops it: it accepts connections, and answers nothing.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Has it go on.
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let kill = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(kill.expect("kill runs").success(), "kill -{name} {pid}");
    }

    fn order(&self, order: &str) {
        self.shell.lock().expect("nobody panics with it").obey(order);
    }

    /// Whether its process is there and has not ended.
    fn runs(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        match stat {
            Ok(stat) => !stat.contains(") Z "),
            // Where the system does not tell, one that does not answer may come yet.
            Err(_) => !Path::new("/proc/self").exists(),
        }
    }

    /// Its reply to a command.
    #[track_caller]
    pub fn command(&self, words: &[impl AsRef<[u8]>]) -> Reply {
        let reply = self.try_command(words);
        reply.unwrap_or_else(|err| panic!("{} does not answer: {err}", self.addr))
    }

    /// The same where it may not answer.
    pub fn try_command(&self, words: &[impl AsRef<[u8]>]) -> io::Result<Reply> {
        let mut stream = TcpStream::connect_timeout(&self.addr, REPLY)?;
        stream.set_read_timeout(Some(REPLY))?;
        stream.set_write_timeout(Some(REPLY))?;
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            bytes.extend(format!("${}\r\n", word.len()).into_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        stream.write_all(&bytes)?;
        Reply::read(&mut BufReader::new(stream))
    }

    /// A section of what it says of itself; `None` if it does not answer.
    pub fn info(&self, section: &str) -> Option<String> {
        self.try_command(&["INFO", section]).ok()?.into_text()
    }

    /// Whether it is a master.
    pub fn is_master(&self) -> bool {
        self.info("replication").is_some_and(|info| info.contains("role:master\r\n"))
    }

    /// Whether it sees all of the cluster and takes its part in it.
    fn is_well(&self) -> bool {
        let cluster = self.try_command(&["CLUSTER", "INFO"]).ok().and_then(Reply::into_text);
        let nodes = self.try_command(&["CLUSTER", "NODES"]).ok().and_then(Reply::into_text);
        let (Some(cluster), Some(nodes)) = (cluster, nodes) else { return false };
        let Some(replication) = self.info("replication") else { return false };
        let has_its_part = if replication.contains("role:master\r\n") {
            replication.contains("connected_slaves:1\r\n") && replication.contains("state=online")
        } else {
            replication.contains("master_link_status:up\r\n")
        };
        let sees_all = nodes.lines().all(|line| line.contains(" connected"));
        cluster.contains("cluster_state:ok\r\n")
            && cluster.contains(&format!("cluster_known_nodes:{SERVERS}\r\n"))
            && !nodes.contains("fail")
            && sees_all
            && has_its_part
    }
}

impl Shell {
    fn start(port: u16, folder: &Path, options: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, "sh"]).arg(folder).arg(program());
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]);
        command.args(["--save", "", "--appendonly", "no", "--maxmemory", "100mb"]);
        // A replica's first copy would wait five seconds for others that want one.
        command.args(["--repl-diskless-sync-delay", "0"]).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("there is a shell");
        let orders = child.stdin.take();
        let told = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut shell = Self { child, orders, told, pid: 0 };
        shell.read_pid();
        shell
    }

    fn obey(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("it is there until the end");
        orders.write_all(format!("{order}\n").as_bytes()).expect("the shell reads");
        self.read_pid();
    }

    fn read_pid(&mut self) {
        let mut line = String::new();
        self.told.read_line(&mut line).expect("the shell answers");
        self.pid = line.trim().parse().expect("a process id");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.orders = None;
        self.child.wait().expect("a child can be waited for");
    }
}

/// A server's reply to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing is there.
    Nothing,
    /// A number.
    Integer(i64),
    /// A text, or a value.
    Bytes(Vec<u8>),
    /// Several.
    Many(Vec<Reply>),
    /// What went wrong.
    Error(String),
}

impl Reply {
    /// The reply of a command that has nothing else to say.
    pub fn ok() -> Self {
        Self::Bytes(b"OK".to_vec())
    }

    /// The text of one that is text.
    pub fn into_text(self) -> Option<String> {
        match self {
            Self::Bytes(bytes) => String::from_utf8(bytes).ok(),
            Self::Nothing | Self::Integer(_) | Self::Many(_) | Self::Error(_) => None,
        }
    }

    fn read(from: &mut BufReader<TcpStream>) -> io::Result<Self> {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(ErrorKind::UnexpectedEof)?;
        let (kind, rest) = line.split_at_checked(1).ok_or(ErrorKind::InvalidData)?;
        let number = || rest.parse::<i64>().map_err(|_| io::Error::from(ErrorKind::InvalidData));
        match kind {
            "+" => Ok(Self::Bytes(rest.as_bytes().to_vec())),
            "-" => Ok(Self::Error(rest.to_owned())),
            ":" => Ok(Self::Integer(number()?)),
            "$" | "*" => match (kind, usize::try_from(number()?)) {
                (_, Err(_)) => Ok(Self::Nothing),
                ("$", Ok(length)) => {
                    let mut bytes = vec![0; length + 2];
                    from.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Ok(Self::Bytes(bytes))
                }
                (_, Ok(count)) => {
                    (0..count).map(|_| Self::read(from)).collect::<Result<_, _>>().map(Self::Many)
                }
            },
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}
