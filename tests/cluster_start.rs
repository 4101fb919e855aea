//! A front to a cluster as a process: what it is told, and the starts that fail. Of a
//! secret it shows nothing.

#![cfg(unix)]

use crate::support::http::{PATIENCE, get_head, put_head, wait_until};
use crate::support::process::{Process, command, end_of, output, signal};
use crate::support::server::accepts;
use crate::support::wrappers::there_is;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tempfile::TempDir;

const SECRET: &str = "correct-h0rse-battery";

const OTHER: &str = "staple-0f-a-sentence";

/// Runs the program to its end: its exit code, and the lines of its complaint.
#[track_caller]
fn ended(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, Vec<String>) {
    let mut program = command(&[&["--port", "0"], arguments].concat());
    program.envs(environment.iter().copied());
    let output = output(program);
    let complaint = String::from_utf8(output.stderr).expect("text");
    let stdout = String::from_utf8(output.stdout).expect("text");
    assert!(!stdout.contains("http://"), "{stdout}");
    for secret in [SECRET, OTHER] {
        assert!(!complaint.contains(secret) && !stdout.contains(secret), "{complaint}");
    }
    (output.status.code(), complaint.lines().map(str::to_owned).collect())
}

/// A start that fails with this exit code, and one line.
#[track_caller]
fn refused(code: i32, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let (ended_with, lines) = ended(arguments, environment);
    assert_eq!(ended_with, Some(code), "{arguments:?} {environment:?}: {lines:?}");
    let [line] = &*lines else { panic!("not one line: {lines:?}") };
    line.clone()
}

/// A file for its owner alone.
struct PasswordFile {
    path: PathBuf,
    _directory: TempDir,
}

impl PasswordFile {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        fs::write(&path, text).expect("a file can be written");
        let this = Self { path, _directory: directory };
        this.set_mode(0o600);
        this
    }

    fn set_mode(&self, mode: u32) {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("a path of text")
    }
}

/// An address that nobody listens on, for as long as the socket is there.
fn closed() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    let addr = socket.local_addr().expect("a bound socket").as_socket().expect("an address");
    (socket, addr)
}

#[test]
fn a_cluster_and_a_storage_of_its_own_are_bad_usage() {
    let cluster = [["--cluster", "127.0.0.1:1"], ["LKV_CLUSTER", "127.0.0.1:1"]];
    for [flag, variable, value] in [
        ["--working-dir", "LKV_WORKING_DIR", "/nowhere/at/all"],
        ["--max-memory", "LKV_MAX_MEMORY", "1GiB"],
        ["--max-disk", "LKV_MAX_DISK", "1GiB"],
        ["--when-full", "LKV_WHEN_FULL", "evict"],
        ["--wait-for-lock", "LKV_WAIT_FOR_LOCK", "30s"],
        ["--history", "LKV_HISTORY", "1MiB"],
        ["--max-watchers", "LKV_MAX_WATCHERS", "10"],
    ] {
        for (of_cluster, of_other) in [(true, true), (true, false), (false, true), (false, false)] {
            let (mut arguments, mut environment) = (Vec::new(), Vec::new());
            let [given, [name, nodes]] = cluster;
            if of_cluster {
                arguments.extend(given);
            } else {
                environment.push((name, nodes));
            }
            if of_other {
                arguments.extend([flag, value]);
            } else {
                environment.push((variable, value));
            }
            let line = refused(2, &arguments, &environment);
            assert!(line.contains("--cluster") && line.contains(flag), "{line}");
        }
    }
    let both = [("LKV_WORKING_DIR", "dir"), ("LKV_MAX_MEMORY", "1GiB")];
    refused(2, &["--cluster", "127.0.0.1:1"], &both);
}

