//! Who is let in, as the process is told: the token of the environment, the file of
//! tokens and its changes, and addresses that other machines can reach.

#![cfg(unix)]

use crate::support::http::{Response, wait_until};
use crate::support::process::{Process, command, output};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const TOKEN: &str = "correct-horse-battery";
const OTHER: &str = "staple-of-a-sentence";

/// A directory for a file of tokens.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file for its owner alone.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        path
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

fn start(tokens: &Path) -> Process {
    Process::start(&["--token-file", text(tokens)])
}

/// Reads an absent key with a token; 404 if it is let in.
fn ask(process: &Process, token: &str) -> Response {
    let field = format!("Authorization: Bearer {token}");
    process.connect().ask("GET", "/kv/absent", &[&field], b"")
}

#[track_caller]
fn assert_let_in(process: &Process, token: &str) {
    assert_eq!(ask(process, token).status(), 404, "{token} is let in; {}", process.log());
}

#[track_caller]
fn wait_until_let_in(process: &Process, token: &str) {
    wait_until("a token is let in", || ask(process, token).status() == 404);
}

/// Runs the program to its end, which is bad usage, and gives the line that it complains
/// with.
#[track_caller]
fn refused(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut program = command(&[&["--port", "0"], arguments].concat());
    program.envs(environment.iter().copied());
    let output = output(program);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{arguments:?} {environment:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?} {environment:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for token in [TOKEN, OTHER] {
        assert!(!stderr.contains(token), "{stderr}");
    }
    stderr
}

#[test]
fn a_bad_file_is_one_line_with_its_name_and_the_number_of_its_line() {
    let place = Place::new();
    let too_long = "#".repeat((1 << 20) + 1);
    let cases: [(&[u8], &str); 9] = [
        (b"", "line 1"),
        (b"# none\n\n", "line "),
        (b"short", "line 1"),
        (b"# the first\n\ncorrect-horse-battery rx\n", "line 3"),
        (b"correct-horse-battery\ncorrect-horse-battery ro\n", "line 2"),
        (b"correct-horse-battery ro\nsha256:abc rw\n", "line 2"),
        (b"correct-horse-battery ro a%zz\n", "line 1"),
        (b"correct-horse-battery\n\n# \xff\n", "line 3"),
        (too_long.as_bytes(), "1 MiB"),
    ];
    for (number, (bytes, mentioned)) in cases.into_iter().enumerate() {
        let path = place.write(&format!("tokens-{number}"), bytes);
        let line = refused(&["--token-file", text(&path)], &[]);
        assert!(line.contains(text(&path)) && line.contains(mentioned), "{number}: {line}");
        let of_variable = refused(&[], &[("LKV_TOKEN_FILE", text(&path))]);
        assert_eq!(of_variable, line);
    }
    for path in [place.path("absent"), place.directory.path().to_owned()] {
        let line = refused(&["--token-file", text(&path)], &[]);
        assert!(line.contains(text(&path)), "{line}");
    }
    for arguments in [&["--token-file", ""][..], &["--token-file"]] {
        assert!(refused(arguments, &[]).contains("--token-file"));
    }
}

#[test]
fn a_bad_token_of_the_environment_is_one_line() {
    let spaced = format!("{TOKEN} ro");
    let long = "x".repeat(2000);
    for token in ["short", "fifteen-letters", &spaced, &long, "correct-horse-b\u{e4}ttery"] {
        let line = refused(&[], &[("LKV_TOKEN", token)]);
        assert!(line.contains("LKV_TOKEN") && !line.contains(token), "{line}");
    }
}

#[test]
fn what_contradicts_itself_is_one_line() {
    let place = Place::new();
    let path = place.write("tokens", TOKEN);
    let file = ["--token-file", text(&path)];
    let variable = [("LKV_TOKEN", TOKEN)];
    let cases = [
        (refused(&file, &variable), ["LKV_TOKEN", "--token-file"]),
        (refused(&["--no-auth"], &variable), ["--no-auth", "LKV_TOKEN"]),
        (refused(&[&file[..], &["--no-auth"]].concat(), &[]), ["--no-auth", "--token-file"]),
        (refused(&file, &[("LKV_NO_AUTH", "true")]), ["--no-auth", "--token-file"]),
        (refused(&["--cors-origin", "*"], &[]), ["--cors-origin", "LKV_TOKEN"]),
        (refused(&[], &[("LKV_CORS_ORIGIN", "http://a.test *")]), ["--cors-origin", "LKV_TOKEN"]),
        (refused(&[], &[("LKV_NO_AUTH", "perhaps")]), ["--no-auth", "perhaps"]),
    ];
    for (line, mentioned) in cases {
        assert!(mentioned.iter().all(|text| line.contains(text)), "{mentioned:?} {line}");
    }
}

#[test]
fn where_others_reach_it_a_store_wants_a_token_or_to_be_told() {
    let place = Place::new();
    let store = place.path("store");
    for host in ["0.0.0.0", "192.0.2.1", "::ffff:192.0.2.1", "[::]"] {
        let line = refused(&["--host", host, "--working-dir", text(&store)], &[]);
        for way in ["LKV_TOKEN", "--token-file", "--no-auth"] {
            assert!(line.contains(way), "{line}");
        }
    }
    refused(&[], &[("LKV_HOST", "0.0.0.0"), ("LKV_TOKEN", ""), ("LKV_NO_AUTH", "false")]);
    assert!(!store.exists(), "nothing is opened before");
    for host in ["127.0.0.2", "localhost", "::ffff:127.0.0.1"] {
        assert_eq!(Process::start(&["--host", host]).stop().0, Some(0), "{host}");
    }

    let warnings = |process: Process| {
        let (code, log) = process.stop();
        assert_eq!(code, Some(0));
        log.lines().filter(|line| line.contains("WARN")).count()
    };
    let program = |variable| {
        let mut program = command(&["--port", "0", "--host", "0.0.0.0"]);
        program.env(variable, if variable == "LKV_TOKEN" { TOKEN } else { "1" });
        program
    };
    assert_eq!(warnings(Process::run(program("LKV_NO_AUTH"))), 1);
    let process = Process::run(program("LKV_TOKEN"));
    assert_let_in(&process, TOKEN);
    assert_eq!(ask(&process, OTHER).status(), 401);
    assert_eq!(warnings(process), 0);
}

#[test]
fn with_a_token_a_store_is_called_by_any_name() {
    let mut program = command(&["--port", "0", "--allow-host", "a.test"]);
    program.env("LKV_TOKEN", TOKEN);
    let process = Process::run(program);
    process.wait_for_log("--allow-host means nothing");
    let request = format!(
        "GET /kv/absent HTTP/1.1\r\nHost: evil.test\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    );
    let mut connection = process.connect();
    connection.send(request);
    assert_eq!(connection.response().status(), 404);
    let (_, log) = process.stop();
    assert_eq!(log.lines().filter(|line| line.contains("WARN")).count(), 1, "{log}");
}

#[test]
fn an_empty_token_is_none() {
    let mut program = command(&["--port", "0"]);
    program.env("LKV_TOKEN", "").env("LKV_TOKEN_FILE", "").env("LKV_NO_AUTH", "");
    program.env("LKV_CORS_ORIGIN", "").env("LKV_ACCESS_LOG", "").env("LKV_LOG_FORMAT", "");
    let process = Process::run(program);
    assert_eq!(process.connect().get("/kv/absent").status(), 404);
    let (code, log) = process.stop();
    assert_eq!((code, log.contains("WARN")), (Some(0), false), "{log}");
}

#[test]
fn a_token_is_told_to_nobody() {
    let mut help = command(&["--help"]);
    help.env("LKV_TOKEN", TOKEN).env("LKV_TOKEN_FILE", OTHER);
    let help = String::from_utf8(output(help).stdout).expect("text");
    assert!(help.contains("LKV_TOKEN,") && help.contains("LKV_TOKEN_FILE]"), "{help}");
    assert!(!help.contains(TOKEN) && !help.contains(OTHER), "{help}");

    for format in ["text", "json"] {
        let flags = ["--log-level", "trace", "--access-log", "--log-format", format];
        let mut program = command(&[&["--port", "0"], &flags[..]].concat());
        program.env("LKV_TOKEN", TOKEN);
        let process = Process::run(program);
        assert_let_in(&process, TOKEN);
        assert_eq!(ask(&process, OTHER).status(), 401);
        let (_, log) = process.stop();
        assert!(log.contains("/kv/absent"), "{log}");
        assert!(!log.contains(TOKEN) && !log.contains(OTHER), "{log}");
    }
}

#[test]
fn a_changed_file_is_taken_up() {
    let place = Place::new();
    let path = place.write("tokens", format!("{TOKEN}\n"));
    let process = start(&path);
    let mut connection = process.connect();
    assert_eq!(connection.get("/kv/absent").status(), 401);
    assert_let_in(&process, TOKEN);

    // Its length and its times are as before.
    let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time");
    let same_length = TOKEN.to_uppercase();
    fs::write(&path, format!("{same_length}\n")).expect("a file can be written");
    let file = File::options().write(true).open(&path).expect("the file");
    file.set_modified(modified).expect("its time can be set");
    wait_until_let_in(&process, &same_length);
    assert_eq!(ask(&process, TOKEN).status(), 401);

    // By a rename over it.
    let next = place.write("next", format!("{OTHER} rw\n"));
    fs::rename(&next, &path).expect("it can be renamed");
    wait_until_let_in(&process, OTHER);
    assert_eq!(ask(&process, &same_length).status(), 401);
    // On the connection from before as well.
    assert_eq!(connection.get("/kv/absent").status(), 401);
    let field = format!("Authorization: Bearer {OTHER}");
    assert_eq!(connection.ask("GET", "/kv/absent", &[&field], b"").status(), 404);
    let (_, log) = process.stop();
    assert_eq!(log.matches("its tokens are those from now on").count(), 2, "{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

/// As Kubernetes has a secret: the file is a link into a directory that is a link.
#[test]
fn a_file_behind_links_is_taken_up_with_them() {
    let place = Place::new();
    for (version, token) in [("1", TOKEN), ("2", OTHER)] {
        fs::create_dir(place.path(version)).expect("a directory");
        place.write(&format!("{version}/tokens"), token);
    }
    symlink("1", place.path("data")).expect("a link");
    symlink("data/tokens", place.path("tokens")).expect("a link");
    let process = start(&place.path("tokens"));
    assert_let_in(&process, TOKEN);
    symlink("2", place.path("data.new")).expect("a link");
    fs::rename(place.path("data.new"), place.path("data")).expect("it can be renamed");
    wait_until_let_in(&process, OTHER);
    assert_eq!(ask(&process, TOKEN).status(), 401);
}

#[test]
fn of_a_bad_file_the_log_tells_once_and_the_tokens_from_before_stay() {
    let place = Place::new();
    fs::create_dir(place.path("secrets")).expect("a directory");
    let path = place.write("secrets/tokens", TOKEN);
    let process = start(&path);
    let count = |text: &str| process.log().matches(text).count();

    place.write("secrets/tokens", format!("{OTHER}\n# a comment\n{TOKEN} readonly\n"));
    process.wait_for_log("line 3");
    assert_let_in(&process, TOKEN);
    assert_eq!(ask(&process, OTHER).status(), 401);

    // Its directory goes away, and comes back with another file.
    fs::rename(place.path("secrets"), place.path("away")).expect("it can be renamed");
    process.wait_for_log("No such file");
    assert_let_in(&process, TOKEN);
    fs::create_dir(place.path("secrets")).expect("a directory");
    place.write("secrets/tokens", OTHER);
    wait_until_let_in(&process, OTHER);
    assert_eq!(ask(&process, TOKEN).status(), 401);

    assert_eq!((count("line 3"), count("No such file")), (1, 1), "{}", process.log());
    assert_eq!(count("the tokens from before stay"), 2, "{}", process.log());
    for token in [TOKEN, OTHER] {
        assert!(!process.log().contains(token), "{}", process.log());
    }
}

#[test]
fn a_file_that_everyone_may_read_is_warned_of_once() {
    let place = Place::new();
    let path = place.write("tokens", TOKEN);
    let (_, log) = start(&path).stop();
    assert!(!log.contains("WARN"), "{log}");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).expect("it is ours");
    let process = start(&path);
    fs::write(&path, OTHER).expect("a file can be written");
    wait_until_let_in(&process, OTHER);
    let (_, log) = process.stop();
    assert_eq!(log.matches("everyone on this machine may read it").count(), 1, "{log}");
}

/// As a shell has `<(...)`: there is nothing more to come.
#[test]
fn a_pipe_is_read_once() {
    let place = Place::new();
    let path = place.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo runs").success());
    let writer = std::thread::spawn({
        let path = path.clone();
        move || fs::write(path, TOKEN)
    });
    let process = start(&path);
    writer.join().expect("no panic").expect("it was read");
    assert_let_in(&process, TOKEN);
    let (code, log) = process.stop();
    assert_eq!((code, log.contains("ERROR")), (Some(0), false), "{log}");
}
