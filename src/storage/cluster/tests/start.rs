//! The start of a front, and its health.

use super::*;
use crate::storage::cluster::config::ConnectError;
use std::net::TcpListener;

fn refusal(fake: &Fake) -> String {
    Router::start(&config(fake), SCRIPTS).err().unwrap().to_string()
}

#[test]
fn no_seed_no_front() {
    let fake = Fake::start();
    let config = config(&fake);
    drop(fake);
    assert!(matches!(Router::start(&config, SCRIPTS), Err(ConnectError::NoNode(_))));
}

#[test]
fn a_seed_that_never_answers_is_none() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seed = Seed { host: "127.0.0.1".to_owned(), port };
    let alone = Config { seeds: vec![seed.clone()], ..Config::default() };
    assert!(matches!(Router::start(&alone, SCRIPTS), Err(ConnectError::NoNode(_))));
    // The next one is asked.
    let fake = Fake::start();
    let seeds = vec![seed, config(&fake).seeds.remove(0)];
    let router = Router::start(&Config { seeds, ..Config::default() }, SCRIPTS).unwrap();
    until("it is there", || router.check().is_ok());
}

#[test]
fn an_unfit_seed_is_refused_in_a_line() {
    let fake = Fake::start();
    let name = format!("127.0.0.1:{}", fake.port);
    fake.on("INFO", |_| Some(text("redis_version:6.2.14\r\ncluster_enabled:1\r\n")));
    assert_eq!(refusal(&fake), format!("{name} is of version 6.2.14; the least is 7.0"));
    fake.on("INFO", |_| Some(text("redis_version:7.2.4\r\ncluster_enabled:0\r\n")));
    assert_eq!(refusal(&fake), format!("{name} is not part of a cluster"));
    fake.script("INFO", vec![line("-NOAUTH Authentication required.")]);
    assert_eq!(refusal(&fake), format!("{name} refuses: NOAUTH Authentication required."));
    fake.script("INFO", vec![line("+")]);
    assert_eq!(refusal(&fake), format!("{name} is of version unknown; the least is 7.0"));
}

/// As where its user may do all but that.
#[test]
fn a_seed_that_refuses_to_tell_the_map_is_refused_in_a_line() {
    let (fake, other) = (Fake::start(), Fake::start());
    let name = format!("127.0.0.1:{}", fake.port);
    let text = "NOPERM User front has no permissions to run the 'cluster|slots' command";
    fake.script("CLUSTER", vec![line(&format!("-{text}"))]);
    assert_eq!(refusal(&fake), format!("{name} refuses: {text}"));
    // The next one is asked.
    let seeds = [&fake, &other].map(|fake| config(fake).seeds.remove(0)).into();
    let router = Router::start(&Config { seeds, ..Config::default() }, SCRIPTS).unwrap();
    until("it is there", || router.check().is_ok());
}

#[test]
fn a_password_is_sent_first() {
    let fake = Fake::start();
    let config = Config {
        user: Some("front".to_owned()),
        password: Some("secret".to_owned()),
        ..config(&fake)
    };
    let router = Router::start(&config, SCRIPTS).unwrap();
    assert_eq!(outcome(&send(&router, get(), false)), value(b"value"));
    let auth: Vec<Vec<u8>> = ["AUTH", "front", "secret"].map(Vec::from).into();
    assert!(fake.asked("AUTH").iter().all(|words| *words == auth));
    fake.script("AUTH", vec![line("-WRONGPASS invalid username-password pair")]);
    assert!(matches!(Router::start(&config, SCRIPTS), Err(ConnectError::Refused(..))));
}

#[test]
fn a_password_is_in_no_line() {
    let fake = Fake::start();
    let name = format!("127.0.0.1:{}", fake.port);
    let password = Some("s3cr3t".to_owned());
    let config = Config { user: Some("front".to_owned()), password, ..config(&fake) };
    let refusals = [
        (
            "-ERR unknown command 'AUTH', with args beginning with: 'front' 's3cr3t' ",
            "it does not take the user and the password (ERR)",
        ),
        (
            "-ERR unknown command `AUTH` of `front`, `s3cr3t`",
            "it does not take the user and the password (ERR)",
        ),
        ("-s3cr3t is wrong", "it does not take the user and the password"),
        (
            "-WRONGPASS invalid username-password pair or user is disabled.",
            "it does not take the user and the password (WRONGPASS)",
        ),
        (
            "-ERR AUTH <password> called without any password configured for the default user.",
            "it asks for no password",
        ),
    ];
    for (refusal, shown) in refusals {
        fake.script("AUTH", vec![line(refusal)]);
        let text = Router::start(&config, SCRIPTS).err().unwrap().to_string();
        assert_eq!(text, format!("{name} refuses: {shown}"));
    }
}

#[test]
fn arguments_that_a_node_repeats_are_not_shown() {
    let fake = Fake::start();
    let name = format!("127.0.0.1:{}", fake.port);
    let text = "-ERR unknown command 'INFO', with args beginning with: 'a key' 'a value' ";
    fake.script("INFO", vec![line(text)]);
    assert_eq!(refusal(&fake), format!("{name} refuses: ERR unknown command 'INFO'"));
}

#[test]
fn a_node_that_is_silent_is_said_to_be_so() {
    let fake = Fake::start();
    fake.script("INFO", vec![Answer::Silence]);
    let name = format!("127.0.0.1:{}", fake.port);
    let text = format!("no node answers: {name}: it does not answer in time");
    assert_eq!(refusal(&fake), text);
    fake.script("INFO", vec![Answer::Close(Vec::new())]);
    let text = format!("no node answers: {name}: it has ended the connection");
    assert_eq!(refusal(&fake), text);
    let reason = "ERR max number of clients reached";
    fake.script("INFO", vec![Answer::Close(format!("-{reason}\r\n").into())]);
    assert_eq!(refusal(&fake), format!("no node answers: {name}: {reason}"));
}

#[test]
fn a_cluster_that_has_no_map_yet_is_waited_for() {
    let fake = Fake::start();
    fake.tell(&[]);
    let router = front(&fake);
    assert_eq!(router.check(), Err(Error::NotDone(Hindrance::ClusterDown)));
    let told = send(&router, get(), false);
    fake.tell(&[(0, 16383, fake.port, 1)]);
    assert_eq!(outcome(&told), value(b"value"));
    until("it is there", || router.check().is_ok());
}

#[test]
fn one_master_of_two_is_enough_to_be_there() {
    let (one, other) = (Fake::start(), Fake::start());
    one.tell(&[(0, 8191, one.port, 1), (8192, 16383, other.port, 2)]);
    let router = front(&one);
    until("both are there", || router.masters().iter().all(|node| node.is_connected()));
    drop(other);
    until("one is lost", || router.masters().iter().any(|node| !node.is_connected()));
    assert_eq!(router.check(), Ok(()));
    drop(one);
    until("both are lost", || router.check().is_err());
}

#[test]
fn slots_without_a_node_are_none() {
    let fake = Fake::start();
    fake.tell(&[(0, 16000, fake.port, 1)]);
    assert_eq!(front(&fake).check(), Err(Error::NotDone(Hindrance::ClusterDown)));
}