#[test]
fn flags_and_variables_of_a_cluster_need_one() {
    let file = PasswordFile::new(SECRET);
    for [flag, variable, value] in [
        ["--cluster-wait", "LKV_CLUSTER_WAIT", "1"],
        ["--cluster-clear", "LKV_CLUSTER_CLEAR", "1"],
        ["--cluster-password-file", "LKV_CLUSTER_PASSWORD_FILE", file.path()],
        ["LKV_CLUSTER_PASSWORD", "LKV_CLUSTER_PASSWORD", SECRET],
        ["LKV_CLUSTER_USER", "LKV_CLUSTER_USER", SECRET],
    ] {
        let line = refused(2, &[], &[(variable, value)]);
        assert!(line.contains(flag) && line.contains("--cluster"), "{line}");
    }
    let unset = ["", "_WAIT", "_CLEAR", "_PASSWORD_FILE", "_PASSWORD", "_USER"];
    let mut program = command(&["--port", "0"]);
    program.envs(unset.map(|rest| (format!("LKV_CLUSTER{rest}"), "")));
    let process = Process::run(program);
    assert!(process.greeting[1].contains("engine: memory"), "{:?}", process.greeting);
    let (_, log) = process.stop();
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn a_bad_list_of_nodes_is_bad_usage() {
    for (nodes, mentioned) in [
        ("", "--cluster"),
        (" , ", "--cluster"),
        ("127.0.0.1:x", "127.0.0.1:x"),
        ("127.0.0.1:1,::1", "::1"),
        ("redis://127.0.0.1:1", "redis://127.0.0.1:1"),
        ("127.0.0.1:", "127.0.0.1:"),
    ] {
        let line = refused(2, &["--cluster", nodes], &[]);
        assert!(line.contains(mentioned), "{line}");
        if !nodes.is_empty() {
            assert_eq!(refused(2, &[], &[("LKV_CLUSTER", nodes)]), line);
        }
    }
    // A password is not shown again.
    let with_password = format!("ann:{SECRET}@127.0.0.1:1");
    for line in [
        refused(2, &["--cluster", &with_password], &[]),
        refused(2, &[], &[("LKV_CLUSTER", &with_password)]),
    ] {
        assert!(line.contains("LKV_CLUSTER_PASSWORD"), "{line}");
    }
}

#[test]
fn a_login_that_is_given_twice_or_by_half_is_bad_usage() {
    let (alone, with_user) =
        (PasswordFile::new(SECRET), PasswordFile::new(&format!("ann\n{SECRET}\n")));
    let plain = ["--cluster", "127.0.0.1:1"];
    let of_file = |file| [&plain[..], &["--cluster-password-file", file]].concat();
    let (alone, with_user) = (of_file(alone.path()), of_file(with_user.path()));
    let (password, user) = (("LKV_CLUSTER_PASSWORD", OTHER), ("LKV_CLUSTER_USER", "bob"));
    for (arguments, environment, mentioned) in [
        (&*alone, &[password][..], "LKV_CLUSTER_PASSWORD"),
        (&with_user, &[user], "LKV_CLUSTER_USER"),
        (&plain, &[user], "LKV_CLUSTER_PASSWORD"),
    ] {
        let line = refused(2, arguments, environment);
        assert!(line.contains(mentioned) && line.contains("--cluster-password-file"), "{line}");
    }
}

#[test]
fn a_bad_file_is_one_line_with_its_name() {
    for text in ["", "\n", &format!("ann\n{SECRET}\n{OTHER}\n")] {
        let file = PasswordFile::new(text);
        let flags = ["--cluster", "127.0.0.1:1", "--cluster-password-file", file.path()];
        let line = refused(2, &flags, &[]);
        assert!(line.contains(file.path()), "{line}");
        let of_variable = refused(2, &flags[..2], &[("LKV_CLUSTER_PASSWORD_FILE", file.path())]);
        assert_eq!(of_variable, line);
    }
    let absent = ["--cluster", "127.0.0.1:1", "--cluster-password-file", "/nowhere/at/all"];
    assert!(refused(2, &absent, &[]).contains("/nowhere/at/all"));
}

#[test]
fn a_file_that_everyone_may_read_is_warned_of_once() {
    let file = PasswordFile::new(SECRET);
    let (_socket, closed) = closed();
    let closed = closed.to_string();
    let flags = ["--cluster", &closed, "--cluster-password-file", file.path()];
    refused(1, &flags, &[]);
    file.set_mode(0o644);
    let (code, lines) = ended(&flags, &[]);
    assert_eq!((code, lines.len()), (Some(1), 2), "{lines:?}");
    assert!(lines[0].contains("WARN") && lines[0].contains(file.path()), "{lines:?}");
}

#[test]
fn neither_help_nor_the_log_shows_a_secret() {
    let mut help = command(&["--help"]);
    help.env("LKV_CLUSTER", format!("ann:{SECRET}@127.0.0.1:1"));
    help.env("LKV_CLUSTER_PASSWORD", SECRET).env("LKV_CLUSTER_PASSWORD_FILE", SECRET);
    help.env("LKV_CLUSTER_USER", SECRET);
    let text = String::from_utf8(output(help).stdout).expect("text");
    for word in [
        "--cluster",
        "LKV_CLUSTER",
        "--cluster-wait",
        "LKV_CLUSTER_WAIT",
        "--cluster-clear",
        "LKV_CLUSTER_CLEAR",
        "--cluster-password-file",
        "LKV_CLUSTER_PASSWORD_FILE",
        "LKV_CLUSTER_USER",
        "LKV_CLUSTER_PASSWORD",
    ] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    assert!(!text.contains(SECRET), "{text}");

    let (_socket, closed) = closed();
    let closed = closed.to_string();
    let login = [("LKV_CLUSTER_USER", "ann"), ("LKV_CLUSTER_PASSWORD", SECRET)];
    let (code, _) = ended(&["--cluster", &closed, "--log-level", "trace"], &login);
    assert_eq!(code, Some(1));
}

#[test]
fn a_variable_that_is_of_no_flag_is_told() {
    let (_socket, closed) = closed();
    let closed = closed.to_string();
    let unknown = [("LKV_CLUSTER_PASSWROD", SECRET), ("LKV_CLUSTER_PASSWORD", OTHER)];
    let (code, lines) = ended(&["--cluster", &closed], &unknown);
    assert_eq!((code, lines.len()), (Some(1), 2), "{lines:?}");
    assert!(lines[0].ends_with("flag: LKV_CLUSTER_PASSWROD"), "{lines:?}");
}

#[test]
fn where_nobody_listens_it_is_one_line_and_1() {
    let (sockets, addrs): (Vec<_>, Vec<_>) = [closed(), closed()].into_iter().unzip();
    let [one, other] = [addrs[0], addrs[1]].map(|addr| addr.to_string());
    let line = refused(1, &["--cluster", &format!("{one},{other}")], &[]);
    for mentioned in ["cannot reach the cluster", &one, &other, "refused"] {
        assert!(line.contains(mentioned), "{mentioned:?} is not in {line}");
    }
    drop(sockets);
    // A name that is set aside for none (RFC 6761).
    let line = refused(1, &["--cluster", "node.invalid:6379"], &[]);
    assert!(line.contains("node.invalid:6379"), "{line}");
}

/// A node that does this with each connection.
fn node(answer: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let addr = listener.local_addr().expect("a bound socket");
    // It lives as long as the test.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.expect("somebody connects"), answer.clone());
            thread::spawn(move || answer(stream));
        }
    });
    addr
}

