//! Counts while the cluster changes.

use super::config;
use super::fake::{Answer, Fake, until};
use crate::storage::cluster::Cluster;
use crate::storage::cluster::network::router::Router;
use crate::storage::{Effect, Error, Op, Range, Storage as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

fn count(front: &Cluster) -> Result<Effect, Error> {
    let (tell, told) = channel();
    let count = Op::Count(Range::default().into());
    front.submit(count, Box::new(move |outcome| tell.send(outcome).unwrap_or_default()));
    told.recv_timeout(Duration::from_secs(60)).unwrap()
}

/// A reply to `SCAN` that is the last one.
fn keys(name: &str) -> Answer {
    let key = format!("${}\r\n{name}\r\n", name.len());
    Answer::Bytes(format!("*2\r\n$1\r\n0\r\n*1\r\n{key}").into())
}

/// As in a large cluster that gets another master: it takes minutes, and each list seconds.
#[test]
fn keys_are_counted_while_slots_move_all_the_time() {
    let nodes = Arc::new([Fake::start(), Fake::start()]);
    let ports = [nodes[0].port, nodes[1].port];
    let epoch = AtomicU64::new(1);
    let move_a_slot = move |nodes: &[Fake; 2]| {
        let epoch = epoch.fetch_add(1, Ordering::SeqCst);
        let end = if epoch.is_multiple_of(2) { 100 } else { 200 };
        let map = [(0, end, ports[0], epoch), (end + 1, 16383, ports[1], epoch)];
        for node in nodes {
            node.tell(&map);
        }
    };
    move_a_slot(&nodes);
    let router: Arc<OnceLock<Weak<Router>>> = Arc::default();
    let (its, all) = (Arc::clone(&router), Arc::downgrade(&nodes));
    nodes[0].on("SCAN", move |_| {
        let (router, nodes) = (its.get()?.upgrade()?, all.upgrade()?);
        let topology = router.topology();
        move_a_slot(&nodes);
        until("the slot has moved", || {
            router.refresh();
            router.topology() != topology
        });
        Some(keys("a"))
    });
    nodes[1].on("SCAN", |_| Some(keys("b")));
    let front = Cluster::connect(&config(&nodes[0])).unwrap();
    router.set(Arc::downgrade(&front.0.router)).unwrap();
    assert_eq!(count(&front), Ok(Effect::Counted(2, None)));
}

#[test]
fn a_count_waits_for_the_map_as_long_as_any_request() {
    let fake = Fake::start();
    fake.on("SCAN", |_| Some(keys("a")));
    fake.tell(&[]);
    let front = Cluster::connect(&config(&fake)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(1500));
            fake.tell(&[(0, 16383, fake.port, 1)]);
            front.0.router.refresh();
        });
        assert_eq!(count(&front), Ok(Effect::Counted(1, None)));
    });
}
