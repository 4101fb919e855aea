use super::*;
use std::net::{Ipv4Addr, TcpListener};

/// Connections of which there may be 12, or 8 beside 12 streams, and the way to add some.
fn connections() -> (Connections, impl Fn(&Connections) -> Arc<Connection>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let add = move |connections: &Connections| {
        let socket = Socket::new(listener.try_clone().expect("a descriptor").into());
        connections.add(socket, SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), 0)
    };
    (Connections::within(Room::within(39, 100, None, Some(12))), add)
}

fn fill(connections: &Connections) -> (usize, usize) {
    let Fill { count, max } = connections.fill();
    assert_eq!(connections.count(), connections.all().len());
    (count, max)
}

#[test]
fn a_stream_counts_as_one_once_tiny_http_has_released_it() {
    for is_released_first in [false, true] {
        let (connections, add) = connections();
        let (one, other) = (add(&connections), add(&connections));
        assert_eq!(fill(&connections), (2, 13));
        for step in [is_released_first, !is_released_first] {
            assert!(!one.is_stream());
            // Each may come twice.
            for _ in 0..2 {
                if step {
                    connections.release(&one);
                } else {
                    assert!(connections.admit_stream(&one));
                }
            }
        }
        assert!(one.is_stream() && !other.is_stream());
        assert_eq!(fill(&connections), (1, 12));
        assert_eq!(connections.count(), 2);
        connections.end(&one);
        connections.release(&one);
        assert!(connections.admit_stream(&one), "nobody is there to be refused");
        assert_eq!(fill(&connections), (1, 13));
        connections.end(&other);
        assert_eq!(fill(&connections), (0, 13));
    }
}

#[test]
fn no_more_streams_are_admitted_than_may_be() {
    let (connections, add) = connections();
    let streams: Vec<_> = (0..12).map(|_| add(&connections)).collect();
    for stream in &streams {
        assert!(connections.admit_stream(stream));
    }
    let another = add(&connections);
    assert!(!connections.admit_stream(&another));
    assert_eq!(fill(&connections), (13, 13));
    assert!(!connections.wait_for_room(Duration::ZERO));
    for stream in &streams {
        connections.release(stream);
    }
    assert_eq!(fill(&connections), (1, 9));
    assert!(connections.wait_for_room(Duration::ZERO));
    assert!(!connections.admit_stream(&another), "they are still there");
    connections.end(&streams[0]);
    assert!(connections.admit_stream(&another));
}

#[test]
fn a_connection_that_becomes_a_stream_makes_room() {
    let (connections, add) = connections();
    let all: Vec<_> = (0..13).map(|_| add(&connections)).collect();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| connections.wait_for_room(Duration::from_secs(25)));
        for connection in all.iter().take(2) {
            assert!(connections.admit_stream(connection));
            connections.release(connection);
        }
        assert!(waiting.join().expect("it does not panic"));
    });
}