/// A node that reads and says nothing.
fn silent() -> SocketAddr {
    node(|mut stream| {
        // Until the other side leaves.
        io::copy(&mut stream, &mut io::sink()).ok();
    })
}

/// A node that gives these lines of information.
fn with_info(lines: &'static str) -> SocketAddr {
    node(move |mut stream| {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            let text =
                String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).to_uppercase();
            let reply = format!("${}\r\n{lines}\r\n", lines.len());
            let replies = reply.repeat(text.matches("INFO").count());
            if stream.write_all(replies.as_bytes()).is_err() {
                break;
            }
        }
    })
}

/// Its end comes within the patience of every test.
#[test]
fn nodes_that_never_answer_are_one_line_and_1() {
    let [one, other] = [silent(), silent()].map(|addr| addr.to_string());
    let line = refused(1, &["--cluster", &format!("{one},{other}")], &[]);
    assert!(line.contains(&one) && line.contains(&other), "{line}");
}

#[test]
fn a_node_that_speaks_something_else_is_one_line_and_1() {
    let web = node(|mut stream| {
        let mut bytes = [0; 4096];
        let Ok(1..) = stream.read(&mut bytes) else { return };
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").ok();
    });
    let line = refused(1, &["--cluster", &web.to_string()], &[]);
    assert!(line.contains(&web.to_string()), "{line}");
}

#[test]
fn an_old_version_is_one_line_and_1() {
    let old = with_info("redis_version:6.2.14\r\nredis_mode:cluster\r\ncluster_enabled:1\r\n");
    let line = refused(1, &["--cluster", &old.to_string()], &[]);
    for mentioned in [&*old.to_string(), "6.2.14", "7.0"] {
        assert!(line.contains(mentioned), "{mentioned} is not in {line}");
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_cluster() {
    for (name, code) in [("TERM", 0), ("HUP", 129)] {
        let (told, asked) = crossbeam_channel::unbounded();
        // More than can be asked before the signal is there.
        let nodes = (0..100).map(|_| {
            let told = told.clone();
            let addr = node(move |mut stream| {
                told.send(()).ok();
                io::copy(&mut stream, &mut io::sink()).ok();
            });
            addr.to_string()
        });
        let nodes = nodes.collect::<Vec<_>>().join(",");
        let mut program = command(&["--port", "0", "--cluster", &nodes]);
        let program = program.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = program.spawn().expect("the program runs");
        asked.recv_timeout(PATIENCE).expect("a node is asked");
        signal(&child, name);
        let ended = end_of(child);
        let complaint = String::from_utf8(ended.stderr).expect("text");
        assert_eq!((ended.status.code(), &*complaint), (Some(code), ""), "SIG{name}");
    }
}

/// A real node, which is killed in the end.
struct Server {
    child: Child,
    addr: SocketAddr,
    _directory: TempDir,
}

impl Server {
    /// Starts one. Its bus may listen 10,000 ports higher.
    fn start(options: &[&str]) -> Self {
        for _ in 0..20 {
            let directory = tempfile::tempdir().expect("a directory");
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let addr = listener.local_addr().expect("a bound socket");
            drop(listener);
            let Some(bus) = addr.port().checked_add(10_000) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, bus)).is_err() {
                continue;
            }
            let port = addr.port().to_string();
            let mut server = Command::new("redis-server");
            server.args(["--bind", "127.0.0.1", "--save", "", "--port", &port, "--dir"]);
            server.arg(directory.path()).args(options).stdout(Stdio::null());
            let child = server.spawn().expect("the server runs");
            let mut this = Self { child, addr, _directory: directory };
            let mut is_up = false;
            wait_until("the server answers or has ended", || {
                is_up = this.try_tell("PING").is_ok_and(|reply| !reply.is_empty());
                is_up || this.child.try_wait().expect("a child can be waited for").is_some()
            });
            // Another may have taken one of its ports.
            if is_up {
                return this;
            }
        }
        panic!("no two ports are free");
    }

    /// Starts a cluster of one master.
    fn cluster() -> Self {
        let server = Self::start(&["--cluster-enabled", "yes"]);
        server.take_all_slots("");
        server
    }

    /// Makes it a cluster of its own, behind this line to log in.
    fn take_all_slots(&self, login: &str) {
        wait_until("the cluster is well", || {
            self.tell(&format!("{login}CLUSTER ADDSLOTSRANGE 0 16383"));
            self.tell(&format!("{login}CLUSTER INFO")).contains("cluster_state:ok")
        });
    }

    /// Its answers to lines of commands.
    fn tell(&self, lines: &str) -> String {
        self.try_tell(lines).expect("it answers")
    }

    fn try_tell(&self, lines: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{lines}\r\nQUIT\r\n").as_bytes())?;
        let mut replies = String::new();
        stream.read_to_string(&mut replies)?;
        Ok(replies)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().expect("a child can be waited for");
    }
}

#[test]
fn a_server_without_cluster_mode_is_one_line_and_1() {
    if !there_is("redis-server") {
        return;
    }
    let server = Server::start(&[]);
    let line = refused(1, &["--cluster", &server.addr.to_string()], &[]);
    let mentioned = [server.addr.to_string(), "cluster".to_owned()];
    assert!(mentioned.iter().all(|word| line.contains(word)), "{line}");
}

/// As a node that has too many clients, which says so or is too quick to be heard.
#[test]
fn reasons_that_take_turns_are_told_once_each() {
    static LINKS: AtomicUsize = AtomicUsize::new(0);
    let addr = node(|mut stream| {
        let port = stream.local_addr().expect("it is connected").port();
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default());
            let replies = if text.contains("INFO") {
                "$41\r\nredis_version:7.0.15\r\ncluster_enabled:1\r\n\r\n".repeat(2)
            } else if text.contains("SLOTS") {
                let owner = format!("*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$2\r\nid\r\n");
                let map = format!("*1\r\n*3\r\n:0\r\n:16383\r\n{owner}");
                format!("{map}$0\r\n\r\n*0\r\n")
            } else if LINKS.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                stream.write_all(b"-ERR max number of clients reached\r\n").ok();
                return;
            } else {
                return;
            };
            if stream.write_all(replies.as_bytes()).is_err() {
                return;
            }
        }
    });
    let process = Process::start(&["--cluster", &addr.to_string()]);
    wait_until("it has tried often", || LINKS.load(Ordering::SeqCst) >= 12);
    let (code, log) = process.stop();
    assert_eq!(code, Some(0), "{log}");
    let told = log.lines().filter_map(|line| line.split_once("no connection to "));
    let mut reasons: Vec<&str> = told.map(|(_, reason)| reason).collect();
    reasons.sort_unstable();
    assert!(reasons.contains(&&*format!("{addr}: ERR max number of clients reached")), "{log}");
    let all = reasons.len();
    reasons.dedup();
    assert_eq!(reasons.len(), all, "{log}");
}

/// A node that was started and has joined no cluster yet, say: nothing else tells why nothing
/// is done.
#[test]
fn a_cluster_without_slots_is_told_of_once() {
    if !there_is("redis-server") {
        return;
    }
    let server = Server::start(&["--cluster-enabled", "yes"]);
    let process = Process::start(&["--cluster", &server.addr.to_string()]);
    // It asks for the map again and again meanwhile.
    assert_eq!(process.connect().get("/kv/a").status(), 503);
    let (code, log) = process.stop();
    assert_eq!(code, Some(0), "{log}");
    let line = format!(
        "[WARN] no node tells where all slots are: {} knows no node for some of them",
        server.addr
    );
    assert_eq!(log.matches(&line).count(), 1, "{log}");
}

/// A cluster of one master, for users with a password.
#[test]
fn a_login_lets_a_front_in_and_a_wrong_one_is_one_line_and_1() {
    if !there_is("redis-server") {
        return;
    }
    let password = format!(">{OTHER}");
    let ann = ["--user", "ann", "on", &password, "~*", "&*", "+@all"];
    let options = [&["--cluster-enabled", "yes", "--requirepass", SECRET], &ann[..]].concat();
    let server = Server::start(&options);
    server.take_all_slots(&format!("AUTH {SECRET}\r\n"));
    let addr = server.addr.to_string();
    let (user, password) = ("LKV_CLUSTER_USER", "LKV_CLUSTER_PASSWORD");
    for (environment, mentioned) in [
        (&[][..], "NOAUTH"),
        (&[(password, "another")], "WRONGPASS"),
        (&[(password, OTHER)], "WRONGPASS"),
        (&[(user, "ann"), (password, SECRET)], "WRONGPASS"),
        (&[(user, "bob"), (password, OTHER)], "WRONGPASS"),
    ] {
        let line = refused(1, &["--cluster", &addr], environment);
        assert!(line.contains(&addr) && line.contains(mentioned), "{environment:?}: {line}");
    }

    let alone = PasswordFile::new(&format!("{SECRET}\n"));
    let with_user = PasswordFile::new(&format!("ann\n{OTHER}\n"));
    let file = "LKV_CLUSTER_PASSWORD_FILE";
    for environment in [
        &[(password, SECRET)][..],
        &[(user, "ann"), (password, OTHER)],
        &[(file, alone.path())],
        &[(file, with_user.path())],
    ] {
        let mut program = command(&["--port", "0", "--cluster", &addr, "--log-level", "trace"]);
        program.envs(environment.iter().copied());
        let process = Process::run(program);
        assert!(process.greeting[1].contains("engine: cluster"), "{:?}", process.greeting);
        wait_until("it is ready", || process.connect().get("/readyz").status() == 200);
        let (code, log) = process.stop();
        assert_eq!(code, Some(0), "{log}");
        assert!(!log.contains(SECRET) && !log.contains(OTHER), "{log}");
    }
}

#[test]
fn a_cluster_that_is_gone_is_not_ready_and_holds_no_end() {
    if !there_is("redis-server") {
        return;
    }
    let server = Server::cluster();
    let process = Process::start(&["--cluster", &server.addr.to_string()]);
    wait_until("it is ready", || process.connect().get("/readyz").status() == 200);
    drop(server);
    wait_until("it is not ready", || process.connect().get("/readyz").status() == 503);
    let failed = "[-]storage failed: the cluster does not answer\n[+]shutdown ok\n\
                  readyz check failed\n";
    assert_eq!(process.connect().get("/readyz?verbose").text(), failed);
    let health = process.connect().get("/healthz");
    assert_eq!((health.status(), health.header("Retry-After")), (503, Some("1")));
    assert_eq!(process.connect().get("/livez").status(), 200);
    let mut waiting = process.connect();
    waiting.send(get_head("/kv/a"));
    wait_until("it is taken", || process.has_taken_everything());
    process.signal("TERM");
    assert_eq!(waiting.response().status(), 503);
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn what_was_taken_is_answered_before_the_end_whatever_the_node_does() {
    if !there_is("redis-server") {
        return;
    }
    for (goes_on, statuses) in [(true, [200, 503, 504]), (false, [503, 504, 504])] {
        let server = Server::cluster();
        let process = Process::start(&["--cluster", &server.addr.to_string()]);
        wait_until("it writes", || process.connect().put("/kv/a", b"x").status() == 200);
        signal(&server.child, "STOP");
        let mut taken = process.connect();
        taken.send(put_head("/kv/b", 1) + "x");
        wait_until("it is taken", || process.has_taken_everything());
        process.signal("TERM");
        wait_until("it stops listening", || !accepts(process.addr()));
        if goes_on {
            signal(&server.child, "CONT");
        }
        let status = taken.response().status();
        assert!(statuses.contains(&status), "{status}");
        let (code, log) = process.end();
        assert_eq!(code, Some(0), "{log}");
    }
}
